"""Stores a stream of documents as a dataset: one Arrow file per split, and its facts."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mistudio.core.atomic import atomic_directory, write_json
from mistudio.core.control import JobControl
from mistudio.core.disk_room import require_room
from mistudio.core.errors import InvalidInput, from_os_error
from mistudio.core.events import Reporter, SilentReporter
from mistudio.ml.data.facts import DatasetFacts, LengthCounts, ordered_splits
from mistudio.ml.data.text_writer import Row, TextWriter, stored_names

MAX_CHARACTERS = 1_000_000  # of one document; longer ones are split at line ends
_TEXT = "text"
_CHECK_EVERY = 200
_ROOM_EVERY = 1 << 28


@dataclass
class SourceState:
    """How far the source has been read and what was noticed on the way; readers keep it up."""

    name: str = "The source"  # as sentences call it
    total_bytes: int = 0  # 0: unknown
    bytes_read: int = 0
    bad_bytes: int = 0  # did not fit the encoding, replaced by U+FFFD
    skipped_rows: int = 0
    split_documents: int = 0  # cut by the reader already, as they are longer than the limit

    @property
    def done(self) -> float:
        """Share that has been read, 0 to 1."""
        return min(1.0, self.bytes_read / self.total_bytes) if self.total_bytes else 0.0


def write_dataset(
    folder: Path,
    rows: Iterable[tuple[str, Row]],
    *,
    columns: Sequence[str] = (),
    text_column: str = "text",
    format: str = "txt",
    state: SourceState | None = None,
    split_of: Callable[[str], str] | None = None,
    report: Reporter,
    control: JobControl,
) -> DatasetFacts:
    """Write `folder`/text and info.json from (split, row) pairs; memory stays bounded.

    Blank documents are left out, those above a million characters split at line ends. `split_of`
    shares out the documents of the split "train". All or nothing: an earlier text stays until the
    new one is complete. Raises `InvalidInput` if there is no text, `DiskFull`, `Cancelled`.
    """
    fresh = not folder.exists()
    state = state or SourceState()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_directory(folder / _TEXT) as temporary:
            written = _Written(temporary, columns)
            with written:
                _write(written, rows, state, split_of, report, control)
            facts = written.facts(text_column, columns, format, state)
        write_json(folder / "info.json", facts.to_dict())
    except BaseException as error:
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise from_os_error(error, "store the text") from error
        raise
    _tell(facts, report)
    return facts


def _write(
    written: _Written,
    rows: Iterable[tuple[str, Row]],
    state: SourceState,
    split_of: Callable[[str], str] | None,
    report: Reporter,
    control: JobControl,
) -> None:
    began, looked = time.monotonic(), 0
    for number, (split, row) in enumerate(rows):
        if number % _CHECK_EVERY == 0:
            control.check()
            _progress(written, state, began, report)
            if written.bytes - looked >= _ROOM_EVERY:
                looked = written.bytes
                require_room(written.folder)
        if not row.text or row.text.isspace():
            written.empty += 1
            continue
        if split_of is not None and split == "train":
            split = split_of(row.text)
        if len(row.text) <= MAX_CHARACTERS:
            written.add(split, row)
            continue
        pieces = split_long(row.text)
        written.split += 1
        for piece in pieces:
            control.check()
            written.add(split, Row(piece, row.metadata))


def _progress(written: _Written, state: SourceState, began: float, report: Reporter) -> None:
    elapsed = max(1e-3, time.monotonic() - began)
    read = state.bytes_read or written.bytes
    left = None
    if state.done > 0.01:
        left = elapsed / state.done * (1 - state.done)
    report.progress(
        0.99 * state.done, "Reading", rate=f"{read / 1e6 / elapsed:.1f} MB/s", eta_s=left
    )


class _Written:
    """The writers of all splits met so far."""

    def __init__(self, folder: Path, columns: Sequence[str]) -> None:
        self.folder = folder
        self._columns = columns
        self._counts = LengthCounts(MAX_CHARACTERS)
        self._writers: dict[str, TextWriter] = {}
        self._stack = ExitStack()
        self.empty = self.split = 0

    def __enter__(self) -> _Written:
        self._stack.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.__exit__(*raised)  # type: ignore[arg-type]

    @property
    def bytes(self) -> int:
        return sum(writer.bytes for writer in self._writers.values())

    def add(self, split: str, row: Row) -> None:
        writer = self._writers.get(split)
        if writer is None:
            if not re.fullmatch(r"\w[\w.-]*", split):
                raise InvalidInput(f"A split cannot be called {split!r}.")
            writer = TextWriter(self.folder, split, self._columns, self._counts)
            self._writers[split] = self._stack.enter_context(writer)
        writer.add(row)

    def facts(
        self, text_column: str, columns: Sequence[str], format: str, state: SourceState
    ) -> DatasetFacts:
        if not self._writers:
            raise InvalidInput(f"{state.name} holds no text.", code="empty_file")
        splits: dict[str, list[int]] = {}
        first = 0
        for name in ordered_splits(list(self._writers)):
            last = first + self._writers[name].documents
            splits[name] = [first, last]
            first = last
        return DatasetFacts(
            **self._counts.summary(),
            bytes=self.bytes,
            text_column=text_column,
            columns=stored_names(columns),
            format=format,
            bad_bytes=state.bad_bytes,
            empty_documents=self.empty,
            split_documents=self.split + state.split_documents,
            skipped_rows=state.skipped_rows,
            splits=splits,
        )


def split_long(text: str) -> list[str]:
    """A document in pieces of at most `MAX_CHARACTERS`, cut at line ends where there are any."""
    if len(text) <= MAX_CHARACTERS:
        return [text]
    pieces, start = [], 0
    while len(text) - start > MAX_CHARACTERS:
        stop = start + MAX_CHARACTERS
        cut = max(text.rfind("\n", start, stop), -1) + 1
        if cut <= start:
            cut = text.rfind(" ", start, stop) + 1
        if cut <= start:
            cut = stop
        pieces.append(text[start:cut])
        start = cut
    return [*pieces, text[start:]]


def _tell(facts: DatasetFacts, report: Reporter) -> None:
    if facts.bad_bytes:
        report.note(
            f"Bytes that do not fit the encoding were replaced ({facts.bad_bytes:,}).",
            level="warning",
        )
    if facts.skipped_rows:
        report.note(
            f"Rows that could not be read were left out ({facts.skipped_rows:,}).", level="warning"
        )
    if facts.split_documents:
        report.note(
            f"Documents longer than {MAX_CHARACTERS:,} characters were split at line ends "
            f"({facts.split_documents:,} of them)."
        )


def write_text_store(folder: Path, texts: Iterable[str]) -> DatasetFacts:
    """Store documents that are in memory already, one each, in the split "train"."""
    return write_dataset(
        folder, (("train", Row(text)) for text in texts), report=SilentReporter(),
        control=JobControl(),
    )  # fmt: skip
