"""The text of every token of a vocabulary, as shown beside logits; kept in an Arrow file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

_REPLACEMENT = "\ufffd"
_METASPACE = "\u2581"


def token_texts(tokenizer: Any, size: int) -> list[str]:
    """The text of ids 0..size-1; leading spaces are kept, parts of a character become <0xE2>.

    Ids that the tokenizer does not know (padding of the embedding matrix) are shown as <id>.
    """
    known = min(size, len(tokenizer))
    pieces = tokenizer.convert_ids_to_tokens(list(range(known)))
    backend = tokenizer.backend_tokenizer
    texts = backend.decode_batch([[i] for i in range(known)], skip_special_tokens=False)
    both = zip(pieces, texts, strict=True)
    shown = [_shown(index, piece, text) for index, (piece, text) in enumerate(both)]
    return shown + [f"<{index}>" for index in range(known, size)]


def _shown(index: int, piece: str | None, text: str) -> str:
    if piece is None:
        return f"<{index}>"
    if _METASPACE in piece:  # decoding one such token alone would drop its space
        return piece.replace(_METASPACE, " ")
    if re.fullmatch(r"<0x[0-9A-F]{2}>", piece):
        return piece
    if _REPLACEMENT in text and (raw := _byte_level(piece)) is not None:
        return "".join(f"<0x{byte:02X}>" for byte in raw)
    return text or piece


def _byte_level(piece: str) -> bytes | None:
    """The bytes that a byte-level BPE piece stands for, or None if it is none."""
    try:
        return bytes(_BYTE_OF[character] for character in piece)
    except KeyError:
        return None


def _byte_table() -> dict[str, int]:
    """GPT-2's writing of bytes as characters: printable ones as they are, others from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    table.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return table


_BYTE_OF = _byte_table()


def write_vocabulary(path: Path, texts: Sequence[str]) -> None:
    """Write the texts as one Arrow column."""
    table = pa.table({"text": pa.array(texts, pa.large_string())})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


class Vocabulary:
    """Texts by token id, read from a memory-mapped file."""

    def __init__(self, path: Path) -> None:
        self._source = pa.memory_map(str(path))
        column = pa.ipc.open_file(self._source).read_all().column("text")
        self._texts = column.chunk(0) if column.num_chunks else pa.array([], pa.large_string())

    def __len__(self) -> int:
        return len(self._texts)

    def all(self) -> list[str]:
        """The texts of all ids, in order."""
        return self._texts.to_pylist()

    def text(self, token_id: int) -> str:
        """The text of one id; an unknown id is shown as <id>."""
        if 0 <= token_id < len(self._texts):
            return self._texts[token_id].as_py()
        return f"<{token_id}>"
