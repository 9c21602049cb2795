"""Extraction: forward passes over a tokenisation, activations into shards, statistics beside."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mistudio.core.control import JobControl
from mistudio.core.errors import DiskFull, InvalidInput, OutOfMemory, from_os_error
from mistudio.core.events import Reporter
from mistudio.core.units import format_bytes
from mistudio.ml.activations.capture import check_ids
from mistudio.ml.activations.extract_state import Extraction
from mistudio.ml.activations.multi_capture import HookPoint, MultiCapture
from mistudio.ml.activations.set_statistics import Places
from mistudio.ml.activations.shard_files import DTYPES, ShardFile
from mistudio.ml.data.token_store import PADDING, SPECIAL, TokenStore
from mistudio.ml.device import peak_memory, synchronize
from mistudio.ml.loading import LoadedModel

SHARD_BYTES = 64 << 20
PROBE_BATCHES = 3
_BLOCK_FLOP = 2e10  # of a forward pass on a processor, between two looks at the cancel button
_LARGEST_HALF = 65504.0


@dataclass(frozen=True)
class ExtractSettings:
    """What is read and how it is stored."""

    layers: tuple[int, ...]
    hooks: tuple[str, ...]
    rows: int = 0  # first rows of the tokenisation; 0 reads all
    tokens: int = 0  # end after so many stored tokens; 0 sets no limit
    batch: int = 32  # rows per forward pass, a power of two
    dtype: str = "fp16"  # fp16, bf16 or fp32
    container: str = "safetensors"  # or raw
    top_k: int = 100
    shard_bytes: int = SHARD_BYTES  # about as much per layer and hook and file

    @property
    def points(self) -> list[HookPoint]:
        """Every layer and hook, layer by layer."""
        return [HookPoint(layer, hook) for layer in self.layers for hook in self.hooks]


class Batch:
    """Some rows of a tokenisation: ids for the model and which tokens are stored."""

    def __init__(self, store: TokenStore, low: int, high: int, most_tokens: int | None) -> None:
        ids_BS, mask_BS = _rows_of(store.ids, low, high), _rows_of(store.mask, low, high)
        keep_BS = mask_BS != PADDING
        if most_tokens is not None:
            keep_BS &= (np.cumsum(keep_BS) <= most_tokens).reshape(keep_BS.shape)
        used = np.flatnonzero(keep_BS.any(0))
        length = int(used[-1]) + 1 if len(used) else 0  # what stands behind cannot be seen
        self.ids_BS = torch.from_numpy(ids_BS[:, :length].astype(np.int64))
        self.keep_BS = torch.from_numpy(keep_BS[:, :length])
        row_T, position_T = np.nonzero(keep_BS)
        self.places = Places(
            ids_BS[row_T, position_T].astype(np.int32),
            (row_T + low).astype(np.int32),
            position_T.astype(np.int32),
        )
        self.special_T = (mask_BS[row_T, position_T] == SPECIAL).astype(np.uint8)
        self.whole = bool(self.keep_BS.all())

    def __len__(self) -> int:
        return len(self.special_T)

    def kept(self, x_BSD: torch.Tensor) -> torch.Tensor:
        """The stored tokens of the batch's activations, x_TD."""
        x_TD = x_BSD.flatten(0, 1)
        return x_TD if self.whole else x_TD[self.keep_BS.flatten().to(x_TD.device)]


def _rows_of(array: np.ndarray, low: int, high: int) -> np.ndarray:
    """Rows read as from a file: pages of a memory map would add up to the process's memory."""
    if not isinstance(array, np.memmap) or array.filename is None:
        return array[low:high]
    width = array.shape[1]
    at = array.offset + low * width * array.itemsize
    flat = np.fromfile(array.filename, array.dtype, (high - low) * width, offset=at)
    return flat.reshape(-1, width)


