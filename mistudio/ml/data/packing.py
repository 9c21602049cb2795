"""Arranges encoded documents in rows and writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

from mistudio.ml.data.array_file import ArrayFile
from mistudio.ml.data.offsets import EncodedBatch
from mistudio.ml.data.padded_rows import PaddedRows
from mistudio.ml.data.token_counts import TokenCounts
from mistudio.ml.data.token_settings import SpecialTokens, TokenizeSettings
from mistudio.ml.data.token_store import FLAT_STARTS, SPECIAL, padding_values

_INT32, _INT64, _UINT8 = np.dtype("<i4"), np.dtype("<i8"), np.dtype("u1")
_PAD_ROWS = 1024


class Tokens(NamedTuple):
    """A stretch of T tokens; the same four arrays, with a row axis in front, are rows."""

    ids: np.ndarray  # int32
    offsets: np.ndarray  # int32, [T, 2]
    docs: np.ndarray  # int32, -1 for a row start and padding
    mask: np.ndarray  # uint8

    def between(self, low: int, high: int) -> Tokens:
        """Tokens low..high-1."""
        return Tokens(*(array[low:high] for array in self))


def _empty(count: int) -> Tokens:
    shapes = ((count, _INT32), ((count, 2), _INT32), (count, _INT32), (count, _UINT8))
    return Tokens(*(np.empty(shape, dtype) for shape, dtype in shapes))


class RowWriter:
    """Collects documents into rows and appends them to the arrays of a tokenisation."""

    def __init__(
        self,
        folder: Path,
        settings: TokenizeSettings,
        special: SpecialTokens,
        counts: TokenCounts,
    ) -> None:
        context = settings.context
        self._settings, self._special, self._counts = settings, special, counts
        self._folder, self._context = folder, context
        self._packed = settings.arrangement == "packed"
        # Rows of unequal length are stored one after the other.
        self._flat = settings.padding != "max_length"
        row = () if self._flat else (context,)
        self._files = (
            ArrayFile(folder / "ids.npy", _INT32, row),
            ArrayFile(folder / "offsets.npy", _INT32, (*row, 2)),
            ArrayFile(folder / "docs.npy", _INT32, row),
            ArrayFile(folder / "mask.npy", _UINT8, row),
        )
        self._carry = _empty(0)
        self._lengths: list[np.ndarray] = []
        self.rows = 0
        self.dropped = 0  # tokens of documents cut at the context or left out
        self.left_out = 0  # documents longer than a row, where those are not cut

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._files:
            file.close()
        if error is None and self._flat:
            lengths_R = np.concatenate([np.zeros(1, dtype=np.int64), *self._lengths])
            np.save(self._folder / f"{FLAT_STARTS}.npy", np.cumsum(lengths_R))

    @property
    def width(self) -> int:
        """Tokens of the longest row where rows are of unequal length, else the context."""
        if not self._flat:
            return self._context
        return max((int(lengths_R.max()) for lengths_R in self._lengths), default=1)

    def add(self, docs_N: np.ndarray, batch: EncodedBatch) -> None:
        """Append documents with these numbers; separators, if any, are in the batch already."""
        separator = self._special.separator
        self._counts.add_documents(batch.lengths_N - (separator is not None))
        docs_T = np.repeat(docs_N.astype(np.int32), batch.lengths_N)
        mask_T = self._counts.mask_V[batch.ids_T]
        if separator is not None:
            mask_T[np.cumsum(batch.lengths_N) - 1] = SPECIAL
        tokens = Tokens(batch.ids_T, batch.spans_T2, docs_T, mask_T)
        if self._packed:
            if len(self._carry.ids):
                pairs = zip(self._carry, tokens, strict=True)
                tokens = Tokens(*(np.concatenate(pair) for pair in pairs))
            self._carry = self._cut(tokens)
        else:
            self._documents(tokens, batch.lengths_N)

    def end_part(self) -> None:
        """Close a part: what does not fill a row makes the last one, padded."""
        rest = self._carry
        if len(rest.ids):
            self._write(*self._joined(rest, np.zeros(1, int), np.array([len(rest.ids)])))
            self._carry = _empty(0)

    def _cut(self, tokens: Tokens) -> Tokens:
        """Write full rows; returns what is left."""
        bos, context = self._special.bos, self._context
        at, total = 0, len(tokens.ids)
        if bos is None:
            at = total // context * context
            self._write_full(Tokens(*(_rows(array[:at], context) for array in tokens)))
            return Tokens(*(array[at:].copy() for array in tokens))
        room = context - 1
        while total - at >= room:
            # Rows up to one that begins with a start token of the text itself: it gets no other.
            starts = np.flatnonzero(tokens.ids[at : at + (total - at) // room * room : room] == bos)
            count = int(starts[0]) if len(starts) else (total - at) // room
            stop = at + count * room
            self._write_full(self._with_start(tokens.between(at, stop), room))
            at = stop
            if not len(starts) or total - at < context:
                break
            self._write_full(
                Tokens(*(_rows(array[at : at + context], context) for array in tokens))
            )
            at += context
        return Tokens(*(array[at:].copy() for array in tokens))

    def _with_start(self, tokens: Tokens, room: int) -> Tokens:
        """Rows of `room` tokens with a start token before each."""
        count = len(tokens.ids) // room
        starts = (self._special.bos, 0, -1, SPECIAL)
        rows: list[np.ndarray] = []
        for array, value in zip(tokens, starts, strict=True):
            row = np.empty((count, room + 1, *array.shape[1:]), array.dtype)
            row[:, 0] = value
            row[:, 1:] = _rows(array, room)
            rows.append(row)
        return Tokens(*rows)

    def _documents(self, tokens: Tokens, lengths_N: np.ndarray) -> None:
        """Rows of one document each; a document without tokens makes none."""
        starts_N = np.cumsum(lengths_N) - lengths_N
        some = lengths_N > 0
        starts_R, lengths_R = starts_N[some], lengths_N[some]
        own_R = self._own_start(tokens, starts_R)
        room_R = np.where(own_R, self._context, self._room)
        long_R = lengths_R > room_R
        if self._settings.truncation == "longest_first":
            self.dropped += int((lengths_R - room_R)[long_R].sum())
            lengths_R = np.minimum(lengths_R, room_R)
        elif self._settings.truncation == "do_not_truncate":
            self.dropped += int(lengths_R[long_R].sum())
            self.left_out += int(long_R.sum())
            starts_R, lengths_R = starts_R[~long_R], lengths_R[~long_R]
        elif long_R.any():
            step_R = np.where(long_R, self._room, lengths_R)
            starts_R, lengths_R = _pieces(starts_R, lengths_R, step_R)
        if len(starts_R):
            self._write(*self._joined(tokens, starts_R, lengths_R))

    @property
    def _room(self) -> int:
        return self._context - (self._special.bos is not None)

    def _own_start(self, tokens: Tokens, starts_R: np.ndarray) -> np.ndarray:
        """Whether rows need no start token, as they begin with one or none is wanted."""
        if self._special.bos is None:
            return np.ones(len(starts_R), dtype=bool)
        return tokens.ids[starts_R] == self._special.bos

    def _joined(
        self, tokens: Tokens, starts_R: np.ndarray, lengths_R: np.ndarray
    ) -> tuple[Tokens, np.ndarray]:
        """The tokens of rows, one row after the other, with start tokens; and the rows' lengths."""
        own_R = self._own_start(tokens, starts_R)
        full_R = lengths_R + ~own_R
        begin_R = np.cumsum(full_R) - full_R
        at = np.arange(int(full_R.sum())) + np.repeat(starts_R - ~own_R - begin_R, full_R)
        rows = Tokens(*(array[at] for array in tokens))
        if self._special.bos is not None:
            inserted = begin_R[~own_R]
            for array, value in zip(rows, (self._special.bos, 0, -1, SPECIAL), strict=True):
                array[inserted] = value
        return rows, full_R

    def _write(self, tokens: Tokens, lengths_R: np.ndarray) -> None:
        """Append rows of unequal length."""
        self._counts.add_tokens(tokens.ids, tokens.mask)
        self.rows += len(lengths_R)
        if self._flat:
            self._lengths.append(lengths_R)
            self._append(tokens)
            return
        filled = np.arange(self._context) < lengths_R[:, None]
        values = padding_values(self._special.padding)
        rows: list[np.ndarray] = []
        for array, value in zip(tokens, values, strict=True):
            row = np.full((*filled.shape, *array.shape[1:]), value, array.dtype)
            row[filled] = array
            rows.append(row)
        self._append(Tokens(*rows))

    def _write_full(self, rows: Tokens) -> None:
        """Append rows [R, context] without padding."""
        self._counts.add_tokens(rows.ids.ravel(), rows.mask)
        self.rows += len(rows.ids)
        self._append(rows)

    def _append(self, rows: Tokens) -> None:
        for file, array in zip(self._files, rows, strict=True):
            file.append(array)


