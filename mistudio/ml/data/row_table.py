"""Rows that activations belong to: of one text, of several, or bare vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from mistudio.core.errors import InvalidInput, Mismatch
from mistudio.ml.data.token_store import CONTENT, LISTED, PADDING, RowGroup

PARTS = ("train", "calibration", "evaluation")


class RowTable(Protocol):
    """What a stream, the statistics and the evaluation need to know of rows.

    `ids`, `mask` and `docs` are indexed as arrays [rows, context].
    """

    @property
    def ids(self) -> Any: ...

    @property
    def mask(self) -> Any: ...

    @property
    def docs(self) -> Any: ...

    @property
    def meta(self) -> Mapping[str, Any]: ...

    @property
    def context(self) -> int: ...

    def __len__(self) -> int: ...

    def rows(self, part: str) -> Sequence[int]:
        """Row numbers of a part, in the order in which they are read."""
        ...

    def groups(self, part: str) -> list[RowGroup]:
        """The rows of a part by text."""
        ...


class MixedTokens:
    """Several tokenisations as one: rows are numbered through, parts keep the weights' shares."""

    def __init__(self, stores: Sequence[RowTable], weights: Sequence[float]) -> None:
        """Raises `Mismatch` unless all have one context, `InvalidInput` for a weight of 0."""
        if len({store.context for store in stores}) != 1:
            raise Mismatch(
                "The datasets are tokenised with different contexts; tokenise them with one."
            )
        if any(not weight > 0 for weight in weights):
            raise InvalidInput("The weight of a dataset must be above 0.")
        self.context = stores[0].context
        self._stores, self._weights = list(stores), [float(w) for w in weights]
        self._starts = np.cumsum([0, *(len(store) for store in stores)])
        self.meta: dict[str, Any] = {
            "settings_hash": [store.meta.get("settings_hash") for store in stores],
            "weights": self._weights,
        }
        self.ids = _Joined(self._starts, [store.ids for store in stores])
        self.mask = _Joined(self._starts, [store.mask for store in stores])
        self.docs = _Numbered(self._starts, [store.docs for store in stores])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def groups(self, part: str) -> list[RowGroup]:
        return [
            RowGroup(np.array(store.rows(part), dtype=np.int64) + start, weight)
            for store, start, weight in zip(
                self._stores, self._starts[:-1].tolist(), self._weights, strict=True
            )
        ]

    def rows(self, part: str) -> list[int]:
        """Rows of a part, mixed so that every stretch of them has the shares of the weights.

        Ends with the text that is used up first, lest the rest outweigh it.
        """
        groups = self.groups(part)
        if any(len(group.rows) == 0 for group in groups):
            raise InvalidInput(f"A dataset has no text in its {part} part; use more text.")
        rates = [
            group.weight / tokens_per_row(self, group.rows) for group in groups
        ]  # rows per token of the mixture
        ends = min(len(group.rows) / rate for group, rate in zip(groups, rates, strict=True))
        places, rows = [], []
        for group, rate in zip(groups, rates, strict=True):
            count = max(1, int(ends * rate + 1e-9))
            places.append((np.arange(count) + 0.5) / rate)
            rows.append(group.rows[:count])
        order = np.argsort(np.concatenate(places), kind="stable")
        return np.concatenate(rows)[order].tolist()


