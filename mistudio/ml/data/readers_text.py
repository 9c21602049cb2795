"""Decodes files to text block by block, and reads plain text by line, paragraph or file."""

from __future__ import annotations

import bz2
import codecs
import gzip
import threading
import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mistudio.core.errors import Damaged, InvalidInput, from_os_error
from mistudio.ml.data.source import Source, SourceFile
from mistudio.ml.data.text_writer import Row
from mistudio.ml.data.write_dataset import MAX_CHARACTERS

COMPRESSED = (".gz", ".bz2")
_BLOCK = 1 << 20
_HEAD = 1 << 16
_MARKS = (  # UTF-32 first: its mark begins like that of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# every byte but the control characters that no text has
_IN_TEXT = bytes(byte for byte in range(256) if byte >= 32 or byte in b"\b\t\n\v\f\r\x1b")
_noticed = threading.local()


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    _noticed.bad = getattr(_noticed, "bad", 0) + error.end - error.start
    return "\ufffd", error.end


codecs.register_error("mistudio-count", _replace)


def opened(raw: IO[bytes], path: Path) -> IO[bytes]:
    """The stream of a file's own bytes, unpacked if its ending says that it is compressed."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]
    if suffix == ".bz2":
        return bz2.BZ2File(raw)  # type: ignore[return-value]
    return raw


def decoded_blocks(source: Source, file: SourceFile) -> Iterator[str]:
    """The file as text, block by block; bytes that do not fit the encoding are counted.

    Raises `InvalidInput` for a binary file and `Damaged` for a broken compressed one.
    """
    base = source.bytes_read
    with reading(file.path), file.path.open("rb") as raw:
        stream = opened(raw, file.path)
        block = stream.read(_HEAD)
        codec = _codec(block, source.settings.encoding)
        source.encoding = "utf-8" if codec == "utf-8-sig" else codec
        refuse_binary(file.path, block, codec)
        decoder = codecs.getincrementaldecoder(codec)(errors="mistudio-count")
        while block:
            source.check()
            source.bytes_read = base + raw.tell()
            yield _counted(source, decoder, block)
            block = stream.read(_BLOCK)
        yield _counted(source, decoder, b"", final=True)


@contextmanager
def reading(path: Path) -> Generator[None, None, None]:
    """Turns what goes wrong while a file is read into `Damaged` or what the system says."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _broken(path, error) from error
    except OSError as error:
        if path.suffix.lower() in COMPRESSED and error.errno is None:
            raise _broken(path, error) from error
        raise from_os_error(error, f"read {path.name}") from error


def _broken(path: Path, error: Exception) -> Damaged:
    return Damaged(f"{path.name} is damaged; get it again.", details=str(error))


def _counted(
    source: Source, decoder: codecs.IncrementalDecoder, block: bytes, *, final: bool = False
) -> str:
    _noticed.bad = 0
    text = decoder.decode(block, final)
    source.bad_bytes += _noticed.bad
    return text


def _codec(head: bytes, wanted: str) -> str:
    for mark, codec in _MARKS:
        if head.startswith(mark) and wanted in ("auto", codec.removesuffix("-sig")):
            return codec
    if wanted == "utf-16":  # without a mark: the blank and the letters of ASCII give it away
        return "utf-16-le" if head[1::2].count(0) >= head[::2].count(0) else "utf-16-be"
    return "utf-8-sig" if wanted in ("auto", "utf-8") else wanted


def refuse_binary(path: Path, head: bytes, codec: str) -> None:
    """Raises `InvalidInput` if the beginning of a file is no text in this encoding."""
    if codec.startswith(("utf-16", "utf-32")):
        return
    text = head.decode("utf-8", errors="replace") if codec == "utf-8-sig" else ""
    # a stray control byte is common in text from the web
    is_binary = len(head.translate(None, _IN_TEXT)) > max(2, len(head) // 100)
    if is_binary or text.count("\ufffd") > max(8, len(text) // 5):
        hint = " Choose the format parquet for it." if head.startswith(b"PAR1") else ""
        if not hint and not is_binary:
            hint = " If it is text, choose its encoding."
        elif max(head[::2].count(0), head[1::2].count(0)) > len(head) // 4:
            hint = " If it is UTF-16, choose that encoding."
        raise InvalidInput(f"{path.name} is a binary file, not text.{hint}", code="binary_file")


def lines(blocks: Iterable[str]) -> Iterator[str]:
    """Lines with their ends (\\n or \\r\\n only), none longer than `MAX_CHARACTERS`."""
    rest = ""
    for block in blocks:
        parts = (rest + block).split("\n")
        rest = parts.pop()
        for part in parts:
            yield part + "\n"
        while len(rest) > MAX_CHARACTERS:
            cut = rest.rfind(" ", MAX_CHARACTERS // 2, MAX_CHARACTERS) + 1 or MAX_CHARACTERS
            yield rest[:cut]
            rest = rest[cut:]
    if rest:
        yield rest


def read_text(source: Source, file: SourceFile) -> Iterator[Row]:
    """The samples of a text file, each with the file's name if it comes from a folder."""
    if not source.text_columns:
        source.kinds, source.text_columns = {"text": "text"}, ("text",)
        source.columns = ["file"] if file.name else []
        source.sample_unit = _unit(source, file)
    return _text_rows(source, file)


def _unit(source: Source, file: SourceFile) -> str:
    wanted = source.settings.sample_unit
    if wanted != "auto":
        return wanted
    if source.format in ("md", "folder"):
        return "file"
    with reading(file.path), file.path.open("rb") as raw:
        head = opened(raw, file.path).read(_HEAD)
    text = head.decode(_codec(head, source.settings.encoding), errors="replace")
    found = [line.strip() for line in text.strip().split("\n")]
    return "paragraph" if "" in found else "line"


def _text_rows(source: Source, file: SourceFile) -> Iterator[Row]:
    unit, metadata = source.sample_unit, [file.name] if file.name else []
    if unit == "line":
        for line in lines(decoded_blocks(source, file)):
            yield Row(line.rstrip("\r\n"), metadata)
        return
    gathered: list[str] = []
    size = pieces = 0
    for line in lines(decoded_blocks(source, file)):
        blank = unit == "paragraph" and not line.strip()
        if blank or size + len(line) > MAX_CHARACTERS:
            yield Row(_joined(gathered, unit), metadata)
            source.split_documents += not blank and pieces == 0
            pieces = 0 if blank else pieces + 1
            gathered, size = [], 0
        if not blank:
            gathered.append(line)
            size += len(line)
    yield Row(_joined(gathered, unit), metadata)


def _joined(gathered: list[str], unit: str) -> str:
    text = "".join(gathered)
    return text.rstrip("\r\n") if unit == "paragraph" else text
