"""Activations of one hook and batch on their way to the disk: rows as stored, and what they add."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from mistudio.ml.activations.set_statistics import BatchSums, HookStatistics, Places, pinned

_LARGEST_HALF = 65504.0


class Taken(NamedTuple):
    """Rows [T, D] in the processor's memory, in the stored precision, and their statistics.

    Neither holds before `wait()` has returned.
    """

    rows_TD: torch.Tensor
    wait: Callable[[], None]
    sums: Callable[[], BatchSums]
    clipped: Callable[[], int]  # values beyond what fp16 holds


def take(
    x_TD: torch.Tensor, dtype: torch.dtype, statistics: HookStatistics, places: Places
) -> Taken:
    """Measure and convert activations, which are valid only until this returns."""
    if x_TD.device.type == "cuda":
        return _take_from_gpu(x_TD, dtype, statistics, places)
    sums = statistics.measure(x_TD, places)
    clipped = 0
    if _may_clip(x_TD, dtype):
        largest = float(sums.norm_T.max()) if len(sums.norm_T) else 0.0
        if sums.non_finite or largest > _LARGEST_HALF:
            clipped = int((x_TD.abs() > _LARGEST_HALF).sum())
            x_TD = x_TD.clamp(-_LARGEST_HALF, _LARGEST_HALF)
    return Taken(x_TD.to(dtype), _at_once, lambda: sums, lambda: clipped)


def _take_from_gpu(
    x_TD: torch.Tensor, dtype: torch.dtype, statistics: HookStatistics, places: Places
) -> Taken:
    """Only asks for the work: the pass goes on while it is done and copied."""
    sums = statistics.measure_later(x_TD, places)
    clipped = torch.zeros((), dtype=torch.int64, device=x_TD.device)
    if _may_clip(x_TD, dtype):
        clipped = (x_TD.abs() > _LARGEST_HALF).sum()
        x_TD = x_TD.clamp(-_LARGEST_HALF, _LARGEST_HALF)
    rows_TD, clipped = pinned(x_TD.to(dtype)), pinned(clipped)
    done = torch.cuda.Event()
    done.record()
    return Taken(rows_TD, done.synchronize, sums, lambda: int(clipped))


def _may_clip(x_TD: torch.Tensor, dtype: torch.dtype) -> bool:
    return dtype is torch.float16 and x_TD.dtype is not torch.float16


def _at_once() -> None:
    """Nothing is to be waited for."""
