"""Which features of two SAEs of one hook belong together, and which one of them has alone.

Two measures, each over all pairs of features that fired: the cosine of decoder rows, and
Pearson's correlation of activations over the same tokens,
r = (NΣab - ΣaΣb) / √((NΣa² - (Σa)²)(NΣb² - (Σb)²)), zeros included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mistudio.ml.features.code_log import TokenCodes, require_same_tokens

CHUNK_ENTRIES = 1 << 22  # correlations held at a time (32 MB)


class Best(NamedTuple):
    """Of each feature of one SAE the largest value with any feature of the other, and which.

    A feature without any has -1 and NaN. Ties go to the smaller number.
    """

    value_F: NDArray[np.float64]
    of_F: NDArray[np.int64]


class Moments(NamedTuple):
    """Σa and NΣa² - (Σa)² of each feature; the latter is 0 where a feature never changes."""

    sum_F: NDArray[np.float64]
    spread_F: NDArray[np.float64]


class Matched(NamedTuple):
    """Best partners both ways; `there_F` is the value of A's features with `asked_F`."""

    a: Best
    b: Best
    there_F: NDArray[np.float64]


def match_cosines(
    a_FO: torch.Tensor,
    b_GO: torch.Tensor,
    fired_F: NDArray[np.bool_],
    fired_G: NDArray[np.bool_],
    check: Callable[[float], None],
) -> Matched:
    """Best decoder cosines among features that fired; `there_F` repeats A's best ones."""
    unit_a, unit_b = (torch.nn.functional.normalize(w.float(), dim=1) for w in (a_FO, b_GO))

    def values(start: int, stop: int) -> NDArray[np.float64]:
        cosine_CG = (unit_a[start:stop] @ unit_b.T).double().cpu().numpy()
        cosine_CG[:, ~fired_G] = -np.inf
        cosine_CG[~fired_F[start:stop]] = -np.inf
        return cosine_CG

    return _match(values, len(a_FO), len(b_GO), None, check)


def match_correlations(
    a: TokenCodes, b: TokenCodes, asked_F: NDArray[np.int64], check: Callable[[float], None]
) -> Matched:
    """Best correlations over the same tokens; `there_F` is that of each of A's with `asked_F`.

    Work is that of the pairs of entries that share a token, memory that of one chunk.
    Raises `Mismatch` if the codes are of different tokens.
    """
    require_same_tokens(a, b)
    first, second = moments(a), moments(b)
    n_a, n_b, n = len(a.firings_F), len(b.firings_F), a.tokens

    def values(start: int, stop: int) -> NDArray[np.float64]:
        cross_CG = _cross_sums(a, b, start, stop)
        top = n * cross_CG - first.sum_F[start:stop, None] * second.sum_F
        below = np.sqrt(first.spread_F[start:stop, None]) * np.sqrt(second.spread_F)
        with np.errstate(divide="ignore", invalid="ignore"):
            r_CG = top / below
        return np.where(below > 0, np.clip(r_CG, -1, 1), -np.inf)

    return _match(values, n_a, n_b, asked_F, check)


def moments(codes: TokenCodes) -> Moments:
    """What the correlation needs of each feature, in float64."""
    features = len(codes.firings_F)
    sum_F, squares_F = np.zeros(features), np.zeros(features)
    splits = codes.column_splits
    for start, stop in _ranges(splits, CHUNK_ENTRIES):
        part = slice(int(splits[start]), int(splits[stop]))
        values = np.asarray(codes.column_values[part]).astype(np.float64) * codes.scale
        owner = np.repeat(np.arange(stop - start), np.diff(splits[start : stop + 1]))
        sum_F[start:stop] = np.bincount(owner, values, stop - start)
        squares_F[start:stop] = np.bincount(owner, values**2, stop - start)
    spread_F = codes.tokens * squares_F - sum_F**2
    # what is left of equal numbers after rounding is no variation
    return Moments(sum_F, np.where(spread_F > 1e-12 * codes.tokens * squares_F, spread_F, 0.0))


