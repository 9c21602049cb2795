"""The texts of a feature that a language model reads: to name it, and to be judged by."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.ml.features.examples import Example
from mistudio.ml.features.feature_store import KEPT, FeatureStore
from mistudio.ml.features.labels.corpus import FIT, SCORE, halves
from mistudio.ml.features.sampling import hash_tokens

BEFORE, AFTER = 16, 15  # tokens around the one that a window is about: 32 with it
MARKED = 0.3  # share of the feature's maximum above which a token is marked
DECILES = 10
TO_NAME, TO_SCORE = 4, 5  # windows per decile
INACTIVE = 50
_SALT_INACTIVE = 0x696E61


class Window(NamedTuple):
    """A stretch of text around a token; `spans` are its parts with the feature's value on each, and
    `value` is that at the token itself (0 where the feature is not active)."""

    spans: tuple[tuple[str, float], ...]
    value: float
    peak: int
    """which span the window is about"""

    @property
    def text(self) -> str:
        """The plain text."""
        return "".join(text for text, _ in self.spans)

    def marked(self, least: float) -> str:
        """The text with every run of spans above `least` in <<…>>."""
        return mark(self.spans, [value > least for _, value in self.spans])


def mark(spans: tuple[tuple[str, float], ...], on: list[bool]) -> str:
    """The text with runs of the chosen spans in <<…>>."""
    out, inside = [], False
    for (text, _), here in zip(spans, on, strict=True):
        if here != inside:
            out.append("<<" if here else ">>")
            inside = here
        out.append(text)
    return "".join(out) + (">>" if inside else "")


class Windows(NamedTuple):
    """What is read of one feature. `to_name` is of the fitting half of the rows, strongest first;
    `active` and `inactive` of the other half. `least`: the value above which a token is marked."""

    to_name: list[Window]
    active: list[Window]
    inactive: list[Window]
    least: float


def choose_windows(store: FeatureStore, feature: int, seed: int) -> Windows:
    """Windows of a feature: `TO_NAME` and `TO_SCORE` of each decile of the active tokens of a half,
    from different rows as far as there are any, and `INACTIVE` in which it is never active."""
    tokens, values = store.entries(feature)
    row = tokens.astype(np.int64) // store.row_length
    half_R = halves(store.rows, seed)
    hashes = hash_tokens(seed, tokens, feature)
    least = MARKED * float(values.max(initial=0.0))
    named = _of_deciles(values, hashes, row, np.flatnonzero(half_R[row] == FIT), TO_NAME)
    scored = _of_deciles(values, hashes, row, np.flatnonzero(half_R[row] == SCORE), TO_SCORE)
    return Windows(
        [_window(store, feature, int(tokens[i])) for i in named],
        [_window(store, feature, int(tokens[i])) for i in scored],
        [_window(store, feature, t) for t in _inactive(store, feature, tokens, half_R, seed)],
        least,
    )


def _of_deciles(
    values: NDArray[np.float64],
    hashes: NDArray[np.uint64],
    row: NDArray[np.int64],
    inside: NDArray[np.int64],
    each: int,
) -> list[int]:
    """Entries of each decile by rank, strongest decile first; the smallest hashes of new rows."""
    order = inside[np.argsort(values[inside], kind="stable")]
    found: list[int] = []
    used: set[int] = set()
    for decile in reversed(range(DECILES)):
        part = order[decile * order.size // DECILES : (decile + 1) * order.size // DECILES]
        part = part[np.argsort(hashes[part], kind="stable")]
        fresh = [int(i) for i in part if int(row[i]) not in used]
        again = [int(i) for i in part if int(row[i]) in used]
        chosen: list[int] = []
        for index in (*fresh, *again):
            if len(chosen) == each:
                break
            if index in fresh and int(row[index]) in used:
                continue  # taken by this decile a moment ago
            chosen.append(index)
            used.add(int(row[index]))
        found += sorted(chosen, key=lambda i: -values[i])
    return found


def _inactive(
    store: FeatureStore,
    feature: int,
    tokens: NDArray[np.uint32],
    half_R: NDArray[np.uint8],
    seed: int,
) -> list[int]:
    """Kept tokens of the scoring half around which the feature is not active, by hash."""
    kept = np.flatnonzero(store.mask.reshape(-1) == KEPT)
    kept = kept[half_R[kept // store.row_length] == SCORE]
    if not kept.size:
        return []
    k = np.arange(40 * INACTIVE, dtype=np.uint32)
    drawn = kept[
        (hash_tokens(seed + _SALT_INACTIVE, k, feature) % np.uint64(kept.size)).astype(np.int64)
    ]
    active = tokens.astype(np.int64)
    low = np.maximum(drawn - BEFORE, drawn // store.row_length * store.row_length)
    high = np.minimum(drawn + AFTER + 1, (drawn // store.row_length + 1) * store.row_length)
    quiet = np.searchsorted(active, low) == np.searchsorted(active, high)
    return list(dict.fromkeys(drawn[quiet].tolist()))[:INACTIVE]


def _window(store: FeatureStore, feature: int, token: int) -> Window:
    row, position = divmod(token, store.row_length)
    return _plain(store.example_window(feature, row, position, before=BEFORE, after=AFTER))


def _plain(example: Example) -> Window:
    peaks = [i for i, piece in enumerate(example.pieces) if piece.peak]
    spans = tuple((piece.text, piece.value) for piece in example.pieces)
    return Window(spans, example.value, peaks[0] if peaks else 0)


def wrongly_marked(windows: list[Window], like: list[Window], least: float, seed: int) -> list[str]:
    """Texts with ⌈mean number of marked spans of `like`⌉ random spans marked."""
    counts = [sum(value > least for _, value in window.spans) for window in like]
    many = math.ceil(sum(counts) / len(counts)) if counts else 1
    found = []
    for number, window in enumerate(windows):
        generator = np.random.default_rng([seed, number, 0x66757A])
        size = len(window.spans)
        chosen = set(generator.choice(size, min(many, size), replace=False).tolist())
        found.append(mark(window.spans, [i in chosen for i in range(size)]))
    return found
