"""Files of rows, one JSON object to a line: written beside what makes the rows, and checked."""

from __future__ import annotations

import gzip
import json
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mistudio.core.errors import Damaged

if TYPE_CHECKING:
    from mistudio.ml.formats.row_schema import Schema

FAST = 1  # gzip's level: texts of a corpus repeat so much that more effort saves little
SAMPLED = 64  # one line of so many is read again as JSON

_WAITING = 2  # files in memory that wait for the disk


class RowFiles:
    """Writes files in a thread of its own; used as a context, whose end waits for all of them.

    Makers check their rows before they hand them over. A file is read again as a whole and must
    hold, to the byte, what was written; of its lines one in `SAMPLED` is read as a row.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="row-files")
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> RowFiles:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            while error is None and self._waiting:
                self._waiting.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def write(self, path: Path, content: str, schema: Schema, expected: int) -> None:
        """Write `content` of `expected` lines, gzipped if `path` says so.

        Raises what went wrong with an earlier file: `Damaged`, or what the disk says.
        """
        while len(self._waiting) >= _WAITING or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()
        data = content.encode("utf-8")
        self._waiting.append(self._pool.submit(_write_checked, path, data, schema, expected))


def _write_checked(path: Path, data: bytes, schema: Schema, expected: int) -> None:
    from mistudio.ml.formats.row_schema import require

    # without a time in its head the same rows give the same bytes
    packed = gzip.compress(data, FAST, mtime=0) if path.suffix == ".gz" else data
    path.write_bytes(packed)
    if read_whole(path) != data:
        raise Damaged(f"{path.name} does not read back as it was written.")
    lines = data.split(b"\n")
    found = len(lines) - 1  # the last line ends as all do
    if lines[-1] or found != expected:
        raise Damaged(f"{path.name} came out with {found:,} of {expected:,} rows.")
    for number in sorted({*range(0, found, SAMPLED), *range(found)[-1:]}):
        try:
            value = json.loads(lines[number])
        except ValueError as error:
            raise Damaged(f"{path.name}, row {number + 1} is no JSON.") from error
        require(schema, value, f"{path.name}, row {number + 1}")


def read_whole(path: Path) -> bytes:
    """A file's bytes, unpacked if gzipped; raises `Damaged` for a gzip file that is not whole."""
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Damaged(f"{path.name} is not whole.") from error


def read_lines(path: Path) -> Iterator[Any]:
    """The values of a .jsonl or .jsonl.gz file."""
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            yield from (json.loads(line) for line in stream if line.strip())
    else:
        with path.open(encoding="utf-8") as stream:
            yield from (json.loads(line) for line in stream if line.strip())
