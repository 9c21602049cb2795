"""Statistics of one hook's activations, added up batch by batch in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from mistudio.ml.activations.multi_capture import HookPoint
from mistudio.ml.activations.norm_histogram import LogBins

NEAR_ZERO = 0.01  # of the root mean square of the first batch: smaller values count as near zero
OUTLIER_TIMES = (
    6.0  # |mean| or standard deviation above so many medians makes a dimension stand out
)
SINK_TIMES = 4.0  # a position whose median norm is so many times the overall one is a sink
POSITIONS = 512  # positions judged for sinks, counted from a row's beginning
MOST_OUTLIERS = 256
_SHOWN_BINS = 60
_CHUNK = 1 << 18  # values per step, to stay in the cache
_GPU_CHUNK = 1 << 23  # 64 MB in fp64

_FINE = LogBins(32)
_COARSE = LogBins(4)


class Places(NamedTuple):
    """Where the tokens of a batch come from; int32 each [T]."""

    ids: np.ndarray
    rows: np.ndarray
    positions: np.ndarray


class BatchSums(NamedTuple):
    """What one batch adds; nothing counts until it is handed to `HookStatistics.add`."""

    places: Places  # of finite tokens
    norm_T: np.ndarray  # fp64, finite tokens only
    non_finite: int
    near_zero_below: float
    near_zero: int
    tokens: int
    mean_D: np.ndarray  # fp64
    spread_D: np.ndarray  # fp64, sum of squared distances from mean_D


class HookStatistics:
    """Running statistics over all tokens whose values are finite.

    Mean and variance per dimension are combined from batches in fp64 by the pairwise rule of Chan,
    Golub and LeVeque, which loses no digits however many tokens there are.
    """

    def __init__(self, point: HookPoint, width: int, top_k: int, context: int) -> None:
        self.point = point
        self.width = width
        self._top_k = top_k
        self._numbers = np.zeros(5)  # tokens not finite, near zero count, norm sum, min, max
        self._numbers[3] = math.inf
        self.count = 0
        self.clipped = 0
        self.near_zero_below = 0.0
        self._mean_D = np.zeros(width)
        self._spread_D = np.zeros(width)
        self._norms_B = np.zeros(_FINE.count, dtype=np.int64)
        positions = min(context, POSITIONS)
        self._positions_PB = np.zeros((positions, _COARSE.count), dtype=np.uint32)
        self._top_norm_K = np.zeros(0)
        self._top_place_K3 = np.zeros((0, 3), dtype=np.int32)

    def measure(self, x_TD: torch.Tensor, places: Places) -> BatchSums:
        """What the tokens [T, D] add, in any precision, in the processor's memory."""
        norm_T = torch.linalg.vector_norm(x_TD, dim=-1, dtype=torch.float32).double().numpy()
        finite_T = np.isfinite(norm_T)
        broken = len(norm_T) - int(finite_T.sum())
        if broken:
            x_TD = x_TD[torch.from_numpy(finite_T)]
            norm_T = norm_T[finite_T]
            places = Places(*(part[finite_T] for part in places))
        below = self.near_zero_below or self._below(norm_T)
        near_zero, count, mean_D, spread_D = _moments(x_TD, below)
        return BatchSums(places, norm_T, broken, below, near_zero, count, mean_D, spread_D)

    def measure_later(self, x_TD: torch.Tensor, places: Places) -> Callable[[], BatchSums]:
        """As `measure`, on a GPU, which is only asked: call the result once it has come so far.

        Until a first batch was added, each is waited for, since the first decides what near zero
        is.
        """
        norm_T = torch.linalg.vector_norm(x_TD, dim=-1, dtype=torch.float32)
        finite_T = norm_T.isfinite()
        below = self.near_zero_below or self._below(norm_T[finite_T].double().cpu().numpy())
        parts = [pinned(part) for part in _masked_moments(x_TD, finite_T, below)]
        norm_T = pinned(norm_T)

        def collect() -> BatchSums:
            found_T = norm_T.double().numpy()
            finite_T = np.isfinite(found_T)
            broken = len(found_T) - int(finite_T.sum())
            kept = Places(*(part[finite_T] for part in places)) if broken else places
            near_zero, count, mean_D, spread_D = _joined(*(part.numpy() for part in parts))
            return BatchSums(
                kept, found_T[finite_T], broken, below, near_zero, count, mean_D, spread_D
            )

        return collect

    def _below(self, norm_T: np.ndarray) -> float:
        """What counts as near zero, by the norms of a first batch."""
        if not len(norm_T):
            return 0.0
        return NEAR_ZERO * math.sqrt(float(np.square(norm_T).mean()) / self.width)

    def add(self, batch: BatchSums) -> None:
        """Count a batch."""
        self._numbers[0] += batch.non_finite
        if batch.tokens == 0:
            return
        self.near_zero_below = batch.near_zero_below
        self._numbers[1] += batch.near_zero
        self._numbers[2] += batch.norm_T.sum()
        self._numbers[3] = min(self._numbers[3], batch.norm_T.min())
        self._numbers[4] = max(self._numbers[4], batch.norm_T.max())
        _merge(
            self.count,
            self._mean_D,
            self._spread_D,
            batch.tokens,
            batch.mean_D,
            batch.spread_D,
        )
        self.count += batch.tokens
        self._norms_B += np.bincount(_FINE.index(batch.norm_T), minlength=_FINE.count)
        self._add_positions(batch)
        self._add_strongest(batch)

    def _add_positions(self, batch: BatchSums) -> None:
        limit = len(self._positions_PB)
        early_T = batch.places.positions < limit
        cell_T = batch.places.positions[early_T].astype(np.int64) * _COARSE.count
        cell_T += _COARSE.index(batch.norm_T[early_T])
        cells, counts = np.unique(cell_T, return_counts=True)
        self._positions_PB.reshape(-1)[cells] += counts.astype(np.uint32)

    def _add_strongest(self, batch: BatchSums) -> None:
        full = len(self._top_norm_K) == self._top_k
        floor = float(self._top_norm_K[-1]) if full else -math.inf
        chosen_T = np.flatnonzero(batch.norm_T > floor)
        if len(chosen_T) == 0:
            return
        place_T3 = np.stack([part[chosen_T] for part in batch.places], axis=1)
        norm_K = np.concatenate([self._top_norm_K, batch.norm_T[chosen_T]])
        place_K3 = np.concatenate([self._top_place_K3, place_T3.astype(np.int32)])
        order_K = np.argsort(-norm_K, kind="stable")[: self._top_k]
        self._top_norm_K, self._top_place_K3 = norm_K[order_K], place_K3[order_K]

    def state(self) -> dict[str, np.ndarray]:
        """Everything there is to go on later, as plain arrays."""
        return {
            "numbers": self._numbers,
            "counts": np.array([self.count, self.clipped], dtype=np.int64),
            "below": np.array([self.near_zero_below]),
            "mean": self._mean_D,
            "spread": self._spread_D,
            "norms": self._norms_B,
            "positions": self._positions_PB,
            "top_norm": self._top_norm_K,
            "top_place": self._top_place_K3,
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """The inverse of `state`."""
        self._numbers = state["numbers"].copy()
        self.count, self.clipped = (int(n) for n in state["counts"])
        self.near_zero_below = float(state["below"][0])
        self._mean_D, self._spread_D = state["mean"].copy(), state["spread"].copy()
        self._norms_B, self._positions_PB = state["norms"].copy(), state["positions"].copy()
        self._top_norm_K, self._top_place_K3 = state["top_norm"], state["top_place"]

    def result(self) -> dict[str, Any]:
        """The finished statistics as JSON values; without a finite token all are 0."""
        non_finite, near_zero, norm_sum, norm_min, norm_max = (float(n) for n in self._numbers)
        count = max(1, self.count)
        median = _FINE.median(self._norms_B) if self.count else 0.0
        variance_D = self._spread_D / count
        edges, counts = _FINE.coarse(self._norms_B, _SHOWN_BINS)
        return {
            "layer": self.point.layer,
            "hook": self.point.hook,
            "width": self.width,
            "tokens": self.count,
            "non_finite": int(non_finite),
            "clipped": self.clipped,
            "norm_mean": norm_sum / count,
            "norm_median": min(max(median, norm_min), norm_max) if self.count else 0.0,
            "norm_min": norm_min if self.count else 0.0,
            "norm_max": norm_max,
            "norm_edges": edges,
            "norm_counts": counts,
            "near_zero_below": self.near_zero_below,
            "near_zero_share": near_zero / (count * self.width),
            "mean": [_short(value) for value in self._mean_D],
            "variance": [_short(value) for value in variance_D],
            "outliers": _outliers(self._mean_D, np.sqrt(variance_D)),
            "strongest": [
                {
                    "norm": _short(norm),
                    "token_id": int(place[0]),
                    "row": int(place[1]),
                    "position": int(place[2]),
                }
                for norm, place in zip(self._top_norm_K, self._top_place_K3, strict=True)
            ],
            "sinks": self._sinks(median),
        }

    def _sinks(self, median: float) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for position, counts_B in enumerate(self._positions_PB):
            typical = _COARSE.median(counts_B.astype(np.int64))
            if median > 0 and typical > SINK_TIMES * median:
                times = _short(typical / median)
                found.append({"position": position, "median_norm": _short(typical), "times": times})
        return found


def pinned(x: torch.Tensor) -> torch.Tensor:
    """A copy in the processor's memory that is whole once the device has come so far."""
    host = torch.empty(x.shape, dtype=x.dtype, pin_memory=x.device.type == "cuda")
    return host.copy_(x, non_blocking=True)


def _moments(x_TD: torch.Tensor, below: float) -> tuple[int, int, np.ndarray, np.ndarray]:
    """Values below a size, tokens, mean_D and summed squared distances, chunk by chunk."""
    width = x_TD.shape[1]
    step = max(1, _CHUNK // width)
    count, mean_D, spread_D = 0, np.zeros(width), np.zeros(width)
    near_zero = torch.zeros((), dtype=torch.int64)
    for low in range(0, len(x_TD), step):
        part_TD = x_TD[low : low + step]
        near_zero += torch.count_nonzero(part_TD.abs() < below)
        wide_TD = part_TD.double()
        part_mean_D = wide_TD.mean(0)
        part_spread_D = (wide_TD - part_mean_D).square_().sum(0)
        _merge(
            count, mean_D, spread_D, len(part_TD), part_mean_D.numpy(), part_spread_D.numpy()
        )  # fmt: skip
        count += len(part_TD)
    return int(near_zero), count, mean_D, spread_D


def _masked_moments(
    x_TD: torch.Tensor, finite_T: torch.Tensor, below: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Per chunk of a GPU's rows: (values below a size, tokens), mean_D, squared distances.

    Rows that are not finite are multiplied out, since picking them would wait for the device.
    """
    step = max(1, _GPU_CHUNK // x_TD.shape[1])
    counts, means, spreads = [], [], []
    for low in range(0, len(x_TD), step):
        part_TD, kept_T = x_TD[low : low + step], finite_T[low : low + step]
        near_zero = ((part_TD.abs() < below) & kept_T[:, None]).sum()
        wide_TD = part_TD.double().masked_fill_(~kept_T[:, None], 0.0)
        tokens = kept_T.sum()
        mean_D = wide_TD.sum(0) / tokens.clamp(min=1)
        wide_TD.sub_(mean_D).square_()
        spreads.append(kept_T.double() @ wide_TD)
        counts.append(torch.stack([near_zero, tokens]))
        means.append(mean_D)
    return torch.stack(counts), torch.stack(means), torch.stack(spreads)


def _joined(
    counts_C2: np.ndarray, mean_CD: np.ndarray, spread_CD: np.ndarray
) -> tuple[int, int, np.ndarray, np.ndarray]:
    """The moments of all chunks: values below the size, tokens, mean_D, squared distances."""
    mean_D, spread_D = np.zeros(mean_CD.shape[1]), np.zeros(mean_CD.shape[1])
    total = 0
    for (_, tokens), part_mean_D, part_spread_D in zip(counts_C2, mean_CD, spread_CD, strict=True):
        if tokens:
            _merge(total, mean_D, spread_D, int(tokens), part_mean_D, part_spread_D)
            total += int(tokens)
    return int(counts_C2[:, 0].sum()), total, mean_D, spread_D


def _merge(
    count: int,
    mean_D: np.ndarray,
    spread_D: np.ndarray,
    more: int,
    more_mean_D: np.ndarray,
    more_spread_D: np.ndarray,
) -> None:
    """Bring the moments of `more` tokens into those of `count`, in place."""
    total = count + more
    gap_D = more_mean_D - mean_D
    spread_D += more_spread_D + gap_D**2 * (count * more / total)
    mean_D += gap_D * (more / total)


def _outliers(mean_D: np.ndarray, std_D: np.ndarray) -> list[dict[str, Any]]:
    """Dimensions whose |mean| or standard deviation exceeds 6 times its median, strongest first."""
    times_D = np.maximum(_multiples(np.abs(mean_D)), _multiples(std_D))
    order = np.argsort(-times_D, kind="stable")[:MOST_OUTLIERS]
    return [
        {
            "dimension": int(i),
            "mean": _short(mean_D[i]),
            "std": _short(std_D[i]),
            "times": _short(times_D[i]),
        }
        for i in order
        if times_D[i] > OUTLIER_TIMES
    ]


def _multiples(value_D: np.ndarray) -> np.ndarray:
    middle = float(np.median(value_D))
    return value_D / middle if middle > 0 else np.zeros_like(value_D)


def _short(value: Any) -> float:
    """A number with the digits worth keeping in a file."""
    return float(f"{float(value):.9g}")