def _rows(array: np.ndarray, width: int) -> np.ndarray:
    return array.reshape(-1, width, *array.shape[1:])


def _pieces(
    starts_R: np.ndarray, lengths_R: np.ndarray, step_R: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Cut each row into pieces of at most its step."""
    counts_R = -(-lengths_R // step_R)
    first_P = np.repeat(np.cumsum(counts_R) - counts_R, counts_R)
    step_P = np.repeat(step_R, counts_R)
    done_P = (np.arange(int(counts_R.sum())) - first_P) * step_P
    lengths_P = np.minimum(np.repeat(lengths_R, counts_R) - done_P, step_P)
    return np.repeat(starts_R, counts_R) + done_P, lengths_P


def pad_to_longest(
    folder: Path, width: int, padding: int, check: Callable[[], None] = lambda: None
) -> None:
    """Turn arrays of rows of unequal length into arrays [rows, width]."""
    starts = np.load(folder / f"{FLAT_STARTS}.npy")
    names = ("ids", "offsets", "docs", "mask")
    for name, value in zip(names, padding_values(padding), strict=True):
        flat = folder / f"{name}.flat.npy"
        (folder / f"{name}.npy").rename(flat)
        values_T = np.load(flat, mmap_mode="r")
        rows = PaddedRows(values_T, starts, width, value)
        file = ArrayFile(folder / f"{name}.npy", values_T.dtype, rows.shape[1:])
        try:
            for low in range(0, len(rows), _PAD_ROWS):
                check()
                file.append(rows[low : low + _PAD_ROWS])
        finally:
            file.close()
        flat.unlink()
    (folder / f"{FLAT_STARTS}.npy").unlink()
