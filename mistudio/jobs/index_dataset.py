"""Builds the word index of a dataset, so that its samples are searched at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mistudio.core.atomic import directory_bytes
from mistudio.core.control import JobControl
from mistudio.core.dataset_configs import IndexDatasetConfig
from mistudio.core.disk_room import require_room
from mistudio.core.errors import Cancelled, StudioError, from_os_error
from mistudio.core.events import Reporter
from mistudio.jobs import lookup
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio
from mistudio.store.records import DatasetRow
from mistudio.store.tables import DATASETS
from mistudio.store.text_index import TextIndex

if TYPE_CHECKING:
    from mistudio.ml.data.text import TextStore

INDEX = "search.db"
_BATCH = 1000
_SHARE_OF_TEXT = 0.7  # bytes of index for a byte of text, generously
_WORTH_ASKING = 100_000_000  # bytes; less always goes


def prepare(studio: Studio, config: IndexDatasetConfig) -> None:
    """Refuse a dataset that is not there or not ready."""
    lookup.dataset(studio, config.dataset)


def run(ctx: JobContext, config: IndexDatasetConfig) -> Result:
    """Build the index; a failure or a cancel leaves an earlier one as it was."""
    dataset = lookup.dataset(ctx.studio, config.dataset)
    build_index(ctx.studio, dataset, ctx.report, ctx.control)
    return {"dataset": dataset.id, "name": dataset.name}


def index_path(studio: Studio, dataset_id: str) -> Path:
    """Where the index of a dataset is, if it has one."""
    return studio.paths.dataset(dataset_id) / INDEX


def build_index(studio: Studio, dataset: DatasetRow, report: Reporter, control: JobControl) -> None:
    """Make `search.db` and mark the dataset as indexed. Raises `DiskFull`, `Cancelled`."""
    from mistudio.ml.data.text import TextStore

    path = index_path(studio, dataset.id)
    for leftover in path.parent.glob(f".{INDEX}.*"):  # of a process that was killed
        leftover.unlink(missing_ok=True)
    try:
        store = TextStore(path.parent)
        needed = int(_SHARE_OF_TEXT * ((dataset.statistics or {}).get("bytes") or 0))
        if needed > _WORTH_ASKING:
            require_room(path, needed)
        TextIndex.build(path, _batches(store, report), control.check)
    except OSError as error:
        raise from_os_error(error, "build the word index") from error
    DATASETS.update(studio.db(), dataset.id, is_indexed=1, size_bytes=directory_bytes(path.parent))
    report.progress(1.0, "Ready")


def index_after(studio: Studio, dataset: DatasetRow, report: Reporter, control: JobControl) -> bool:
    """Index a dataset that has just become ready; whether it has an index now.

    The dataset stays ready whatever happens: a failure is only noted, a cancel noted and raised.
    """
    try:
        build_index(studio, dataset, report, control)
    except Cancelled:
        report.note("The dataset is ready; its word index was not built, search is slower.")
        raise
    except StudioError as error:
        report.note(f"The dataset is ready without a word index. {error.sentence}", level="warning")
        return False
    return True


def _batches(store: TextStore, report: Reporter) -> Iterator[Sequence[str]]:
    for low in range(0, len(store), _BATCH):
        report.progress(0.97 * low / len(store), "Indexing")
        yield store.texts(low, low + _BATCH)
    report.progress(0.97, "Indexing: putting it in order")
