"""A dataset's text on disk: importing it from a file, and reading documents back by number."""

from __future__ import annotations

import shutil
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from mistudio.core.atomic import atomic_file, write_json
from mistudio.core.control import JobControl
from mistudio.core.dataset_configs import ImportDatasetConfig
from mistudio.core.errors import Damaged, InvalidInput, NotFound, from_os_error
from mistudio.core.events import Reporter
from mistudio.ml.data.readers import MAX_CHARACTERS, Row, open_source, read_rows, split_long

_BATCH_DOCUMENTS = 1000
_BATCH_CHARACTERS = 1 << 24
_BINS = 20
_TEXT = Path("text") / "all.arrow"


@dataclass(frozen=True)
class DatasetFacts:
    """What importing found; lengths in characters."""

    num_samples: int
    characters: int
    bytes: int  # of the text as UTF-8
    length_min: int
    length_median: float
    length_mean: float
    length_max: int
    histogram_edges: list[float]  # 21 edges of 20 bins
    histogram_counts: list[int]
    text_column: str
    columns: list[str]
    format: str
    bad_bytes: int
    empty_documents: int  # left out
    split_documents: int  # longer than a million characters, cut at line ends

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as in info.json."""
        return asdict(self)


class TextWriter:
    """Writes documents to an Arrow file in record batches and keeps count."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        names = [f"{c}_" if c == "text" else c for c in columns]
        fields = [pa.field("text", pa.large_string())]
        fields += [pa.field(name, pa.large_string()) for name in names]
        self._schema = pa.schema(fields)
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._sink, self._schema)
        self._rows: list[Row] = []
        self._pending = 0
        self.lengths = array("q")
        self.bytes = 0

    def __enter__(self) -> TextWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._flush()
                self._writer.close()
        finally:
            # an open file keeps its room on the disk even after it is deleted
            self._sink.close()

    def add(self, row: Row) -> None:
        """Append one document."""
        try:
            size = len(row.text.encode())
        except UnicodeEncodeError:  # lone surrogates from JSON escapes have no UTF-8 form
            row = Row(_without_surrogates(row.text), row.metadata)
            size = len(row.text.encode())
        self.lengths.append(len(row.text))
        self.bytes += size
        self._rows.append(row)
        self._pending += len(row.text)
        if len(self._rows) >= _BATCH_DOCUMENTS or self._pending >= _BATCH_CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        columns = [pa.array([row.text for row in self._rows], pa.large_string())]
        for i in range(len(self._schema) - 1):
            values = [_without_surrogates(row.metadata[i]) for row in self._rows]
            columns.append(pa.array(values, pa.large_string()))
        self._writer.write_batch(pa.record_batch(columns, schema=self._schema))
        self._rows, self._pending = [], 0


