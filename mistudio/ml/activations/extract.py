"""Extraction: forward passes over a tokenisation, activations into shards, statistics beside."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mistudio.core.control import JobControl
from mistudio.core.errors import DiskFull, InvalidInput, OutOfMemory, from_os_error
from mistudio.core.events import Reporter
from mistudio.core.units import format_bytes
from mistudio.ml.activations.batch import Batch, rows_of
from mistudio.ml.activations.capture import check_ids
from mistudio.ml.activations.extract_state import Extraction, PendingShard
from mistudio.ml.activations.lines import DirectLines, Lines, ThreadLines
from mistudio.ml.activations.multi_capture import HookPoint, MultiCapture
from mistudio.ml.activations.shard_files import DTYPES, ShardFile
from mistudio.ml.activations.taken import Taken, take
from mistudio.ml.data.token_store import PADDING, TokenStore
from mistudio.ml.device import available_cores, peak_memory, synchronize
from mistudio.ml.loading import LoadedModel

SHARD_BYTES = 64 << 20
GPU_SHARD_BYTES = 256 << 20  # read in no more time, and fewer files
PROBE_BATCHES = 3
_WRITERS = 4  # threads beside a GPU
_WAITING_BYTES = 256 << 20  # activations that may wait for them
_BLOCK_FLOP = 2e10  # of a forward pass on a processor, between two looks at the cancel button


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
    shard_bytes: int = 0  # about as much per layer and hook and file; 0 goes by the device

    @property
    def points(self) -> list[HookPoint]:
        """Every layer and hook, layer by layer."""
        return [HookPoint(layer, hook) for layer in self.layers for hook in self.hooks]


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
    run = _Run(loaded, tokens, settings, folder, report, control)
    try:
        return run.finish(room)
    except OSError as error:
        raise from_os_error(error, "write the activations") from error
    finally:
        run.lines.close()


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
    try:
        for number in range(PROBE_BATCHES + 1):
            low = number * run.state.batch % max(1, run.rows)
            batch = Batch(tokens, low, min(run.rows, low + run.state.batch), None)
            began = time.monotonic()
            files = run.state.open_shard(len(batch))
            run.read(batch, files)
            run.end_shard(low, len(batch), [], files)
            run.record_shards(0)
            synchronize(loaded.device)
            seconds.append(time.monotonic() - began)
            counts.append(len(batch))
            report.progress((number + 1) / (PROBE_BATCHES + 1), "Probing")
    finally:
        run.lines.close()
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
        on_gpu = loaded.device.type == "cuda"
        size = settings.shard_bytes or (GPU_SHARD_BYTES if on_gpu else SHARD_BYTES)
        weights = {"fingerprint": loaded.facts.fingerprint, "format": loaded.format}
        self.state = Extraction(
            folder, settings, self._capture.widths, tokens, wanted, weights, size
        )
        self.lines: Lines = DirectLines(control.check)
        if on_gpu:
            threads = max(1, min(_WRITERS, available_cores() - 1, len(settings.points)))
            self.lines = ThreadLines(threads, _WAITING_BYTES, control.check)
        self._pending: deque[PendingShard] = deque()
        self._row = self._stored = 0  # rows and tokens read, whether or not they are on the disk
        self._counted = time.monotonic()  # up to where `state.seconds` counts

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
        self._row, self._stored = state.next_row, state.tokens
        while self._row < self.rows and self._left() != 0:
            if room is not None:
                self._check_room(room())
            self._write_shard()
        self.record_shards(0)
        if state.tokens == 0:
            raise InvalidInput("No token of these rows can be stored: all are padding.")
        state.seconds += time.monotonic() - self._counted
        state.complete(peak_memory(self._loaded.device), self._loaded.facts.name)
        self._report.progress(1.0, "Ready")
        return state

    def _left(self) -> int | None:
        """Tokens up to the limit, None without one."""
        limit = self._settings.tokens
        return max(0, limit - self._stored) if limit else None

    def _check_room(self, usable: int) -> None:
        needed = self.state.shard_rows * self._tokens.context * self.state.token_bytes
        usable = max(0, usable - self.lines.waiting_bytes)
        if needed > usable:
            self.record_shards(0)
            raise DiskFull(
                f"Needs {format_bytes(needed)} for the next shards, {format_bytes(usable)} are "
                "free. Whole shards are kept; free some space and retry."
            )

    def _write_shard(self) -> None:
        state, store = self.state, self._tokens
        low = self._row
        high = min(self.rows, low + state.shard_rows)
        left = self._left()
        count = int(np.count_nonzero(rows_of(store.mask, low, high) != PADDING))
        count = count if left is None else min(count, left)
        files = state.open_shard(count)
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
            row += batch.rows
            self._tell(row, stored)
        self._row, self._stored = high, self._stored + stored
        self.end_shard(high, stored, columns, files)
        self.record_shards(1)

    def end_shard(
        self,
        next_row: int,
        tokens: int,
        columns: list[tuple[np.ndarray, ...]],
        files: list[ShardFile],
    ) -> None:
        """Let the files take their names behind all that is written to them."""
        shard = PendingShard(next_row, tokens, columns, len(files))
        self._pending.append(shard)
        for i, file in enumerate(files):
            self.lines.put(i, partial(shard.finish, i, file, self.state.statistics[i]))

    def record_shards(self, most: int) -> None:
        """Wait until at most so many shards are on their way, and record the others."""
        while self._pending and (len(self._pending) > most or self._pending[0].is_whole):
            shard = self._pending[0]
            self.lines.wait(lambda shard=shard: shard.is_whole)
            self._pending.popleft()
            now = time.monotonic()
            self.state.add_shard(shard, now - self._counted)
            self._counted = now

    def read(self, batch: Batch, files: list[ShardFile]) -> None:
        """One forward pass: values into files and statistics, all of it or nothing."""
        if len(batch) == 0:
            return
        check_ids(batch.ids_BS, self._loaded.facts.vocab_size)
        dtype = DTYPES[self._settings.dtype]
        every = self.state.statistics
        taken: list[tuple[int, Taken]] = []

        def keep(i: int, x_BSD: torch.Tensor) -> None:
            self._control.check()
            found = take(batch.kept(x_BSD), dtype, every[i], batch.places)
            taken.append((i, found._replace(rows_TD=torch.empty(0))))
            self.lines.put(i, partial(self._append, files[i], found), found.rows_TD.nbytes)

        self._capture.run(batch.ids_BS, keep)
        first = not all(statistics.near_zero_below for statistics in every)
        counted: list[int] = []

        def commit(i: int, found: Taken) -> None:
            every[i].add(found.sums())
            every[i].clipped += found.clipped()
            files[i].commit()
            counted.append(i)

        for i, found in taken:
            self.lines.put(i, partial(commit, i, found))
        if first:  # it decides what near zero is for the others
            self.lines.wait(lambda: len(counted) == len(taken))

    def _append(self, file: ShardFile, found: Taken) -> None:
        found.wait()
        file.append(found.rows_TD, self.lines.check)

    def _halve(self, files: list[ShardFile]) -> None:
        for i, file in enumerate(files):
            self.lines.put(i, file.rollback)
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
        stored += self._stored
        done = max(row / self.rows, stored / limit if limit else 0.0)
        seconds = state.seconds + time.monotonic() - self._counted
        rate = stored / max(1e-9, seconds)
        eta = seconds * (1 - done) / done if done else None
        self._report.progress(min(done, 1.0), "Extracting", rate=f"{rate:,.0f} tokens/s", eta_s=eta)


def calm_batch(loaded: LoadedModel, context: int, batch: int) -> int:
    """Rows per forward pass: `batch`, on a processor so few that one block takes well under 1 s."""
    if loaded.device.type != "cpu":
        return batch
    weights = max(sum(p.numel() for p in block.parameters()) for block in loaded.blocks.modules)
    most = max(1, int(_BLOCK_FLOP / (2 * weights * context)))
    return min(batch, 1 << (most.bit_length() - 1))
