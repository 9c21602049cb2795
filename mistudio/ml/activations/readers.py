"""Where activations of rows come from: a model's forward pass, or a stored activation set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch

from mistudio.core.errors import InvalidInput, Mismatch
from mistudio.ml.activations.capture import check_ids
from mistudio.ml.activations.multi_capture import HookPoint, MultiCapture
from mistudio.ml.activations.shards import ActivationSet
from mistudio.ml.data.row_table import RowTable
from mistudio.ml.data.token_store import PADDING
from mistudio.ml.loading import LoadedModel

Take = Callable[[int, torch.Tensor], None]


class RowReader(Protocol):
    """Gives the activations of several hook points for rows of a text."""

    @property
    def points(self) -> Sequence[HookPoint]: ...

    @property
    def widths(self) -> Sequence[int]: ...

    @property
    def device(self) -> torch.device: ...

    def read(self, table: RowTable, rows: np.ndarray, take: Take) -> None:
        """`take(i, x_BSD)` gets each point's activations once, valid only inside the call."""
        ...

    def holds(self, table: RowTable, rows: np.ndarray) -> np.ndarray:
        """Which of the rows can be read, bool."""
        ...

    def rest(self) -> None:
        """Nothing more is read for now: what reading takes may be let go until it goes on."""
        ...


class LiveReader:
    """One truncated forward pass gives all points."""

    def __init__(self, loaded: LoadedModel, points: Sequence[HookPoint]) -> None:
        """Raises as `MultiCapture` does for places that cannot be read."""
        self._capture = MultiCapture(loaded, points)
        self._vocab_size = loaded.facts.vocab_size

    @property
    def points(self) -> Sequence[HookPoint]:
        return self._capture.points

    @property
    def widths(self) -> Sequence[int]:
        return self._capture.widths

    @property
    def device(self) -> torch.device:
        return self._capture.device

    def read(self, table: RowTable, rows: np.ndarray, take: Take) -> None:
        """Raises `InvalidInput` for tokens of another vocabulary, `OutOfMemory`."""
        ids_BS = torch.from_numpy(table.ids[rows].astype(np.int64))
        check_ids(ids_BS, self._vocab_size)
        self._capture.run(ids_BS, take)

    def holds(self, table: RowTable, rows: np.ndarray) -> np.ndarray:
        return np.ones(len(rows), dtype=bool)

    def rest(self) -> None:
        """Keeps the model: it is its owner's to let go."""


class SetReader:
    """Rows of a stored activation set, in its precision."""

    def __init__(
        self, stored: ActivationSet, points: Sequence[HookPoint], device: torch.device
    ) -> None:
        """Raises `InvalidInput` if the set lacks one of the points."""
        self.points = list(points)
        self.widths = [stored.width(*point) for point in points]
        self.device = device
        self._set = stored
        self._starts = _row_starts(stored)

    def read(self, table: RowTable, rows: np.ndarray, take: Take) -> None:
        """Padding, which is not stored, reads as zeros. Raises `Damaged`, `NotFound`."""
        for i, (point, width) in enumerate(zip(self.points, self.widths, strict=True)):
            x_BSD = torch.zeros(len(rows), table.context, width, dtype=self._set.dtype)
            for b, row in enumerate(rows.tolist()):
                low, high = int(self._starts[row]), int(self._starts[row + 1])
                x_BSD[b, : high - low] = self._set.rows(*point, low, high)
            take(i, x_BSD.to(self.device, torch.float32))

    def holds(self, table: RowTable, rows: np.ndarray) -> np.ndarray:
        """Rows of which every token is stored."""
        last = len(self._starts) - 1
        inside = rows < last
        known = np.where(inside, rows, 0)
        counts = self._starts[np.minimum(known + 1, last)] - self._starts[known]
        wanted = (table.mask[rows] != PADDING).sum(1)
        return inside & (counts == wanted)

    def rest(self) -> None:
        """Files that are mapped take nothing."""


def stored_rows(
    stored: ActivationSet, table: RowTable, points: Sequence[HookPoint], device: torch.device
) -> SetReader:
    """A reader of a set that was made from this very text; raises `Mismatch` if it was not."""
    here = (table.meta.get("settings_hash"), table.context)
    if (stored.meta.get("tokens_hash"), stored.meta.get("context")) != here:
        raise Mismatch(
            "These activations were extracted from another text than the one chosen; choose the "
            "tokenisation they were made from."
        )
    reader = SetReader(stored, points, device)
    if not len(stored):
        raise InvalidInput("This activation set is empty.")
    return reader


def _row_starts(stored: ActivationSet) -> np.ndarray:
    """Number of the first stored token of each row, int64 [rows + 1]; rows are stored in order."""
    counts = np.zeros(0, dtype=np.int64)
    step, total = 1 << 22, len(stored)
    for low in range(0, total, step):
        rows = stored.tokens(low, min(total, low + step))["rows"]
        found = np.bincount(rows, minlength=len(counts))
        found[: len(counts)] += counts
        counts = found
    return np.concatenate([[0], np.cumsum(counts)])
