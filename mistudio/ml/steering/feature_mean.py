"""A feature's difference of means: mean activation where it fires, less the mean elsewhere.

The baseline that a feature's steering is held against: the same tokens, no SAE in the vector.
Tokens are those of the feature set's own text, with its masks; which of them are active is what
the harvest found.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mistudio.core.errors import InvalidInput
from mistudio.ml.activations.capture import Capture
from mistudio.ml.features.feature_store import KEPT, FeatureStore
from mistudio.ml.features.labels.auroc import auroc
from mistudio.ml.loading import LoadedModel
from mistudio.ml.steering.directions import EVERY

BATCH_TOKENS = 2048
LEAST_ACTIVE = 2  # tokens
MOST_PROJECTED = 200_000  # tokens of each kind kept for the AUROC


class FeatureMean(NamedTuple):
    """v float64 [D] and what it rests on.

    `is_whole`: every row of the feature set was read; else rows were drawn. `held_out` is the
    AUROC on every fourth row by a vector of the others, None where those lack either kind.
    """

    v_D: NDArray[np.float64]
    active: int
    rest: int
    rows: int
    is_whole: bool
    own: float
    held_out: float | None
    n_held_out: tuple[int, int]


def feature_mean(
    loaded: LoadedModel,
    layer: int,
    hook: str,
    store: FeatureStore,
    feature: int,
    *,
    most_tokens: int = 131_072,
    seed: int = 0,
    step: Callable[[float], None] = lambda _done: None,
) -> FeatureMean:
    """v = mean x on active tokens - mean x on the rest, read at `hook`, sums in float64.

    Of a text with more than `most_tokens`, half of the rows are drawn from those where the feature
    fires and half from all rows; only the latter give the rest, so that it stays what the text is
    like. Raises `InvalidInput` for a feature that fires too rarely.
    """
    tokens, _ = store.entries(feature)
    active_rows = np.unique(tokens.astype(np.int64) // store.row_length)
    if tokens.size < LEAST_ACTIVE:
        raise InvalidInput(
            f"Feature {feature:,} fired on {tokens.size:,} tokens of the text, too few for a mean."
        )
    firing, plain, whole = _draw(store, active_rows, most_tokens, seed)
    capture = Capture(loaded, layer, hook)
    sums = np.zeros((2, 2, capture.d))  # held out or not, active or rest
    counts = np.zeros((2, 2), np.int64)
    # Projections need the vector, and that needs every row: rows are read twice.
    rows = np.unique(np.concatenate([firing, plain]))
    is_plain = np.isin(rows, plain)
    height = max(1, BATCH_TOKENS // store.row_length)
    for low in range(0, len(rows), height):
        step(0.5 * low / len(rows))
        part = slice(low, low + height)
        for x_TD, active_T, held in _read(capture, store, rows[part], is_plain[part], tokens):
            for kind, chosen_T in enumerate((active_T, ~active_T)):
                sums[held, kind] += x_TD[chosen_T].sum(0)
                counts[held, kind] += int(chosen_T.sum())
    if counts.sum(0).min() < 1:
        raise InvalidInput(f"Feature {feature:,} leaves no token to compare with.")
    v_D = _difference(sums.sum(0), counts.sum(0))
    fitted_D = _difference(sums[0], counts[0]) if counts[0].min() > 0 else None
    seen: dict[tuple[int, bool], list[NDArray[np.float64]]] = {}
    for low in range(0, len(rows), height):
        step(0.5 + 0.5 * low / len(rows))
        part = slice(low, low + height)
        for x_TD, active_T, held in _read(capture, store, rows[part], is_plain[part], tokens):
            own_T = x_TD @ v_D
            out_T = x_TD @ fitted_D if held and fitted_D is not None else None
            for kind in (True, False):
                seen.setdefault((0, kind), []).append(own_T[active_T == kind])
                if out_T is not None:
                    seen.setdefault((1, kind), []).append(out_T[active_T == kind])
    out_counts = (int(counts[1, 0]), int(counts[1, 1])) if fitted_D is not None else (0, 0)
    held_out = _auroc(seen, 1) if min(out_counts) > 0 else None
    return FeatureMean(
        v_D,
        int(counts[:, 0].sum()),
        int(counts[:, 1].sum()),
        len(rows),
        whole,
        _auroc(seen, 0),
        held_out,
        out_counts,
    )


def _draw(
    store: FeatureStore, active_rows: NDArray[np.int64], most_tokens: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], bool]:
    """Rows read for the feature, rows read for the rest, and whether that is every row."""
    total, most = store.n_rows, max(2, most_tokens // store.row_length)
    if total <= most:
        every = np.arange(total)
        return every, every, True
    random = np.random.default_rng([seed, 0x6D65616E])
    firing = random.permutation(active_rows)[: most // 2]
    return firing, random.permutation(total)[: most - len(firing)], False


def _read(
    capture: Capture,
    store: FeatureStore,
    rows: NDArray[np.int64],
    is_plain: NDArray[np.bool_],
    tokens: NDArray[np.uint32],
) -> list[tuple[NDArray[np.float64], NDArray[np.bool_], int]]:
    """Per row: x [T, D] of tokens that count here, which are active, whether it is held out.

    Of a row that was drawn because the feature fires there only the active tokens count.
    """
    ids_BS = torch.from_numpy(np.stack([store.token_row(int(row)) for row in rows])).long()
    x_BSD = capture(ids_BS).float().cpu()
    found = []
    for place, row in enumerate(rows.tolist()):
        kept_S = np.asarray(store.mask_row(row)) == KEPT
        first = row * store.row_length
        low, high = np.searchsorted(tokens, (first, first + store.row_length))
        active_S = np.zeros(store.row_length, bool)
        active_S[tokens[low:high].astype(np.int64) - first] = True
        active_S &= kept_S
        chosen_S = kept_S if is_plain[place] else active_S
        x_TD = x_BSD[place][torch.from_numpy(chosen_S)].double().numpy()
        found.append((x_TD, active_S[chosen_S], int(row % EVERY == EVERY - 1)))
    return found


def _difference(sums_2D: NDArray[np.float64], counts_2: NDArray[np.int64]) -> NDArray[np.float64]:
    return sums_2D[0] / counts_2[0] - sums_2D[1] / counts_2[1]


def _auroc(seen: dict[tuple[int, bool], list[NDArray[np.float64]]], which: int) -> float:
    active, rest = (np.concatenate(seen[which, kind])[:MOST_PROJECTED] for kind in (True, False))
    return float(auroc(active[None], rest[None])[0])
