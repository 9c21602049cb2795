"""Measures activations once before training: norm cut, mean, scale, variance."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from mistudio.core.control import JobControl
from mistudio.core.errors import InvalidInput, OutOfMemory
from mistudio.core.events import Reporter
from mistudio.ml.activations.capture import Capture, check_ids
from mistudio.ml.activations.masking import (
    REASONS,
    RowBatch,
    add_counts,
    default_forward_batch,
    keep_mask,
)
from mistudio.ml.activations.multi_capture import HookPoint
from mistudio.ml.activations.readers import RowReader, Take
from mistudio.ml.data.row_table import RowTable
from mistudio.ml.whitening import Whitening


@dataclass(frozen=True)
class StatisticsSettings:
    """Which tokens are measured."""

    norm_cut: float = 10.0  # times the median norm
    mask_special: bool = True
    forward_batch: int = 0  # rows; 0 takes about 2,048 tokens
    min_tokens: int = 100_000  # kept tokens to measure, or all there are


@dataclass(frozen=True)
class StreamStatistics:
    """Reference values of one hook on one text; stored with a training and never re-estimated."""

    median_norm: float  # of ||x|| after padding and special tokens are dropped
    norm_cut: float
    mean_D: np.ndarray  # fp64, mean of kept x
    mean_square: float  # E||x||^2
    scale: float  # s = sqrt(d / E||x||^2)
    variance: float  # V: total variance of s*x
    n_tokens: int  # kept tokens measured
    mask_special: bool
    dropped: dict[str, int]  # tokens left out, by reason
    whitening: Whitening | None = None  # where it was asked for

    @property
    def d(self) -> int:
        """Width of the activations."""
        return len(self.mean_D)

    @property
    def norm_limit(self) -> float:
        """Tokens with a larger norm do not count."""
        return self.norm_cut * self.median_norm

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the whitening; numbers survive exactly."""
        values = asdict(self.with_whitening(None))
        del values["whitening"]
        return {**values, "mean_D": [float(v) for v in self.mean_D]}

    def with_whitening(self, whitening: Whitening | None) -> StreamStatistics:
        """A copy with another whitening, or without."""
        return replace(self, whitening=whitening)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StreamStatistics:
        """The inverse of `to_dict`."""
        return cls(**{**values, "mean_D": np.array(values["mean_D"], dtype=np.float64)})


def reference_statistics(
    capture: Capture,
    tokens: RowTable,
    settings: StatisticsSettings,
    report: Reporter | None = None,
    control: JobControl | None = None,
) -> StreamStatistics:
    """`measure_hooks` of one hook."""
    reader = OneHook(capture)
    return measure_hooks(reader, tokens, reader.points, settings, report, control)[reader.points[0]]


def measure_hooks(
    reader: RowReader,
    table: RowTable,
    points: Sequence[HookPoint],
    settings: StatisticsSettings,
    report: Reporter | None = None,
    control: JobControl | None = None,
    whitened: Collection[HookPoint] = (),
    directed: Collection[HookPoint] = (),
) -> dict[HookPoint, StreamStatistics]:
    """Measure calibration rows, and training rows too until there are `min_tokens` kept tokens.

    One pass serves all hooks; those in `whitened` get a whitening, which takes the sum of outer
    products, and those in `directed` if there are tokens enough for one. Rows are drawn in a fixed
    random order. The sums are fp64. Raises `InvalidInput` if fewer than two tokens can be kept, no
    more than the width for a whitening, or their activations do not vary.
    """
    both = {*whitened, *directed}
    sums = {point: _Sums(settings.norm_cut, whiten=point in both) for point in points}
    used = 0
    for batch in _read(reader, table, settings, control):
        used += len(batch[points[0]].rows)
        for point in points:
            if sums[point].seen < settings.min_tokens:
                sums[point].add(batch[point])
        least = min(own.seen for own in sums.values())
        if report is not None:
            report.progress(min(1.0, least / settings.min_tokens), "Measuring activations")
        if least >= settings.min_tokens:
            break
    found = {}
    for point, own in sums.items():
        if own.seen == 0:
            raise InvalidInput(
                "No token of this text can be used: all are special, at positions that are skipped "
                "or not finite."
            )
        median = own.median()
        if own.must_repeat(median):
            seen, own = own.seen, _Sums(settings.norm_cut, median, point in both)
            for batch in _read(reader, table, settings, control):
                own.add(batch[point])
                if own.seen >= seen:
                    break
        found[point] = own.finish(median, settings, must_whiten=point in whitened)
    return found


class OneHook:
    """A single hook's `Capture` as a reader."""

    def __init__(self, capture: Capture) -> None:
        self.points = [HookPoint(capture.layer, capture.hook)]
        self.widths = [capture.d]
        self.device = capture.device
        self._capture = capture

    def read(self, table: RowTable, rows: np.ndarray, take: Take) -> None:
        ids_BS = torch.from_numpy(table.ids[rows].astype(np.int64))
        check_ids(ids_BS, self._capture.loaded.facts.vocab_size)
        take(0, self._capture(ids_BS))

    def holds(self, table: RowTable, rows: np.ndarray) -> np.ndarray:
        return np.ones(len(rows), dtype=bool)

    def rest(self) -> None:
        """Keeps the model, which is not its own."""