def _cross_sums(a: TokenCodes, b: TokenCodes, start: int, stop: int) -> NDArray[np.float64]:
    """Σab [stop - start, G] of features start..stop-1 of A with every feature of B."""
    width = len(b.firings_F)
    sums_CG = np.zeros((stop - start) * width)
    splits = a.column_splits
    for low, high in _ranges(splits[start : stop + 1], CHUNK_ENTRIES // 64):
        part = slice(int(splits[start + low]), int(splits[start + high]))
        tokens = np.asarray(a.column_tokens[part]).astype(np.int64)
        values = np.asarray(a.column_values[part]).astype(np.float64) * (a.scale * b.scale)
        counts = np.diff(splits[start + low : start + high + 1])
        owner = np.repeat(np.arange(low, high), counts)
        for cut in range(0, len(tokens), CHUNK_ENTRIES // 64):
            piece = slice(cut, cut + CHUNK_ENTRIES // 64)
            first = b.row_splits[tokens[piece]]
            lengths = b.row_splits[tokens[piece] + 1] - first
            ends = np.cumsum(lengths)
            total = int(ends[-1]) if len(ends) else 0
            at = np.arange(total) - np.repeat(ends - lengths - first, lengths)
            key = np.repeat(owner[piece] * width, lengths) + b.row_features[at]
            product = np.repeat(values[piece], lengths) * b.row_values[at]
            sums_CG += np.bincount(key, product, len(sums_CG))
    return sums_CG.reshape(stop - start, width)


def _ranges(splits: NDArray[np.int64], entries: int) -> list[tuple[int, int]]:
    """Ranges of whole features with about `entries` entries each."""
    found, low, features = [], 0, len(splits) - 1
    while low < features:
        high = int(np.searchsorted(splits, splits[low] + entries, side="right")) - 1
        high = min(max(high, low + 1), features)
        found.append((low, high))
        low = high
    return found


def _match(
    values: Callable[[int, int], NDArray[np.float64]],
    n_a: int,
    n_b: int,
    asked_F: NDArray[np.int64] | None,
    check: Callable[[float], None],
) -> Matched:
    """Row and column maxima of a table [F, G] that is computed some rows at a time."""
    value_F, of_F = np.full(n_a, -np.inf), np.full(n_a, -1, np.int64)
    value_G, of_G = np.full(n_b, -np.inf), np.full(n_b, -1, np.int64)
    there_F = np.full(n_a, np.nan)
    step = max(1, CHUNK_ENTRIES // max(n_b, 1))
    for start in range(0, n_a if n_b else 0, step):
        check(start / n_a)
        table_CG = values(start, min(start + step, n_a))
        stop = start + len(table_CG)
        rows = np.arange(len(table_CG))
        of_F[start:stop] = table_CG.argmax(1)
        value_F[start:stop] = table_CG[rows, of_F[start:stop]]
        place_G = table_CG.argmax(0)
        high_G = table_CG[place_G, np.arange(n_b)]
        better_G = high_G > value_G
        value_G, of_G = (
            np.where(better_G, high_G, value_G),
            np.where(better_G, place_G + start, of_G),
        )
        if asked_F is not None:
            asked_C = asked_F[start:stop]
            there_F[start:stop] = np.where(asked_C >= 0, table_CG[rows, asked_C], np.nan)
    there_F = value_F if asked_F is None else there_F
    return Matched(_best(value_F, of_F), _best(value_G, of_G), _known(there_F))


def _best(value: NDArray[np.float64], of: NDArray[np.int64]) -> Best:
    return Best(_known(value), np.where(np.isfinite(value), of, -1))


def _known(value: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(value), value, np.nan)


@torch.inference_mode()
def match_features(
    a_FO: torch.Tensor,
    b_GO: torch.Tensor,
    a: TokenCodes,
    b: TokenCodes,
    check: Callable[[float], None] = lambda _done: None,
) -> dict[str, Any]:
    """Partners of every feature of A and B by both measures, as JSON values.

    "a" and "b" hold, per feature, `firings`, `cosine` and `cosine_of` (the nearest decoder row of
    the other), `correlation` and `correlation_of`; "a" also `cosine_correlation`, the correlation
    with `cosine_of`, and `correlation_cosine`. What does not exist is None, a partner then -1.
    """
    fired_F, fired_G = a.firings_F > 0, b.firings_F > 0
    cosines = match_cosines(a_FO, b_GO, fired_F, fired_G, lambda d: check(0.2 * d))
    alike = match_correlations(a, b, cosines.a.of_F, lambda d: check(0.2 + 0.8 * d))
    partner_F = alike.a.of_F
    both = torch.nn.functional.cosine_similarity(
        a_FO.float(), b_GO.float()[torch.from_numpy(np.maximum(partner_F, 0))], dim=1
    )
    both_F = np.where(partner_F >= 0, both.double().cpu().numpy(), np.nan)
    return {
        "tokens": a.tokens,
        "a": {
            **_side(a.firings_F, cosines.a, alike.a),
            "cosine_correlation": _listed(alike.there_F),
            "correlation_cosine": _listed(both_F),
        },
        "b": _side(b.firings_F, cosines.b, alike.b),
    }


def _side(firings_F: NDArray[np.int64], cosine: Best, correlation: Best) -> dict[str, Any]:
    return {
        "firings": firings_F.tolist(),
        "cosine": _listed(cosine.value_F),
        "cosine_of": cosine.of_F.tolist(),
        "correlation": _listed(correlation.value_F),
        "correlation_of": correlation.of_F.tolist(),
    }


def _listed(values: NDArray[np.float64]) -> list[float | None]:
    return [round(value, 6) if value == value else None for value in values.tolist()]