class VectorTable:
    """Vectors without text: every row is one token of its own document.

    A seeded choice of rows is held out, half of it for calibration and half for evaluation.
    """

    context = 1

    def __init__(self, count: int, held_out: float, seed: int = 0) -> None:
        """`held_out` is the share of rows that are not trained on; at least one row is each."""
        if count < 3:
            raise InvalidInput("Three vectors are the least that can be trained on and measured.")
        order = np.random.default_rng([seed, count]).permutation(count)
        each = max(1, round(count * held_out / 2))
        self._parts = {
            "calibration": np.sort(order[:each]),
            "evaluation": np.sort(order[each : 2 * each]),
            "train": np.sort(order[2 * each :]),
        }
        self._count = count
        self.meta: dict[str, Any] = {"settings_hash": f"vectors {count} {held_out} {seed}"}
        self.ids = _Computed(lambda rows: np.zeros((len(rows), 1), dtype=np.int32), count)
        self.mask = _Computed(lambda rows: np.full((len(rows), 1), CONTENT, np.uint8), count)
        self.docs = _Computed(lambda rows: rows[:, None].astype(np.int32), count)

    def __len__(self) -> int:
        return self._count

    def rows(self, part: str) -> list[int]:
        if part == "all":
            return list(range(self._count))
        if part not in PARTS:
            raise InvalidInput(f"There is no part {part!r} of a dataset.")
        return self._parts[part].tolist()

    def groups(self, part: str) -> list[RowGroup]:
        return [RowGroup(self._parts[part], 1.0)]


def usable(mask: np.ndarray, mask_special: bool = True) -> np.ndarray:
    """Which tokens of a mask are not padding, not left out, nor special if those are masked."""
    if mask_special:
        return mask == CONTENT
    return (mask != PADDING) & (mask & LISTED == 0)


def usable_tokens(table: RowTable, part: str, mask_special: bool = True) -> int:
    """Tokens of a part that are `usable`."""
    total = 0
    for group in table.groups(part):
        for low in range(0, len(group.rows), 4096):
            mask = table.mask[group.rows[low : low + 4096]]
            total += int(usable(mask, mask_special).sum())
    return total


def tokens_per_row(table: RowTable, rows: np.ndarray) -> float:
    """Mean number of content tokens of rows."""
    return max(1e-9, float((table.mask[rows] == CONTENT).sum()) / len(rows))


class _Joined:
    """Arrays one below the other, read by row numbers (a number, an array of them or a slice)."""

    def __init__(self, starts: np.ndarray, parts: Sequence[Any]) -> None:
        self._starts, self._parts = starts, parts

    def __getitem__(self, index: Any) -> Any:
        rows, rest = (index[0], index[1:]) if isinstance(index, tuple) else (index, ())
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(int(self._starts[-1])))
        if np.ndim(rows) == 0:
            return self._of(int(rows), np.array([int(rows)]))[(0, *rest)]
        rows = np.asarray(rows)
        first = self._parts[0][0:1]
        out = np.empty((len(rows), *first.shape[1:]), dtype=first.dtype)
        which = np.searchsorted(self._starts, rows, side="right") - 1
        for part in np.unique(which).tolist():
            at = np.flatnonzero(which == part)
            out[at] = self._read(part, rows[at] - self._starts[part])
        return out[(np.arange(len(rows)), *rest)] if rest else out

    def _of(self, row: int, rows: np.ndarray) -> np.ndarray:
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._read(part, rows - self._starts[part])

    def _read(self, part: int, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self._parts[part][rows])


class _Numbered(_Joined):
    """Document numbers, shifted so that two texts share none; -1 stays -1."""

    _STEP = 1 << 26  # documents per text; int32 holds 32 such texts

    def _read(self, part: int, rows: np.ndarray) -> np.ndarray:
        docs = super()._read(part, rows)
        return np.where(docs < 0, docs, docs + part * self._STEP).astype(docs.dtype)


class _Computed:
    """An array [rows, 1] that is made when it is read."""

    def __init__(self, make: Any, count: int) -> None:
        self._make, self._count = make, count

    def __getitem__(self, index: Any) -> Any:
        rows, rest = (index[0], index[1:]) if isinstance(index, tuple) else (index, ())
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(self._count))
        single = np.ndim(rows) == 0
        found = self._make(np.atleast_1d(np.asarray(rows)))
        if single:
            return found[(0, *rest)]
        return found[(np.arange(len(found)), *rest)] if rest else found
