"""Windows of activations on disk, filled by one pass over their rows for all hooks."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from mistudio.core.errors import InvalidInput, Mismatch, OutOfMemory, from_os_error
from mistudio.ml.activations.masking import (
    AT_LISTED,
    REASONS,
    add_counts,
    default_forward_batch,
    keep_mask,
    keep_pair,
)
from mistudio.ml.activations.multi_capture import HookPoint
from mistudio.ml.activations.readers import RowReader
from mistudio.ml.activations.row_order import RowOrder
from mistudio.ml.activations.statistics import StreamStatistics
from mistudio.ml.collective import SINGLE, Collective
from mistudio.ml.data.row_table import RowTable, usable


@dataclass(frozen=True)
class Feed:
    """What one or more SAEs read: a hook's activations, and a target's if they map to another.

    `norm_cut` None takes that of the statistics. Tokens are masked by both.
    """

    point: HookPoint
    statistics: StreamStatistics
    target: HookPoint | None = None
    target_statistics: StreamStatistics | None = None
    norm_cut: float | None = None

    @property
    def name(self) -> str:
        """As files call it."""
        return self.point.name if self.target is None else f"{self.point.name}-{self.target.name}"

    @property
    def norm_limits(self) -> tuple[float, float]:
        """Tokens with larger norms, of the input or the target, do not count."""
        limits = [
            (own.norm_cut if self.norm_cut is None else self.norm_cut) * own.median_norm
            for own in (self.statistics, self.target_statistics or self.statistics)
        ]
        return limits[0], limits[1]


@dataclass
class Window:
    """What is in a feed's file: so many kept tokens, from where, and how many were left out."""

    file_NC: torch.Tensor  # d_in columns of the input, then d_out of the target
    place_N2: np.ndarray  # row and position of each token, int32
    size: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))