def extract(
    loaded: LoadedModel,
    tokens: TokenStore,
    settings: ExtractSettings,
    folder: Path,
    report: Reporter,
    control: JobControl,
    room: Callable[[], int] | None = None,
) -> Extraction:
    """Fill `folder` with a whole activation set; what an earlier try left there is gone on with.

    One truncated pass fills all hooks; each batch is written as it comes, so memory does not grow
    with the tokens. `room` tells the bytes that may still be written. Raises `DiskFull`,
    `OutOfMemory` when one row does not fit, `InvalidInput` for tokens of another vocabulary.
    """
    try:
        return _Run(loaded, tokens, settings, folder, report, control).finish(room)
    except OSError as error:
        raise from_os_error(error, "write the activations") from error


def probe_rate(
    loaded: LoadedModel,
    tokens: TokenStore,
    settings: ExtractSettings,
    folder: Path,
    report: Reporter,
    control: JobControl,
) -> float:
    """Stored tokens per second over three batches after one that does not count."""
    run = _Run(loaded, tokens, settings, folder, report, control)
    seconds: list[float] = []
    counts: list[int] = []
    for number in range(PROBE_BATCHES + 1):
        low = number * run.state.batch % max(1, run.rows)
        high = min(run.rows, low + run.state.batch)
        batch = Batch(tokens, low, high, None)
        began = time.monotonic()
        files = run.open_files(len(batch))
        run.read(batch, files)
        for file in files:
            file.finish()
        synchronize(loaded.device)
        seconds.append(time.monotonic() - began)
        counts.append(len(batch))
        report.progress((number + 1) / (PROBE_BATCHES + 1), "Probing")
    return max(1, sum(counts[1:])) / max(1e-9, sum(seconds[1:]))


