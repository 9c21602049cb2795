"""Single-token activations in random order, window by window, reproducible to the byte."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mistudio.core.errors import InvalidInput, Mismatch
from mistudio.ml.activations.masking import REASONS, add_counts
from mistudio.ml.activations.multi_capture import HookPoint
from mistudio.ml.activations.readers import LiveReader
from mistudio.ml.activations.row_order import TOKENS
from mistudio.ml.activations.statistics import StreamStatistics
from mistudio.ml.activations.windows import Feed, Windows
from mistudio.ml.collective import SINGLE, Collective
from mistudio.ml.data.row_table import RowTable
from mistudio.ml.loading import LoadedModel

Batch = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


class ActivationStream:
    """Endless batches of tokens that count: x_BD, or (x_BD, y_BO) where a target is read too.

    Values are float32, unscaled, on the device of the reader. An epoch visits every row of a part
    once, in an order keyed by (seed, epoch), cut into equal windows of at least the windows' size;
    a text with fewer tokens is one window. Batches are drawn from a window by a permutation of
    single tokens keyed by (seed, epoch, window), which is recomputed and never stored. The tokens
    that do not fill a window's last batch are left out and counted as "leftover"; another epoch's
    permutation leaves out others.

    Several streams may share the windows, each with a place of its own: `wanted` tells which
    window the next batch comes from. `state` and `restore` continue a stream to the byte, given
    the same number of threads.
    """

    def __init__(self, windows: Windows, feed: int, *, batch: int) -> None:
        """Raises `InvalidInput` if the part has less than a batch of tokens."""
        if windows.usable_tokens < batch:
            raise InvalidInput(
                f"The text has {windows.usable_tokens:,} tokens to learn from, fewer than one "
                f"batch of {batch:,}; use more text or a smaller batch."
            )
        self.windows = windows
        self._feed, self._batch = feed, batch
        self._epoch = self._window = self._position = 0
        self._begun = False  # whether the order of the current window is known
        self._order_N = torch.zeros(0, dtype=torch.int64)
        self._counts_before = dict.fromkeys((*REASONS, "leftover"), 0)
        self._counts_now: dict[str, int] = {}  # of the window that is begun
        self._last_N = np.zeros(0, dtype=np.int64)

    @property
    def windows_per_epoch(self) -> int:
        return self.windows.order.windows_per_epoch

    @property
    def wanted(self) -> tuple[int, int]:
        """Epoch and window of the next batch, as far as is known without filling it."""
        if self._begun and self._position + self._batch > len(self._order_N):
            self._advance()
        return self._epoch, self._window

    def __iter__(self) -> ActivationStream:
        return self

    def __next__(self) -> Batch:
        """The next batch; fills the next window first if needed."""
        without_batch = 0
        while True:
            self.windows.bring(*self.wanted)
            self._begin()
            if self._position + self._batch <= len(self._order_N):
                break
            without_batch += 1
            if without_batch > self.windows_per_epoch:
                raise InvalidInput(
                    "Too few tokens are left after masking to make a batch; use more text, a "
                    "smaller batch or a higher norm cut."
                )
        chosen_B = self._order_N[self._position : self._position + self._batch]
        self._position += self._batch
        self._last_N = chosen_B.numpy()
        parts = self.windows.take(self._feed, chosen_B)
        return parts[0] if len(parts) == 1 else (parts[0], parts[1])

    @property
    def last_docs(self) -> np.ndarray:
        """Document of each token of the batch returned last, int32 [B]."""
        row_B, position_B = self.last_positions.T
        return np.asarray(self.windows.table.docs[row_B, position_B])

    @property
    def last_positions(self) -> np.ndarray:
        """Row and position in the row of each token of the batch returned last, int32 [B, 2]."""
        return self.windows.window(self._feed).place_N2[self._last_N]

    @property
    def counts(self) -> dict[str, int]:
        """Tokens left out in the windows begun so far, by reason and as "leftover"."""
        found = dict(self._counts_before)
        if self._begun:
            add_counts(found, self._counts_now)
            found["leftover"] += len(self._order_N) % self._batch
        return found

    @property
    def epoch(self) -> int:
        """Completed passes over the text."""
        return self._epoch

    def _begin(self) -> None:
        if self._begun:
            return
        size = self.windows.window(self._feed).size
        order_N = np.arange(size)
        if self.windows.shuffle:
            key = (TOKENS, self._epoch, self._window)
            order_N = self.windows.order.random(*key).permutation(size)
        self._order_N = torch.from_numpy(order_N)
        self._counts_now = dict(self.windows.window(self._feed).counts)
        self._begun = True

    def _advance(self) -> None:
        self._counts_before = self.counts
        self._window += 1
        self._position = 0
        self._begun = False
        if self._window == self.windows_per_epoch:
            self._epoch, self._window = self._epoch + 1, 0

    def state(self) -> dict[str, Any]:
        """Where the stream is, as plain JSON values for `restore`."""
        return {
            "epoch": self._epoch,
            "window": self._window,
            "position": self._position,
            "counts": dict(self._counts_before),
            **self._identity(),
        }

    def _identity(self) -> dict[str, Any]:
        windows, feed = self.windows, self.windows.feeds[self._feed]
        identity = {
            "seed": windows.seed,
            "batch": self._batch,
            "window_tokens": windows.window_tokens,
            "forward_batch": windows.forward_batch,
            "part": windows.part,
            "rows": windows.row_count,
            "tokens_hash": windows.table.meta.get("settings_hash"),
            "hook": _place(feed.point),
        }
        if feed.target is not None:
            identity["target"] = _place(feed.target)
        return identity

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to a recorded place; the next batch rebuilds the window by reading its rows again.

        Raises `Mismatch` if the state is of another stream.
        """
        for key, value in self._identity().items():
            if state.get(key) != value:
                raise Mismatch(
                    "The recorded position belongs to other data or settings "
                    f"({key} was {state.get(key)!r}, is {value!r})."
                )
        self._epoch, self._window = int(state["epoch"]), int(state["window"])
        self._position = int(state["position"])
        self._counts_before = {k: int(v) for k, v in state["counts"].items()}
        self._begun = False

    def close(self) -> None:
        """Close the windows, for all streams that share them."""
        self.windows.close()

    def __enter__(self) -> ActivationStream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _place(point: HookPoint) -> str:
    return f"blocks.{point.layer}.hook_{point.hook}"


def open_stream(
    loaded: LoadedModel,
    point: HookPoint,
    table: RowTable,
    statistics: StreamStatistics,
    *,
    batch: int,
    window: int,
    seed: int,
    folder: Path,
    norm_cut: float | None = None,
    part: str = "train",
    mask_special: bool = True,
    forward_batch: int = 0,
    on_fill: Callable[[int, int], None] | None = None,
    collective: Collective = SINGLE,
) -> ActivationStream:
    """The stream of one hook by itself, whose closing closes its windows."""
    windows = Windows(
        LiveReader(loaded, [point]),
        table,
        [Feed(point, statistics, norm_cut=norm_cut)],
        window=window,
        seed=seed,
        folder=folder,
        part=part,
        mask_special=mask_special,
        forward_batch=forward_batch,
        on_fill=on_fill,
        collective=collective,
    )
    try:
        return ActivationStream(windows, 0, batch=batch)
    except BaseException:
        windows.close()
        raise