class Windows:
    """One window at a time, memory-mapped, for every feed; the pass over the rows is shared."""

    def __init__(
        self,
        reader: RowReader,
        table: RowTable,
        feeds: Sequence[Feed],
        *,
        window: int,
        seed: int,
        folder: Path,
        part: str = "train",
        mask_special: bool = True,
        forward_batch: int = 0,
        dtype: torch.dtype = torch.float16,
        shuffle: bool = True,
        on_fill: Callable[[int, int], None] | None = None,
        on_note: Callable[[str], None] | None = None,
        collective: Collective = SINGLE,
    ) -> None:
        """`folder` gets the window files; `forward_batch` 0 takes about 2,048 tokens.

        `on_fill(rows done, rows of the window)` is called before each forward pass; what it raises
        ends the filling. The processes of `collective` read the rows of a window in turns and all
        hold all of it; `on_fill` is then called once a round. Raises `DiskFull` if the windows
        have no room, `InvalidInput` if the reader holds none of the rows.
        """
        self.reader, self.table, self.feeds = reader, table, list(feeds)
        self.part, self.seed, self.window_tokens = part, seed, window
        self.mask_special, self.shuffle = mask_special, shuffle
        self.forward_batch = forward_batch or default_forward_batch(table.context)
        self._forward_now = self.forward_batch
        self._on_fill, self._on_note = on_fill, on_note
        self._collective = collective
        groups = [
            group._replace(rows=group.rows[reader.holds(table, group.rows)])
            for group in table.groups(part)
        ]
        if any(len(group.rows) == 0 for group in groups):
            raise InvalidInput("There is no row to train on in this text and these activations.")
        self.usable_tokens = sum(self._usable(group.rows) for group in groups)
        per_row = [self._usable(group.rows) / len(group.rows) for group in groups]
        self.order = RowOrder(groups, per_row, window, seed, shuffle=shuffle)
        self.row_count = sum(len(group.rows) for group in groups)
        self.filled: tuple[int, int] | None = None
        self._paths = [folder / f"window-{feed.name}.bin" for feed in self.feeds]
        self._columns = [self._columns_of(feed) for feed in self.feeds]
        self._windows = [
            self._open(path, sum(columns), dtype)
            for path, columns in zip(self._paths, self._columns, strict=True)
        ]
        # Stored values are multiplied by a power of two near s, which is exact and keeps any
        # model's activations inside the range of fp16.
        self._shifts = [
            [_shift(s) for s in (feed.statistics, feed.target_statistics) if s is not None]
            for feed in self.feeds
        ]

    def _usable(self, rows: np.ndarray) -> int:
        return int(usable(self.table.mask[rows], self.mask_special).sum())

    def _columns_of(self, feed: Feed) -> list[int]:
        points = list(self.reader.points)
        widths = []
        for point, statistics in (
            (feed.point, feed.statistics),
            (feed.target, feed.target_statistics),
        ):
            if point is None or statistics is None:
                continue
            width = self.reader.widths[points.index(point)]
            if statistics.d != width:
                raise Mismatch(f"The statistics have width {statistics.d}, the hook {width}.")
            widths.append(width)
        return widths

    def _open(self, path: Path, width: int, dtype: torch.dtype) -> Window:
        count = self.order.most_rows * self.table.context
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as stream:
                # Reserved now: a full disk is an error here, but a crash in a mapped write.
                os.posix_fallocate(stream.fileno(), 0, count * width * dtype.itemsize)
        except OSError as error:
            for own in self._paths:
                own.unlink(missing_ok=True)
            raise from_os_error(error, "make room for the activations") from error
        flat = torch.from_file(str(path), shared=True, size=count * width, dtype=dtype)
        return Window(flat.view(count, width), np.zeros((count, 2), dtype=np.int32))

    def window(self, feed: int) -> Window:
        """What the feed's file holds."""
        return self._windows[feed]

    def take(self, feed: int, chosen_B: torch.Tensor) -> list[torch.Tensor]:
        """x_BD, and y_BO if the feed has a target: float32, unscaled, on the reader's device."""
        held_BC = self._windows[feed].file_NC.index_select(0, chosen_B)
        held_BC = held_BC.to(self.reader.device, torch.float32)
        parts = held_BC.split(self._columns[feed], dim=1)
        return [part.div(shift) for part, shift in zip(parts, self._shifts[feed], strict=True)]

    def bring(self, epoch: int, window: int) -> None:
        """Fill the files with a window, unless they hold it."""
        wanted = (epoch, window)
        if self.filled is not None and self.order.same_rows(self.filled, wanted):
            self.filled = wanted
            return
        self.filled = None
        try:
            self._fill(self.order.rows(epoch, window))
        finally:
            self.reader.rest()
        self.filled = wanted

    def _fill(self, rows: np.ndarray) -> None:
        for held in self._windows:
            held.size, held.counts = 0, dict.fromkeys(REASONS, 0)
        done, together = 0, self._collective
        if self._on_fill is not None:
            self._on_fill(0, len(rows))
        while done < len(rows):
            if together.size == 1:
                done += self._read(rows[done : done + self._forward_now])
            else:
                chunk = self.forward_batch
                low = done + together.rank * chunk
                self._read_shared(rows[low : low + chunk])
                done = min(len(rows), done + together.size * chunk)
            if self._on_fill is not None:
                self._on_fill(done, len(rows))

    def _read(self, chosen: np.ndarray) -> int:
        """Add rows to the windows; 0, and fewer rows at a time, if they do not fit into memory."""
        before = [(held.size, dict(held.counts)) for held in self._windows]
        pending: dict[int, torch.Tensor] = {}

        def take(i: int, x_BSD: torch.Tensor) -> None:
            self._take(self.reader.points[i], x_BSD, chosen, pending)

        try:
            self.reader.read(self.table, chosen, take)
        except OutOfMemory:
            if self._forward_now == 1:
                raise
            for held, (size, counts) in zip(self._windows, before, strict=True):
                held.size, held.counts = size, counts
            self._halve()
            return 0
        return len(chosen)

    def _read_shared(self, own: np.ndarray) -> None:
        """Add this process's rows of a round, and those of the others, by rank."""
        before = [(held.size, dict(held.counts)) for held in self._windows]
        done = 0
        while done < len(own):
            done += self._read(own[done : done + self._forward_now])
        for held, (at, counts) in zip(self._windows, before, strict=True):
            files = self._collective.gather(held.file_NC[at : held.size])
            places = self._collective.gather(torch.from_numpy(held.place_N2[at : held.size]))
            self._share_counts(held, counts)
            for file_NC, place_N2 in zip(files, places, strict=True):
                stop = at + len(file_NC)
                held.file_NC[at:stop] = file_NC
                held.place_N2[at:stop] = place_N2.numpy()
                at = stop
            held.size = at

    def _share_counts(self, held: Window, before: dict[str, int]) -> None:
        """Let a window count what all processes left out since it counted `before`."""
        reasons = (*REASONS, AT_LISTED)
        own = [held.counts.get(reason, 0) - before.get(reason, 0) for reason in reasons]
        summed = self._collective.sum_(torch.tensor(own)).tolist()
        held.counts = before
        add_counts(before, {r: n for r, n in zip(reasons, summed, strict=True) if n})

    def _take(
        self,
        point: HookPoint,
        x_BSD: torch.Tensor,
        rows: np.ndarray,
        pending: dict[int, torch.Tensor],
    ) -> None:
        """Write what a point gives; of a feed that has a target, once both are there."""
        for number, feed in enumerate(self.feeds):
            if feed.target is None:
                if feed.point == point:
                    self._write(number, [x_BSD], rows)
            elif feed.point == feed.target == point:
                self._write(number, [x_BSD, x_BSD], rows)
            elif point in (feed.point, feed.target):
                if number not in pending:
                    pending[number] = x_BSD.clone()  # valid only while its hook runs
                    continue
                other_BSD = pending.pop(number)
                both = [x_BSD, other_BSD] if feed.point == point else [other_BSD, x_BSD]
                self._write(number, both, rows)

    def _write(self, number: int, parts: list[torch.Tensor], rows: np.ndarray) -> None:
        feed, held = self.feeds[number], self._windows[number]
        mask, limits = self.table.mask[rows], feed.norm_limits
        if len(parts) == 1:
            kept = keep_mask(parts[0], mask, norm_limit=limits[0], mask_special=self.mask_special)
        else:
            kept = keep_pair(
                parts[0], parts[1], mask, norm_limits=limits, mask_special=self.mask_special
            )
        keep_BS = kept.keep_BS
        add_counts(held.counts, kept.dropped)
        at, low = held.size, 0
        row_T, position_T = np.nonzero(keep_BS.cpu().numpy())
        stop = at + len(row_T)
        for part_BSD, shift in zip(parts, self._shifts[number], strict=True):
            x_TD = part_BSD[keep_BS].mul(shift)
            held.file_NC[at:stop, low : low + x_TD.shape[1]] = x_TD.to(held.file_NC.dtype).cpu()
            low += x_TD.shape[1]
        held.place_N2[at:stop, 0] = rows[row_T]
        held.place_N2[at:stop, 1] = position_T
        held.size = stop

    def _halve(self) -> None:
        self._forward_now //= 2
        if self._on_note is not None:
            self._on_note(
                "The model ran out of memory; forward passes go on with "
                f"{self._forward_now:,} rows at a time."
            )

    def close(self) -> None:
        """Remove the window files; nothing can be read afterwards."""
        self._windows = []
        self.filled = None
        for path in self._paths:
            path.unlink(missing_ok=True)

    def __enter__(self) -> Windows:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _shift(statistics: StreamStatistics) -> float:
    return 2.0 ** math.floor(math.log2(statistics.scale))
