"""The first rows of a repository's dataset, and storing its rows as documents."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mistudio.core.control import JobControl, Request
from mistudio.core.disk_room import shortage
from mistudio.core.events import Reporter
from mistudio.ml.data.facts import DatasetFacts
from mistudio.ml.data.hub_dataset import Layout
from mistudio.ml.data.hub_rows import (
    CHARACTERS_PER_TOKEN,
    Columns,
    documents,
    first_rows,
    kinds_of,
    settle_columns,
)
from mistudio.ml.data.hub_stream import LARGE_PIECE, MIDDLE_PIECE, SMALL_PIECE, RowStream
from mistudio.ml.data.listed_files import FileSource
from mistudio.ml.data.text_writer import Row
from mistudio.ml.data.write_dataset import SourceState, write_dataset

_MOST_COUNTED = 4  # files that are opened to count their rows
_JUDGED = 100  # rows that tell what a column holds
_LOOK_ROWS = 50
DISK_PERIOD_S = 1.0  # between two looks at the free disk


@dataclass(frozen=True)
class Beginning:
    """What each column holds, and the first rows as they are shown; empty if there is no row."""

    kinds: dict[str, str]
    rows: list[dict[str, str]]


def read_beginning(
    layout: Layout, source: FileSource, splits: Sequence[str], count: int = _JUDGED
) -> Beginning:
    """The first rows of the first split that has any; fetches only what they need."""
    with RowStream(layout, source, splits, piece_bytes=SMALL_PIECE) as stream:
        for _, table in stream.tables(count):
            if len(table):
                return Beginning(kinds_of(table), first_rows(table, count))
    return Beginning({}, [])


def count_rows(layout: Layout, source: FileSource) -> dict[str, int | None]:
    """Rows per split: as the card says, else from the ends of parquet files, if these are few."""
    counts = dict(layout.rows)
    unknown = [split for split, count in counts.items() if count is None]
    if layout.reader != "parquet" or sum(len(layout.files[s]) for s in unknown) > _MOST_COUNTED:
        return counts
    with RowStream(layout, source, unknown) as stream:
        for split in unknown:
            counts[split] = stream.parquet_rows(split)
    return counts


def text_columns(kinds: dict[str, str], wanted: Sequence[str]) -> tuple[str, ...]:
    """The columns that are the text, by the column rule or as wanted; raises `InvalidInput`."""
    return settle_columns(kinds, wanted).text


@dataclass(frozen=True)
class Amount:
    """How much is stored: so many rows, so many tokens of four characters, or everything."""

    rows: int | None = None
    tokens: int | None = None

    @property
    def everything(self) -> bool:
        return self.rows is None and self.tokens is None


class _State(SourceState):
    """Progress by rows or characters where only the beginning is stored, else by bytes."""

    share: float | None = None

    @property
    def done(self) -> float:
        return super().done if self.share is None else min(1.0, self.share)


def store_rows(
    folder: Path,
    layout: Layout,
    source: FileSource,
    splits: Sequence[str],
    kinds: dict[str, str],
    wanted: Sequence[str],
    amount: Amount,
    *,
    name: str,
    report: Reporter,
    control: JobControl,
    hold: Callable[[], object] | None = None,
) -> DatasetFacts:
    """Write the text of these splits to `folder`, all or nothing, in bounded memory.

    `name` is how sentences call the dataset. `hold` is called to pause the job when the disk falls
    below what is kept free (the default asks `control`). Raises `InvalidInput` without text,
    `Damaged`, `DiskFull`, `Cancelled`, and what the source raises.
    """
    columns = settle_columns(kinds, wanted)
    if columns.left_out:
        listed = ", ".join(f"{one} ({kinds[one]})" for one in columns.left_out)
        report.note(f"Not kept beside the text: {listed}.")
    state = _State(name=name)
    state.total_bytes = sum(source.sizes[path] for split in splits for path in layout.files[split])
    piece = LARGE_PIECE if amount.everything else MIDDLE_PIECE
    with RowStream(layout, source, splits, piece_bytes=piece) as stream:
        return write_dataset(
            folder,
            _with_room(_counted(stream, columns, amount, state), folder, report, control, hold),
            columns=columns.others,
            text_column=", ".join(columns.text),
            format=layout.reader,
            state=state,
            report=report,
            control=control,
        )


def _with_room(
    rows: Iterator[tuple[str, Row]],
    folder: Path,
    report: Reporter,
    control: JobControl,
    hold: Callable[[], object] | None,
) -> Iterator[tuple[str, Row]]:
    """The same rows; while the disk is too full the job is paused between two of them."""
    looked = float("-inf")
    for number, row in enumerate(rows):
        if number % _LOOK_ROWS == 0 and time.monotonic() - looked >= DISK_PERIOD_S:
            while (problem := shortage(folder)) is not None:
                (hold or control.pause)()
                if control.requested() is not Request.PAUSE:
                    control.check()
                    raise problem
                report.note(
                    f"{problem.sentence.rstrip('.')}; the job is paused. Free some space, then "
                    "resume.",
                    level="warning",
                )
                control.check()
            looked = time.monotonic()
        yield row


def _counted(
    stream: RowStream, columns: Columns, amount: Amount, state: _State
) -> Iterator[tuple[str, Row]]:
    held = characters = 0
    tables = stream.tables(columns=columns.read)
    for split, row in documents(tables, columns, rows=amount.rows, tokens=amount.tokens):
        state.bytes_read = stream.bytes_read
        if not amount.everything:
            held += 1
            characters += len(row.text)
            state.share = held / amount.rows if amount.rows else 0.0
            if amount.tokens:
                state.share = characters / (CHARACTERS_PER_TOKEN * amount.tokens)
        yield split, row
