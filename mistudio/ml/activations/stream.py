"""Single-token activations in random order, window by window, reproducible to the byte."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from mistudio.core.errors import InvalidInput, Mismatch, from_os_error
from mistudio.ml.activations.capture import Capture
from mistudio.ml.activations.masking import (
    REASONS,
    Kept,
    RowBatch,
    default_forward_batch,
    iterate_rows,
    keep_mask,
)
from mistudio.ml.activations.statistics import (
    StatisticsSettings,
    StreamStatistics,
    reference_statistics,
)
from mistudio.ml.data.token_store import CONTENT, PADDING, TokenStore

__all__ = [
    "ActivationStream",
    "Kept",
    "RowBatch",
    "StatisticsSettings",
    "StreamStatistics",
    "default_forward_batch",
    "iterate_rows",
    "keep_mask",
    "reference_statistics",
]

_ROWS, _TOKENS = 1, 2  # which permutation a random key is for


class ActivationStream:
    """Endless batches x_BD (float32, unscaled, on the model's device) of tokens that count.

    An epoch visits every row of a part once, in an order keyed by (seed, epoch), cut into equal
    windows of at least `window` kept tokens; a text with fewer is one window. The activations of
    a window are written to a memory-mapped file, and batches are drawn from it by a permutation of
    single tokens keyed by (seed, epoch, window), which is recomputed and never stored. The tokens
    that do not fill a window's last batch are left out and counted as "leftover"; another epoch's
    permutation leaves out others.

    `state` and `restore` continue a stream to the byte, given the same number of threads.
    """

    def __init__(
        self,
        capture: Capture,
        tokens: TokenStore,
        *,
        part: str = "train",
        batch: int,
        window: int,
        seed: int,
        statistics: StreamStatistics,
        mask_special: bool = True,
        norm_cut: float | None = None,
        forward_batch: int = 0,
        folder: Path,
        dtype: torch.dtype = torch.float16,
        on_fill: Callable[[int, int], None] | None = None,
    ) -> None:
        """`folder` gets the window file; `forward_batch` 0 takes about 2,048 tokens.

        `on_fill(rows done, rows of the window)` is called before each forward pass; what it raises
        ends the filling, and the stream stays where it was. Raises `InvalidInput` if the part has
        less than a batch of tokens, `DiskFull` if the window has no room.
        """
        if statistics.d != capture.d:
            raise Mismatch(f"The statistics have width {statistics.d}, the hook {capture.d}.")
        self._capture, self._tokens = capture, tokens
        self._rows = np.array(tokens.rows(part))
        self._part, self._batch, self._seed = part, batch, seed
        self._window_tokens = window
        self._mask_special = mask_special
        cut = statistics.norm_cut if norm_cut is None else norm_cut
        self._norm_limit = cut * statistics.median_norm
        self._forward_batch = forward_batch or default_forward_batch(tokens.context)
        # Stored values are multiplied by a power of two near s, which is exact and keeps any
        # model's activations inside the range of fp16.
        self._shift = 2.0 ** math.floor(math.log2(statistics.scale))
        self._on_fill = on_fill
        usable = self._usable_tokens()
        if usable < batch:
            raise InvalidInput(
                f"The text has {usable:,} tokens to learn from, fewer than one batch of {batch:,}; "
                "use more text or a smaller batch."
            )
        self.windows_per_epoch = max(1, usable // window)
        self._path = folder / "window.bin"
        self._file_ND = self._open_file(dtype)
        self._place_N2 = np.zeros((len(self._file_ND), 2), dtype=np.int32)  # row and position

        self._epoch = self._window = self._position = 0
        self._size = -1  # kept tokens of the current window; -1: not begun
        self._held = 0  # kept tokens in the file
        self._filled: tuple[int, int] | None = None  # epoch and window that the file holds
        self._order_N = torch.zeros(0, dtype=torch.int64)
        self._window_counts: dict[str, int] = dict.fromkeys((*REASONS, "leftover"), 0)
        self._counts_before = dict(self._window_counts)
        self._last_N = np.zeros(0, dtype=np.int64)

    def _usable_tokens(self) -> int:
        rows = slice(int(self._rows[0]), int(self._rows[-1]) + 1)
        mask = self._tokens.mask[rows]
        return int(((mask == CONTENT) if self._mask_special else (mask != PADDING)).sum())

    def _open_file(self, dtype: torch.dtype) -> torch.Tensor:
        largest = -(-len(self._rows) // self.windows_per_epoch)
        count = largest * self._tokens.context
        width = self._capture.d
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("wb") as stream:
                # Reserved now: a full disk is an error here, but a crash in a mapped write.
                os.posix_fallocate(stream.fileno(), 0, count * width * dtype.itemsize)
        except OSError as error:
            self._path.unlink(missing_ok=True)
            raise from_os_error(error, "make room for the activations") from error
        flat = torch.from_file(str(self._path), shared=True, size=count * width, dtype=dtype)
        return flat.view(count, width)

    def __iter__(self) -> ActivationStream:
        return self

    def __next__(self) -> torch.Tensor:
        """The next batch; fills the next window first if needed."""
        without_batch = 0
        while True:
            self._fill()
            if self._position + self._batch <= self._size:
                break
            self._advance()
            without_batch += 1
            if without_batch > self.windows_per_epoch:
                raise InvalidInput(
                    "Too few tokens are left after masking to make a batch; use more text, a "
                    "smaller batch or a higher norm cut."
                )
        chosen_B = self._order_N[self._position : self._position + self._batch]
        self._position += self._batch
        self._last_N = chosen_B.numpy()
        x_BD = self._file_ND.index_select(0, chosen_B)
        x_BD = x_BD.to(self._capture.device, torch.float32)
        return x_BD.div_(self._shift)

    @property
    def last_docs(self) -> np.ndarray:
        """Document of each token of the batch returned last, int32 [B]."""
        row_B, position_B = self._place_N2[self._last_N].T
        return np.asarray(self._tokens.docs[row_B, position_B])

    @property
    def last_positions(self) -> np.ndarray:
        """Row and position in the row of each token of the batch returned last, int32 [B, 2]."""
        return self._place_N2[self._last_N]

    @property
    def counts(self) -> dict[str, int]:
        """Tokens left out in the windows begun so far, by reason and as "leftover"."""
        current = self._window_counts if self._size >= 0 else {}
        return {k: v + current.get(k, 0) for k, v in self._counts_before.items()}

    @property
    def epoch(self) -> int:
        """Completed passes over the text."""
        return self._epoch

    def _advance(self) -> None:
        self._counts_before = self.counts
        self._window += 1
        self._position = 0
        self._size = -1
        if self._window == self.windows_per_epoch:
            self._epoch, self._window = self._epoch + 1, 0

    def _window_rows(self) -> np.ndarray:
        if self.windows_per_epoch == 1:
            return self._rows  # one window: only the order of its tokens matters
        order = self._random(_ROWS, self._epoch).permutation(self._rows)
        return np.array_split(order, self.windows_per_epoch)[self._window]

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self._seed, *key])))

    def _fill(self) -> None:
        """Bring the current window into the file, unless it is there."""
        if self._size >= 0:
            return
        whole_text = self.windows_per_epoch == 1
        if self._filled is None or not (whole_text or self._filled == (self._epoch, self._window)):
            self._filled = None
            self._held = self._run_model(self._window_rows())
            self._filled = (self._epoch, self._window)
        size = self._held
        order = self._random(_TOKENS, self._epoch, self._window).permutation(size)
        self._order_N = torch.from_numpy(order)
        self._window_counts["leftover"] = size % self._batch
        self._size = size

    def _run_model(self, rows: np.ndarray) -> int:
        """Write the kept activations of rows to the file; returns how many."""
        counts: dict[str, int] = dict.fromkeys(self._window_counts, 0)
        at = done = 0
        if self._on_fill is not None:
            self._on_fill(0, len(rows))
        for batch in iterate_rows(
            self._capture,
            self._tokens,
            rows,
            self._forward_batch,
            norm_limit=self._norm_limit,
            mask_special=self._mask_special,
        ):
            for reason, count in batch.dropped.items():
                counts[reason] += count
            x_TD = batch.x_BSD[batch.keep_BS]
            stop = at + len(x_TD)
            self._file_ND[at:stop] = x_TD.mul(self._shift).to(self._file_ND.dtype).cpu()
            row_T, position_T = np.nonzero(batch.keep_BS.cpu().numpy())
            self._place_N2[at:stop, 0] = batch.rows[row_T]
            self._place_N2[at:stop, 1] = position_T
            at = stop
            done += len(batch.rows)
            if self._on_fill is not None:
                self._on_fill(done, len(rows))
        self._window_counts = counts
        return at

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
        meta = self._tokens.meta
        return {
            "seed": self._seed,
            "batch": self._batch,
            "window_tokens": self._window_tokens,
            "forward_batch": self._forward_batch,
            "part": self._part,
            "rows": len(self._rows),
            "tokens_hash": meta.get("settings_hash"),
            "hook": self._capture.tl_name,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to a recorded place; the next batch rebuilds the window by running the model again.

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
        self._size = -1

    def close(self) -> None:
        """Remove the window file; the stream cannot be used afterwards."""
        self._file_ND = torch.zeros(0, self._capture.d, dtype=self._file_ND.dtype)
        self._size, self._filled = -1, None
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> ActivationStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
