"""Packs encoded documents into rows of equal length, writes them and counts their tokens."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from mistudio.ml.data.offsets import EncodedBatch
from mistudio.ml.data.token_store import CONTENT, PADDING, SPECIAL

if TYPE_CHECKING:
    from mistudio.ml.data.tokenize import SpecialTokens, TokenizeSettings

_HEADER = 128  # bytes; numpy's own header for these shapes, rewritten once the length is known
_BLOCK_TOKENS = 1 << 18
_BINS = 20
_TOP = 50


class ArrayFile:
    """An .npy file that grows by rows; its header gets the final shape at the end."""

    def __init__(self, path: Path, dtype: np.dtype[Any], row_shape: tuple[int, ...]) -> None:
        self._dtype, self._row_shape = dtype, row_shape
        self._rows = 0
        self._stream: BinaryIO = path.open("wb")
        self._stream.write(b"\0" * _HEADER)

    def append(self, rows: np.ndarray) -> None:
        """Write rows of the declared shape."""
        np.ascontiguousarray(rows, dtype=self._dtype).tofile(self._stream)
        self._rows += len(rows)

    def close(self) -> None:
        """Write the header and close."""
        with self._stream as stream:
            stream.seek(0)
            header = {
                "descr": np.lib.format.dtype_to_descr(self._dtype),
                "fortran_order": False,
                "shape": (self._rows, *self._row_shape),
            }
            np.lib.format.write_array_header_1_0(stream, header)
            if stream.tell() != _HEADER:
                raise ValueError("unexpected header length")


class TokenCounts:
    """Running statistics over the tokens that were written."""

    def __init__(self, vocab_size: int, special_ids: frozenset[int]) -> None:
        self._count_V = np.zeros(vocab_size, dtype=np.int64)
        self.special_ids = np.array(sorted(special_ids), dtype=np.int32)
        # what the mask says of each id
        self.mask_V = np.full(max(vocab_size, *special_ids, 0) + 1, CONTENT, dtype=np.int32)
        self.mask_V[self.special_ids] = SPECIAL
        self.encoded = 0  # tokens of all documents, whether or not they end up in a row
        self.tokens = 0
        self.content = 0
        self._lengths: list[np.ndarray] = []

    def add_documents(self, lengths_N: np.ndarray) -> None:
        """Note the lengths of documents in tokens."""
        self._lengths.append(lengths_N)
        self.encoded += int(lengths_N.sum())

    def add_rows(self, ids: np.ndarray, mask: np.ndarray) -> None:
        """Count rows that were written; padding does not count."""
        real = ids[mask != PADDING]
        counts = np.bincount(real, minlength=len(self._count_V))
        if len(counts) > len(self._count_V):
            self._count_V = np.pad(self._count_V, (0, len(counts) - len(self._count_V)))
        self._count_V += counts
        self.tokens += len(real)
        self.content += int((mask == CONTENT).sum())

    def summary(self, tokenizer: Any) -> dict[str, Any]:
        """Totals, top tokens, special tokens and document lengths as plain JSON values."""
        count_V = self._count_V.copy()
        special = {
            str(tokenizer.convert_ids_to_tokens(int(i))): int(count_V[i])
            for i in self.special_ids
            if i < len(count_V)
        }
        unique = int((count_V > 0).sum())
        count_V[self.special_ids[self.special_ids < len(count_V)]] = 0
        top = np.argsort(-count_V, kind="stable")[:_TOP]
        lengths = np.concatenate(self._lengths)
        histogram, edges = np.histogram(lengths, bins=_BINS)
        return {
            "tokens": self.tokens,
            "content_tokens": self.content,
            "unique_tokens": unique,
            "top_tokens": [
                {"id": int(i), "text": tokenizer.decode([int(i)]), "count": int(count_V[i])}
                for i in top
                if count_V[i]
            ],
            "special_tokens": special,
            "document_tokens": {
                "min": int(lengths.min()),
                "median": float(np.median(lengths)),
                "mean": float(lengths.mean()),
                "max": int(lengths.max()),
                "histogram_edges": [float(edge) for edge in edges],
                "histogram_counts": [int(count) for count in histogram],
            },
        }


class RowWriter:
    """Collects documents into rows [context] and appends them to the arrays of a tokenisation."""

    def __init__(
        self,
        folder: Path,
        settings: TokenizeSettings,
        special: SpecialTokens,
        counts: TokenCounts,
    ) -> None:
        context = settings.context
        int32, uint8 = np.dtype("<i4"), np.dtype("u1")
        self._files = {
            "ids": ArrayFile(folder / "ids.npy", int32, (context,)),
            "offsets": ArrayFile(folder / "offsets.npy", int32, (context, 2)),
            "docs": ArrayFile(folder / "docs.npy", int32, (context,)),
            "mask": ArrayFile(folder / "mask.npy", uint8, (context,)),
        }
        self._context, self._special, self._counts = context, special, counts
        self._packed = settings.arrangement == "packed"
        block = max(1, _BLOCK_TOKENS // context)
        # columns of a token: id, start, end, document, mask
        self._block = np.zeros((block, context, 5), dtype=np.int32)
        self._filled = 0
        self._stream: list[np.ndarray] = []
        self._waiting = 0
        self.rows = 0
        self._part_start = 0
        self.dropped = 0  # tokens of last, partial rows and of documents cut at the context

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._flush()
        for file in self._files.values():
            file.close()

    def add(self, docs_N: np.ndarray, batch: EncodedBatch) -> None:
        """Append documents with these numbers."""
        self._counts.add_documents(batch.lengths_N)
        separator = self._special.separator if self._packed else None
        which_T = np.repeat(np.arange(len(docs_N)), batch.lengths_N)
        extra = 0 if separator is None else 1
        tokens = np.empty((len(which_T) + extra * len(docs_N), 5), dtype=np.int32)
        place_T = np.arange(len(which_T)) + extra * which_T
        tokens[place_T, 0] = batch.ids_T
        tokens[place_T, 1:3] = batch.spans_T2
        tokens[place_T, 3] = docs_N[which_T]
        tokens[place_T, 4] = self._counts.mask_V[batch.ids_T]
        stops_N = np.cumsum(batch.lengths_N + extra)
        if separator is not None:
            end_N = batch.characters_N
            tokens[stops_N - 1] = np.stack(
                [
                    np.full_like(end_N, separator),
                    end_N,
                    end_N,
                    docs_N,
                    np.full_like(end_N, SPECIAL),
                ],
                axis=1,
            )
        if self._packed:
            self._stream.append(tokens)
            self._waiting += len(tokens)
            if self._waiting >= _BLOCK_TOKENS:
                self._cut_rows()
            return
        for length, stop in zip(batch.lengths_N.tolist(), stops_N.tolist(), strict=True):
            if length:
                self.dropped += length - self._row(tokens[stop - length : stop], 0)

    def end_part(self) -> None:
        """Close a part: what does not fill a row is dropped, or padded if the part has no row."""
        self._cut_rows()
        if self._waiting:
            rest = np.concatenate(self._stream)
            if self.rows + self._filled == self._part_start:
                self._row(rest, 0)
            else:
                self.dropped += len(rest)
        self._stream, self._waiting = [], 0
        self._flush()
        self._part_start = self.rows

    def _cut_rows(self) -> None:
        if not self._stream:
            return
        tokens = np.concatenate(self._stream)
        at = 0
        while len(tokens) - at >= self._context:
            at += self._row(tokens, at)
        self._stream = [tokens[at:]]
        self._waiting = len(tokens) - at

    def _row(self, tokens: np.ndarray, at: int) -> int:
        """Fill the next row from `tokens[at:]`, padding it if they run out; returns how many."""
        row = self._block[self._filled]
        begin, bos = 0, self._special.bos
        if bos is not None and tokens[at, 0] != bos:
            row[0] = (bos, 0, 0, -1, SPECIAL)
            begin = 1
        used = min(self._context - begin, len(tokens) - at)
        row[begin : begin + used] = tokens[at : at + used]
        row[begin + used :] = (self._special.padding, 0, 0, -1, PADDING)
        self._filled += 1
        if self._filled == len(self._block):
            self._flush()
        return used

    def _flush(self) -> None:
        rows = self._block[: self._filled]
        if len(rows):
            self._files["ids"].append(rows[:, :, 0])
            self._files["offsets"].append(rows[:, :, 1:3])
            self._files["docs"].append(rows[:, :, 3])
            self._files["mask"].append(rows[:, :, 4])
            self._counts.add_rows(rows[:, :, 0], rows[:, :, 4])
            self.rows += len(rows)
        self._filled = 0
