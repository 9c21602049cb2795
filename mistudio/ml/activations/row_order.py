"""Which rows are read in which window: the order of the data, recomputed from a seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mistudio.ml.data.token_store import RowGroup

ROWS, TOKENS = 1, 2  # which permutation a random key is for


class RowOrder:
    """Cuts the endless order of rows into windows of about equal size.

    One text: an epoch visits every row once, in an order keyed by (seed, epoch), cut into equal
    windows. Several: each window takes rows of every text by its weight, each text going round in
    its own epochs; an epoch is then one round of the text that lasts longest.
    """

    def __init__(
        self,
        groups: Sequence[RowGroup],
        tokens_per_row: Sequence[float],
        window: int,
        seed: int,
        *,
        shuffle: bool = True,
    ) -> None:
        """`tokens_per_row` is the mean number of usable tokens of each group's rows, `window` the
        least tokens of a window; without `shuffle` rows come in their own order."""
        self._groups, self._seed, self._shuffle = list(groups), seed, shuffle
        per_row = np.array([max(float(n), 1e-9) for n in tokens_per_row])
        held = np.array([len(group.rows) for group in groups])
        self._takes = None
        if len(self._groups) == 1:
            self.windows_per_epoch = max(1, int(held[0] * per_row[0]) // window)
            self.most_rows = int(-(-held[0] // self.windows_per_epoch))
            return
        weights = np.array([group.weight for group in groups])
        wanted = weights / weights.sum() * window / per_row
        wanted *= min(1.0, float((held / wanted).min()))  # no row twice in a window
        self._takes = np.maximum(1, np.floor(wanted)).astype(np.int64)
        self.windows_per_epoch = max(1, int((held // self._takes).max()))
        self.most_rows = int(self._takes.sum())

    def rows(self, epoch: int, window: int) -> np.ndarray:
        """Row numbers of a window, int64."""
        if self._takes is None:
            rows = self._groups[0].rows
            if self._shuffle and self.windows_per_epoch > 1:  # in one, tokens are mixed anyway
                rows = self.random(ROWS, epoch).permutation(rows)
            return np.array_split(rows, self.windows_per_epoch)[window]
        number = epoch * self.windows_per_epoch + window
        parts = [self._stretch(i, number * int(take), int(take)) for i, take in self._numbered()]
        return np.concatenate(parts)

    def same_rows(self, first: tuple[int, int], second: tuple[int, int]) -> bool:
        """Whether two (epoch, window) hold the same rows in the same order."""
        return first == second or (self._takes is None and self.windows_per_epoch == 1)

    def random(self, *key: int) -> np.random.Generator:
        """A generator that depends on the seed and the key only."""
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self._seed, *key])))

    def _numbered(self) -> list[tuple[int, int]]:
        assert self._takes is not None
        return list(enumerate(self._takes.tolist()))

    def _stretch(self, group: int, start: int, count: int) -> np.ndarray:
        """Rows start..start+count-1 of a group's endless order."""
        rows = self._groups[group].rows
        found = []
        while count:
            epoch, at = divmod(start, len(rows))
            order = self.random(ROWS, epoch, group).permutation(rows) if self._shuffle else rows
            taken = order[at : at + count]
            found.append(taken)
            start, count = start + len(taken), count - len(taken)
        return np.concatenate(found)
