"""A dataset's text on disk: reading documents back by number, split by split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mistudio.core.errors import Damaged, InvalidInput, NotFound
from mistudio.ml.data.mapped_file import MappedFile

_OLD = "all"  # name of the only file of datasets stored before there were splits
_FORGET_BYTES = 1 << 26


class TextStore:
    """The documents of one dataset, numbered through its splits. Not shared between threads.

    Files are mapped into memory; what was read is given back every 64 MB, so that reading a whole
    dataset takes no more memory than reading a part.
    """

    def __init__(self, folder: Path) -> None:
        """Opens `folder`/text; raises `NotFound` or `Damaged`."""
        self.folder = folder
        self._parts = [_Part(path) for path in _files(folder / "text")]
        ends = np.cumsum([len(part) for part in self._parts], dtype=np.int64)
        self._starts = np.concatenate([[0], ends])
        self._touched = 0

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def splits(self) -> dict[str, range]:
        """Document numbers of each split, in order."""
        return {
            part.name if part.name != _OLD else "train": range(int(low), int(high))
            for part, low, high in zip(
                self._parts, self._starts[:-1], self._starts[1:], strict=True
            )
        }

    def split_of(self, index: int) -> str:
        """The split of document `index`."""
        return list(self.splits)[self._place(index)[0]]

    @property
    def columns(self) -> list[str]:
        """Names of the columns beside the text; a second column called text is `text_`."""
        return self._parts[0].reader.schema.names[1:]

    def text(self, index: int) -> str:
        """Document `index`; raises IndexError outside 0..len-1."""
        part, place = self._place(index)
        return self._parts[part].text(place, self)

    def texts(self, low: int, high: int) -> list[str]:
        """Documents low..high-1."""
        return self._column(0, low, high)

    def column_texts(self, name: str, low: int, high: int) -> list[str]:
        """A column of documents low..high-1; "" and "text" name the text itself.

        Raises `InvalidInput` for a column that is not there.
        """
        names = ["text", *self.columns]
        name = name or "text"
        if name not in names:
            raise InvalidInput(f"There is no column {name!r}; there are {', '.join(names)}.")
        return self._column(names.index(name), low, high)

    def holding(self, words: Sequence[str], low: int, high: int) -> list[int]:
        """Which of documents low..high-1 hold every word somewhere, whatever its case."""
        found: list[int] = []
        for number, part in enumerate(self._parts):
            first = int(self._starts[number])
            place = max(low, first)
            for texts in part.slices(0, place - first, min(high - first, len(part)), self):
                holds_N = np.ones(len(texts), dtype=bool)
                for word in words:
                    options = pc.MatchSubstringOptions(word, ignore_case=True)
                    held = pc.call_function("match_substring", [texts], options)
                    holds_N &= held.to_numpy(zero_copy_only=False)
                found += (place + np.flatnonzero(holds_N)).tolist()
                place += len(texts)
        return found

    def metadata(self, index: int) -> dict[str, str]:
        """The other columns of document `index`."""
        part, place = self._place(index)
        return {
            name: self._parts[part].texts(number, place, place + 1, self)[0]
            for number, name in enumerate(self.columns, 1)
        }

    def lengths(self) -> np.ndarray:
        """Characters of every document, int32 [documents]."""
        return np.concatenate([part.lengths(self) for part in self._parts])

    def touched(self, size: int) -> None:
        """Count bytes that were read, and give memory back now and then."""
        self._touched += size
        if self._touched > _FORGET_BYTES:
            self._touched = 0
            for part in self._parts:
                part.forget()

    def _column(self, column: int, low: int, high: int) -> list[str]:
        found: list[str] = []
        for number, part in enumerate(self._parts):
            first = int(self._starts[number])
            start, stop = max(low - first, 0), min(high - first, len(part))
            if start < stop:
                found += part.texts(column, start, stop, self)
        return found

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        return part, index - int(self._starts[part])


def _files(folder: Path) -> list[Path]:
    """The Arrow files in the order of the splits."""
    found = sorted(folder.glob("*.arrow"))
    if not found:
        raise NotFound("The text of this dataset is gone; import it again.", details=str(folder))
    try:
        info: dict[str, Any] = json.loads((folder.parent / "info.json").read_text("utf-8"))
    except (OSError, ValueError):
        info = {}
    order = list(info.get("splits") or {})
    if sorted(path.stem for path in found) == sorted(order):
        return [folder / f"{name}.arrow" for name in order]
    usual = ["train", "validation", "test"]
    return sorted(found, key=lambda p: usual.index(p.stem) if p.stem in usual else len(usual))


class _Part:
    """The documents of one split."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.stem
        try:
            self._mapped = MappedFile(path)
            self.reader = pa.ipc.open_file(self._mapped.source)
            sizes = [
                self.reader.get_batch(i).num_rows for i in range(self.reader.num_record_batches)
            ]
        except (pa.ArrowException, OSError, ValueError) as error:
            raise Damaged(
                "The text of this dataset is damaged; import it again.", details=str(error)
            ) from error
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._open: tuple[int, pa.RecordBatch | None] = (-1, None)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def slices(self, column: int, low: int, high: int, store: TextStore) -> list[pa.Array]:
        """A column of documents low..high-1, batch by batch."""
        found: list[pa.Array] = []
        while low < high:
            batch = int(np.searchsorted(self._starts, low, side="right")) - 1
            first, last = int(self._starts[batch]), min(high, int(self._starts[batch + 1]))
            piece = self._batch(batch).column(column).slice(low - first, last - low)
            store.touched(piece.nbytes)
            found.append(piece)
            low = last
        return found

    def texts(self, column: int, low: int, high: int, store: TextStore) -> list[str]:
        pieces = self.slices(column, low, high, store)
        return [text for piece in pieces for text in piece.to_pylist()]

    def text(self, index: int, store: TextStore) -> str:
        batch = int(np.searchsorted(self._starts, index, side="right")) - 1
        text: str = self._batch(batch).column(0)[index - int(self._starts[batch])].as_py()
        store.touched(len(text))
        return text

    def lengths(self, store: TextStore) -> np.ndarray:
        """Characters of each document, int32; counted where they were not stored."""
        stored = self.path.with_suffix(".lengths")
        if stored.is_file() and stored.stat().st_size == 4 * len(self):
            return np.fromfile(stored, dtype=np.int32)
        counted = [
            pc.call_function("utf8_length", [piece]).to_numpy()
            for low in range(0, len(self), 1000)
            for piece in self.slices(0, low, min(low + 1000, len(self)), store)
        ]
        return np.concatenate([np.empty(0, np.int32), *counted]).astype(np.int32)

    def forget(self) -> None:
        """Take the pages that were read out of this process' memory."""
        self._mapped.forget()

    def _batch(self, number: int) -> pa.RecordBatch:
        if self._open[0] != number or self._open[1] is None:
            self._open = (number, self.reader.get_batch(number))
        assert self._open[1] is not None
        return self._open[1]
