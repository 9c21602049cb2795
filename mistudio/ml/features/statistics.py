"""What a feature does over a corpus, in numbers: counts, sums, maxima, top rows, top tokens.

Every figure is computed from the stored values of the column store, so page and store cannot
disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.ml.features.order import group_starts, mode_share, order_within, rank_within
from mistudio.ml.features.sampling import hash_tokens

DEAD, ULTRA_RARE, DENSE, SINGLE_TOKEN = 1, 2, 4, 8
FLAG_NAMES = {DEAD: "dead", ULTRA_RARE: "ultra-rare", DENSE: "dense", SINGLE_TOKEN: "single-token"}
ULTRA_RARE_BELOW = 1e-6
DENSE_ABOVE = 0.10
LOG_BINS = 64
DECILES = 10
TOP_TOKENS = 5
STRONGEST, STRONGEST_SHARE = 50, 0.90
UPPER_SAMPLE, UPPER_SHARE = 100, 0.75
TOO_FEW = 10  # active tokens below which no single-token verdict is given
BUCKET = 1 << 20  # entries described at a time

STATISTICS = np.dtype(
    [
        ("count", "<i8"),  # kept tokens on which the feature is active
        ("frequency", "<f8"),  # count / kept tokens
        ("active_samples", "<i8"),  # rows on which it is active
        ("sum", "<f8"),
        ("sum_squares", "<f8"),
        ("max", "<f4"),
        ("max_row", "<i4"),  # row of the harvest, -1 if dead
        ("max_position", "<i4"),
        ("mean_active", "<f8"),
        ("mean_all", "<f8"),
        ("single_token", "u1"),  # 0 no, 1 weak, 2 strong
        ("flags", "u1"),
    ]
)


class Columns(NamedTuple):
    """A column store: entries splits[i]..splits[i+1] belong to feature i, tokens rising.

    A token number is row * row length + position; an activation is value * 2 ** -exponent.
    """

    splits: NDArray[np.int64]
    tokens: NDArray[np.uint32]
    values: NDArray[np.float16]
    exponent: int
    row_length: int


class FeatureTables(NamedTuple):
    """One line per feature. Unused places hold -1 (rows, positions, tokens) or 0 (values).

    `top_*_FK`: the strongest token of each of the K strongest rows, strongest first.
    `log_histogram_FB`: counts per half octave, bin b holds 2^((b-32)/2) <= stored value.
    `decile_sums_FP`: sum of activations per tenth of the row.
    `top_tokens_FT`: token ids by sum of activations, with their share of it.
    """

    statistics_F: NDArray[np.void]
    top_rows_FK: NDArray[np.int32]
    top_positions_FK: NDArray[np.int32]
    top_values_FK: NDArray[np.float32]
    log_histogram_FB: NDArray[np.uint32]
    decile_sums_FP: NDArray[np.float64]
    top_tokens_FT: NDArray[np.int32]
    top_token_shares_FT: NDArray[np.float32]


def empty_tables(features: int, top_k: int) -> FeatureTables:
    """Tables as for features that never fire."""
    statistics_F = np.zeros(features, STATISTICS)
    statistics_F["max_row"] = statistics_F["max_position"] = -1
    statistics_F["flags"] = DEAD
    return FeatureTables(
        statistics_F,
        np.full((features, top_k), -1, np.int32),
        np.full((features, top_k), -1, np.int32),
        np.zeros((features, top_k), np.float32),
        np.zeros((features, LOG_BINS), np.uint32),
        np.zeros((features, DECILES), np.float64),
        np.full((features, TOP_TOKENS), -1, np.int32),
        np.zeros((features, TOP_TOKENS), np.float32),
    )


def describe(
    columns: Columns,
    token_ids: NDArray[np.int32],
    kept_tokens: int,
    *,
    top_k: int,
    seed: int,
    bucket: int = BUCKET,
    check: Callable[[], None] = lambda: None,
) -> FeatureTables:
    """All tables of a column store; `token_ids` gives the vocabulary id of each token number.

    Memory is that of one bucket of `bucket` entries, or of the largest feature.
    """
    features = len(columns.splits) - 1
    tables = empty_tables(features, top_k)
    used = np.flatnonzero(np.bincount(token_ids.reshape(-1), minlength=1))
    compact_of = np.zeros(int(used[-1]) + 1 if used.size else 1, np.int64)
    compact_of[used] = np.arange(used.size)
    compact_type = np.uint16 if used.size <= 1 << 16 else np.int64
    for low, high in _buckets(columns.splits, bucket):
        check()
        part = _Bucket(columns, low, high)
        _numbers(part, tables, kept_tokens)
        _top_rows(part, tables)
        ids = token_ids.reshape(-1)[part.tokens]
        compact = compact_of[ids].astype(compact_type)
        _top_tokens(part, compact, used, tables)
        _single_token(part, ids, seed, tables)
    return tables


class _Bucket:
    """Features low..high of a column store with at least one entry, and their entries.

    `feature` counts from 0 within the bucket (uint16: a bucket has at most 65,535 features).
    """

    def __init__(self, columns: Columns, low: int, high: int) -> None:
        splits = np.asarray(columns.splits[low : high + 1])
        counts = np.diff(splits)
        self.index = low + np.flatnonzero(counts)
        self.counts = counts[counts > 0]
        self.starts = (splits[:-1] - splits[0])[counts > 0]
        self.tokens = np.asarray(columns.tokens[splits[0] : splits[-1]])
        values = np.asarray(columns.values[splits[0] : splits[-1]])
        self.bits = values.view(np.uint16)  # the order of positive fp16 is that of its bits
        self.scale = 2.0**-columns.exponent
        self.activations = values.astype(np.float64) * self.scale
        self.feature = np.repeat(np.arange(self.counts.size, dtype=np.uint16), self.counts)
        self.row_length = columns.row_length


def _buckets(splits: NDArray[np.int64], entries: int) -> Iterator[tuple[int, int]]:
    """Ranges of whole features with about `entries` entries each, at most 65,535 features."""
    low, features = 0, len(splits) - 1
    while low < features:
        high = int(np.searchsorted(splits, splits[low] + entries, side="right")) - 1
        high = min(max(high, low + 1), low + 65_535, features)
        if splits[high] > splits[low]:
            yield low, high
        low = high


def _numbers(part: _Bucket, tables: FeatureTables, kept_tokens: int) -> None:
    line = tables.statistics_F[part.index]
    line["count"] = part.counts
    line["frequency"] = part.counts / kept_tokens
    line["sum"] = np.add.reduceat(part.activations, part.starts)
    line["sum_squares"] = np.add.reduceat(part.activations**2, part.starts)
    line["mean_active"] = line["sum"] / part.counts
    line["mean_all"] = line["sum"] / kept_tokens
    rare = line["frequency"] < ULTRA_RARE_BELOW
    dense = line["frequency"] > DENSE_ABOVE
    line["flags"] = rare * ULTRA_RARE + dense * DENSE
    tables.statistics_F[part.index] = line
    size = part.counts.size
    key = part.feature.astype(np.int64) * LOG_BINS + _LOG_BIN[part.bits]
    counted = np.bincount(key, minlength=size * LOG_BINS)
    tables.log_histogram_FB[part.index] = counted.reshape(size, LOG_BINS)
    decile = (part.tokens % part.row_length).astype(np.int64) * DECILES // part.row_length
    key = part.feature.astype(np.int64) * DECILES + decile
    sums = np.bincount(key, part.activations, size * DECILES)
    tables.decile_sums_FP[part.index] = sums.reshape(size, DECILES)


def _log_bins() -> NDArray[np.int64]:
    """The bin of each fp16 bit pattern: half octaves, 2^-16 .. 2^16, clipped at both ends."""
    # signalling NaNs among the patterns warn, on some processors only
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64)
        bins = np.floor(2 * np.log2(np.abs(values))) + LOG_BINS // 2
    return np.clip(np.nan_to_num(bins), 0, LOG_BINS - 1).astype(np.int64)


_LOG_BIN = _log_bins()


def _top_rows(part: _Bucket, tables: FeatureTables) -> None:
    """The strongest token of each row, then the K strongest rows; ties by row, then position."""
    row, position = np.divmod(part.tokens, np.uint32(part.row_length))
    starts = group_starts(part.feature, row)
    # one maximum finds value and first position: high bits the value, low bits the position
    key = part.bits.astype(np.uint32) << np.uint32(16) | (np.uint32(0xFFFF) - position)
    best = np.maximum.reduceat(key, starts)
    feature, best_row = part.feature[starts], row[starts]
    value = (best >> np.uint32(16)).astype(np.uint16)
    samples = np.bincount(feature, minlength=part.counts.size)
    order = order_within(feature, np.uint16(0xFFFF) - value)
    rank = rank_within(samples)
    top_k = tables.top_rows_FK.shape[1]
    chosen = order[rank < top_k]
    line, place = part.index[feature[chosen]], rank[rank < top_k]
    top_position = 0xFFFF - (best[chosen] & np.uint32(0xFFFF)).astype(np.int32)
    top_value = value[chosen].view(np.float16).astype(np.float64) * part.scale
    tables.top_rows_FK[line, place] = best_row[chosen]
    tables.top_positions_FK[line, place] = top_position
    tables.top_values_FK[line, place] = top_value
    statistics = tables.statistics_F
    statistics["active_samples"][part.index] = samples
    statistics["max"][part.index] = tables.top_values_FK[part.index, 0]
    statistics["max_row"][part.index] = tables.top_rows_FK[part.index, 0]
    statistics["max_position"][part.index] = tables.top_positions_FK[part.index, 0]


def _top_tokens(
    part: _Bucket,
    compact: NDArray[np.integer],
    vocabulary: NDArray[np.int64],
    tables: FeatureTables,
) -> None:
    """Vocabulary ids by their sum of activations; ties go to the smaller id."""
    order = order_within(part.feature, compact)
    feature, token = part.feature[order], compact[order]
    starts = group_starts(feature, token)
    weight = np.add.reduceat(part.activations[order], starts)
    feature, token = feature[starts], token[starts]
    heaviest = np.lexsort((token, -weight, feature))
    rank = rank_within(np.bincount(feature, minlength=part.counts.size))
    chosen = heaviest[rank < TOP_TOKENS]
    line, place = part.index[feature[chosen]], rank[rank < TOP_TOKENS]
    tables.top_tokens_FT[line, place] = vocabulary[token[chosen]]
    share = weight[chosen] / tables.statistics_F["sum"][line]
    tables.top_token_shares_FT[line, place] = share


def _single_token(part: _Bucket, ids: NDArray[np.int32], seed: int, tables: FeatureTables) -> None:
    """Mark features whose strongest tokens are all one string.

    Two tests: the 50 strongest tokens, and 100 ranks drawn evenly from the stronger half, each
    at a hashed place in its stratum.
    """
    order = order_within(part.feature, np.uint16(0xFFFF) - part.bits)
    by_strength = ids[order]
    strongest = np.minimum(part.counts, STRONGEST)
    half = (part.counts + 1) // 2
    drawn = np.minimum(half, UPPER_SAMPLE)
    draw = np.arange(UPPER_SAMPLE, dtype=np.uint32)
    hashes = np.stack([hash_tokens(seed, draw, int(index)) for index in part.index])
    jitter = (hashes >> np.uint64(11)) * 2.0**-53
    ranks = ((draw + jitter) * (half / drawn)[:, None]).astype(np.int64)
    first = mode_share(by_strength, part.starts[:, None] + np.arange(STRONGEST), strongest)
    second = mode_share(by_strength, part.starts[:, None] + ranks, drawn)
    passed = (first > STRONGEST_SHARE).astype(np.uint8) + (second > UPPER_SHARE)
    passed[part.counts < TOO_FEW] = 0
    tables.statistics_F["single_token"][part.index] = passed
    tables.statistics_F["flags"][part.index] |= np.where(passed > 0, SINGLE_TOKEN, 0).astype("u1")