def _read(
    reader: RowReader, table: RowTable, settings: StatisticsSettings, control: JobControl | None
) -> Iterator[dict[HookPoint, RowBatch]]:
    """Activations and masks of the rows to measure, in a fixed random order.

    Rows that do not fit into memory are read fewer at a time from then on.
    """
    rng = np.random.default_rng(0)
    rows = np.concatenate(
        [
            rng.permutation(np.array(table.rows(part), dtype=np.int64))
            for part in ("calibration", "train")
        ]
    )
    rows = rows[reader.holds(table, rows)]
    size = settings.forward_batch or default_forward_batch(table.context)
    low = 0
    while low < len(rows):
        if control is not None:
            control.check()
        chosen = rows[low : low + size]
        found: dict[HookPoint, RowBatch] = {}

        def take(
            i: int,
            x_BSD: torch.Tensor,
            chosen: np.ndarray = chosen,
            found: dict[HookPoint, RowBatch] = found,
        ) -> None:
            x_BSD = x_BSD.clone()  # valid only while its hook runs
            kept = keep_mask(
                x_BSD, table.mask[chosen], norm_limit=None, mask_special=settings.mask_special
            )
            found[reader.points[i]] = RowBatch(chosen, x_BSD, kept.keep_BS, kept.dropped)

        try:
            reader.read(table, chosen, take)
        except OutOfMemory:
            if size == 1:
                raise
            size //= 2
            continue
        low += len(chosen)
        yield found


class _Sums:
    """Running sums of one pass. The norm cut needs the median, which is known only at the end; so
    suspiciously large activations are set aside and judged then."""

    def __init__(self, norm_cut: float, median: float | None = None, whiten: bool = False) -> None:
        """`whiten` also sums outer products."""
        self._norm_cut = norm_cut
        self._products_DD = torch.zeros(0, 0, dtype=torch.float64) if whiten else None
        self._sum_D = torch.zeros(0, dtype=torch.float64)
        self._square = 0.0
        self._count = 0
        self._norms: list[np.ndarray] = []
        self._aside: list[torch.Tensor] = []
        self._aside_above = None if median is None else norm_cut * median
        self.dropped: dict[str, int] = dict.fromkeys(REASONS, 0)
        self.seen = 0

    def add(self, batch: RowBatch) -> None:
        """Count the kept tokens of a batch."""
        add_counts(self.dropped, batch.dropped)
        x_TD = batch.x_BSD[batch.keep_BS].double().cpu()
        if not self._sum_D.numel():
            width = x_TD.shape[1]
            self._sum_D = torch.zeros(width, dtype=torch.float64)
            if self._products_DD is not None:
                self._products_DD = torch.zeros(width, width, dtype=torch.float64)
        if len(x_TD) == 0:
            return
        norm_T = torch.linalg.vector_norm(x_TD, dim=-1)
        if self._aside_above is None:
            self._aside_above = self._norm_cut / 2 * float(norm_T.median())
        self._norms.append(norm_T.numpy())
        self.seen += len(x_TD)
        large_T = norm_T > self._aside_above
        if bool(large_T.any()):
            self._aside.append(x_TD[large_T])
            x_TD, norm_T = x_TD[~large_T], norm_T[~large_T]
        self._sum_D += x_TD.sum(0)
        self._square += float(norm_T.square().sum())
        self._count += len(x_TD)
        if self._products_DD is not None:
            self._products_DD.addmm_(x_TD.T, x_TD)

    def median(self) -> float:
        """Median norm of all tokens seen."""
        return float(np.median(np.concatenate(self._norms)))

    def must_repeat(self, median: float) -> bool:
        """Whether tokens above the final limit may have been summed already."""
        return self._aside_above is not None and self._norm_cut * median < self._aside_above

    def finish(
        self, median: float, settings: StatisticsSettings, must_whiten: bool
    ) -> StreamStatistics:
        """Judge what was set aside and compute the statistics."""
        limit = self._norm_cut * median
        total_D, square, count = self._sum_D, self._square, self._count
        for x_TD in self._aside:
            norm_T = torch.linalg.vector_norm(x_TD, dim=-1)
            fits_T = norm_T <= limit
            total_D = total_D + x_TD[fits_T].sum(0)
            square += float(norm_T[fits_T].square().sum())
            count += int(fits_T.sum())
            if self._products_DD is not None:
                self._products_DD.addmm_(x_TD[fits_T].T, x_TD[fits_T])
        dropped = {**self.dropped, "norm": self.seen - count}
        mean_D = (total_D / max(1, count)).numpy()
        mean_square = square / max(1, count)
        spread = mean_square - float(mean_D @ mean_D)
        if count < 2 or spread <= 1e-12 * mean_square:
            raise InvalidInput(
                "The activations at this hook do not vary, so there is nothing to learn; use more "
                "text or another hook."
            )
        scale = math.sqrt(len(mean_D) / mean_square)
        return StreamStatistics(
            median_norm=median,
            norm_cut=self._norm_cut,
            mean_D=mean_D,
            mean_square=mean_square,
            scale=scale,
            variance=scale**2 * spread,
            n_tokens=count,
            mask_special=settings.mask_special,
            dropped=dropped,
            whitening=self._whitening(torch.from_numpy(mean_D), count, must_whiten),
        )

    def _whitening(self, mean_D: torch.Tensor, count: int, must: bool) -> Whitening | None:
        enough = count > len(mean_D)
        if self._products_DD is None or not (enough or must):
            return None
        if not enough:
            raise InvalidInput(
                f"Whitening needs more tokens than the hook is wide: there are {count:,} to "
                f"measure and {len(mean_D):,} directions. Use more text, or the input "
                "normalisation constant."
            )
        covariance_DD = self._products_DD.div_(count).sub_(torch.outer(mean_D, mean_D))
        return Whitening.of(mean_D, covariance_DD)