def _without_surrogates(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read_documents(config: ImportDatasetConfig) -> Iterator[Row]:
    """The documents a config describes, streamed, without storing anything."""
    source = open_source(Path(config.path).expanduser(), config.format)
    for row in read_rows(source, (*config.text_column, "")[0], config.sample_unit):
        if row.text.strip():
            yield row


def import_text(
    config: ImportDatasetConfig, folder: Path, report: Reporter, control: JobControl
) -> DatasetFacts:
    """Import a file into `folder`: text/all.arrow and info.json; memory stays bounded.

    Raises `StudioError` with a sentence for what cannot be read; a folder made here goes again.
    """
    fresh = not folder.exists()
    try:
        return _import(config, folder, report, control)
    except OSError as error:
        _remove(folder, fresh)
        raise from_os_error(error, "import the text") from error
    except BaseException:
        _remove(folder, fresh)
        raise


def _remove(folder: Path, fresh: bool) -> None:
    shutil.rmtree(folder if fresh else folder / "text", ignore_errors=True)


def _import(
    config: ImportDatasetConfig, folder: Path, report: Reporter, control: JobControl
) -> DatasetFacts:
    source = open_source(Path(config.path).expanduser(), config.format)
    total = source.path.stat().st_size
    rows = read_rows(source, (*config.text_column, "")[0], config.sample_unit)
    empty, split, began = 0, 0, time.monotonic()
    with atomic_file(folder / _TEXT) as temporary, TextWriter(temporary, source.columns) as writer:
        for number, row in enumerate(rows):
            if number % 200 == 0:
                control.check()
                done = min(1.0, source.bytes_read / total)
                rate = source.bytes_read / 1e6 / max(1e-3, time.monotonic() - began)
                report.progress(0.99 * done, "Reading", rate=f"{rate:.1f} MB/s")
            if not row.text.strip():
                empty += 1
                continue
            pieces = split_long(row.text)
            split += len(pieces) > 1
            for piece in pieces:
                writer.add(Row(piece, row.metadata))
        if not writer.lengths:
            raise InvalidInput(f"{source.path.name} holds no text.", code="empty_file")
    if config.sample_unit == "file" and source.format == "txt" and len(writer.lengths) > 1:
        split = 1
    facts = _facts(writer, source.text_column, source.columns, source.format)
    facts = DatasetFacts(
        **{
            **facts.to_dict(),
            "bad_bytes": source.bad_bytes,
            "empty_documents": empty,
            "split_documents": split,
        }
    )
    write_json(folder / "info.json", facts.to_dict())
    _tell(facts, report)
    report.progress(1.0, "Ready")
    return facts


def _tell(facts: DatasetFacts, report: Reporter) -> None:
    if facts.bad_bytes:
        report.note(f"{facts.bad_bytes:,} bytes are not UTF-8 and were replaced.", level="warning")
    if facts.split_documents:
        report.note(
            f"Documents longer than {MAX_CHARACTERS:,} characters were split at line ends "
            f"({facts.split_documents:,} of them)."
        )


def _facts(
    writer: TextWriter, text_column: str, columns: Sequence[str], format: str
) -> DatasetFacts:
    lengths = np.frombuffer(writer.lengths, dtype=np.int64)
    counts, edges = np.histogram(lengths, bins=_BINS)
    return DatasetFacts(
        num_samples=len(lengths),
        characters=int(lengths.sum()),
        bytes=writer.bytes,
        length_min=int(lengths.min()),
        length_median=float(np.median(lengths)),
        length_mean=float(lengths.mean()),
        length_max=int(lengths.max()),
        histogram_edges=[float(edge) for edge in edges],
        histogram_counts=[int(count) for count in counts],
        text_column=text_column,
        columns=list(columns),
        format=format,
        bad_bytes=0,
        empty_documents=0,
        split_documents=0,
    )


def write_text_store(folder: Path, texts: Iterable[str]) -> DatasetFacts:
    """Store documents that are in memory already, one each, exactly as given."""
    with atomic_file(folder / _TEXT) as temporary, TextWriter(temporary, ()) as writer:
        for text in texts:
            writer.add(Row(text))
        if not writer.lengths:
            raise InvalidInput("There is no document to store.")
    facts = _facts(writer, "text", (), "txt")
    write_json(folder / "info.json", facts.to_dict())
    return facts


class TextStore:
    """The documents of one dataset, memory-mapped. Not to be shared between threads."""

    def __init__(self, folder: Path) -> None:
        """Opens `folder`/text/all.arrow; raises `NotFound` or `Damaged`."""
        self.folder = folder
        path = folder / _TEXT
        if not path.is_file():
            raise NotFound("The text of this dataset is gone; import it again.", details=str(path))
        try:
            self._reader = pa.ipc.open_file(pa.memory_map(str(path)))
            sizes = [
                self._reader.get_batch(i).num_rows for i in range(self._reader.num_record_batches)
            ]
        except (pa.ArrowException, OSError) as error:
            raise Damaged(
                "The text of this dataset is damaged; import it again.", details=str(error)
            ) from error
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._open = (-1, pa.array([], pa.large_string()))

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def columns(self) -> list[str]:
        """Names of the metadata columns."""
        return self._reader.schema.names[1:]

    def text(self, index: int) -> str:
        """Document `index`; raises IndexError outside 0..len-1."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        batch = int(np.searchsorted(self._starts, index, side="right")) - 1
        if self._open[0] != batch:
            self._open = (batch, self._reader.get_batch(batch).column(0))
        return self._open[1][index - int(self._starts[batch])].as_py()

    def texts(self, low: int, high: int) -> list[str]:
        """Documents low..high-1."""
        found: list[str] = []
        high = min(high, len(self))
        while low < high:
            batch = int(np.searchsorted(self._starts, low, side="right")) - 1
            first, last = int(self._starts[batch]), min(high, int(self._starts[batch + 1]))
            column = self._reader.get_batch(batch).column(0)
            found += column.slice(low - first, last - low).to_pylist()
            low = last
        return found

    def metadata(self, index: int) -> dict[str, str]:
        """The other columns of document `index`."""
        batch = int(np.searchsorted(self._starts, index, side="right")) - 1
        place = index - int(self._starts[batch])
        row = self._reader.get_batch(batch).slice(place, 1).to_pylist()[0]
        row.pop("text")
        return row