class _Run:
    """One turn of an extraction."""

    def __init__(
        self,
        loaded: LoadedModel,
        tokens: TokenStore,
        settings: ExtractSettings,
        folder: Path,
        report: Reporter,
        control: JobControl,
    ) -> None:
        self._loaded, self._tokens, self._settings = loaded, tokens, settings
        self._folder, self._report, self._control = folder, report, control
        self.rows = min(settings.rows or len(tokens), len(tokens))
        if self.rows == 0:
            raise InvalidInput("This tokenisation has no rows to read.")
        self._capture = MultiCapture(loaded, settings.points, control.check)
        wanted = calm_batch(loaded, tokens.context, settings.batch)
        weights = {"fingerprint": loaded.facts.fingerprint, "format": loaded.format}
        self.state = Extraction(folder, settings, self._capture.widths, tokens, wanted, weights)
        self._speed: tuple[float, int] = (time.monotonic(), 0)

    def finish(self, room: Callable[[], int] | None) -> Extraction:
        """Write the shards that are missing, then the description and the statistics."""
        state, settings = self.state, self._settings
        if state.resume():
            self._report.note(f"Goes on after {len(state.shards):,} whole shards.")
        if state.batch < settings.batch:
            self._report.note(
                f"{state.batch:,} rows go through the model at a time, so that memory and a "
                "cancel stay in hand."
            )
        while state.next_row < self.rows and self._left() != 0:
            if room is not None:
                self._check_room(room())
            self._write_shard()
        if state.tokens == 0:
            raise InvalidInput("No token of these rows can be stored: all are padding.")
        state.seconds += time.monotonic() - self._speed[0]
        state.complete(peak_memory(self._loaded.device), self._loaded.facts.name)
        self._report.progress(1.0, "Ready")
        return state

    def _left(self) -> int | None:
        """Tokens up to the limit, None without one."""
        limit = self._settings.tokens
        return max(0, limit - self.state.tokens) if limit else None

    def _check_room(self, usable: int) -> None:
        needed = self.state.shard_rows * self._tokens.context * self.state.token_bytes
        if needed > usable:
            raise DiskFull(
                f"Needs {format_bytes(needed)} for the next shards, {format_bytes(usable)} are "
                "free. Whole shards are kept; free some space and retry."
            )

    def _write_shard(self) -> None:
        state, store = self.state, self._tokens
        low = state.next_row
        high = min(self.rows, low + state.shard_rows)
        left = self._left()
        count = int(np.count_nonzero(_rows_of(store.mask, low, high) != PADDING))
        count = count if left is None else min(count, left)
        files = self.open_files(count)
        columns: list[tuple[np.ndarray, ...]] = []
        stored = 0
        row = low
        while row < high and stored < count:
            self._control.check()
            batch = Batch(store, row, min(row + state.batch, high), count - stored)
            try:
                self.read(batch, files)
            except OutOfMemory:
                self._halve(files)
                continue
            stored += len(batch)
            columns.append((*batch.places, batch.special_T))
            row += len(batch.keep_BS)
            self._tell(row, stored)
        state.add_shard(high, stored, files, columns, time.monotonic() - self._speed[0])
        self._speed = (time.monotonic(), self._speed[1])

    def open_files(self, count: int) -> list[ShardFile]:
        """A file for each layer and hook that will hold `count` tokens."""
        return [self.state.open_shard(i, count) for i in range(len(self._settings.points))]

    def read(self, batch: Batch, files: list[ShardFile]) -> None:
        """One forward pass: values into files and statistics, all of it or nothing."""
        if len(batch) == 0:
            return
        check_ids(batch.ids_BS, self._loaded.facts.vocab_size)
        dtype = DTYPES[self._settings.dtype]
        measured = []

        def take(i: int, x_BSD: torch.Tensor) -> None:
            self._control.check()
            x_TD = batch.kept(x_BSD)
            statistics = self.state.statistics[i]
            sums = statistics.measure(x_TD, batch.places)
            clipped = 0
            if dtype is torch.float16 and x_TD.dtype is not torch.float16:
                largest = float(sums.norm_T.max()) if len(sums.norm_T) else 0.0
                if sums.non_finite or largest > _LARGEST_HALF:
                    clipped = int((x_TD.abs() > _LARGEST_HALF).sum())
                    x_TD = x_TD.clamp(-_LARGEST_HALF, _LARGEST_HALF)
            files[i].append(x_TD.to(dtype))
            measured.append((i, sums, clipped))

        self._capture.run(batch.ids_BS, take)
        for i, sums, clipped in measured:
            self.state.statistics[i].add(sums)
            self.state.statistics[i].clipped += clipped
            files[i].commit()

    def _halve(self, files: list[ShardFile]) -> None:
        for file in files:
            file.rollback()
        if self._loaded.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.state.batch == 1:
            raise OutOfMemory(
                f"One row of {self._tokens.context:,} tokens does not fit into memory. Use shorter "
                "rows, a smaller format of the model, or free memory."
            )
        self.state.batch //= 2
        self._report.note(
            f"Out of memory: {self.state.batch:,} rows at a time from here.", level="warning"
        )

    def _tell(self, row: int, stored: int) -> None:
        state = self.state
        limit = self._settings.tokens
        done = max(row / self.rows, (state.tokens + stored) / limit if limit else 0.0)
        seconds = state.seconds + time.monotonic() - self._speed[0]
        rate = (state.tokens + stored) / max(1e-9, seconds)
        eta = seconds * (1 - done) / done if done else None
        self._report.progress(min(done, 1.0), "Extracting", rate=f"{rate:,.0f} tokens/s", eta_s=eta)


def calm_batch(loaded: LoadedModel, context: int, batch: int) -> int:
    """Rows per forward pass: `batch`, on a processor so few that one block takes well under 1 s."""
    if loaded.device.type != "cpu":
        return batch
    weights = max(sum(p.numel() for p in block.parameters()) for block in loaded.blocks.modules)
    most = max(1, int(_BLOCK_FLOP / (2 * weights * context)))
    return min(batch, 1 << (most.bit_length() - 1))
