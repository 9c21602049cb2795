"""Get a dataset from the Hub: its files into the Hugging Face cache, its text into a dataset."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

from mistudio.core.atomic import directory_bytes
from mistudio.core.dataset_configs import DownloadDatasetConfig
from mistudio.core.disk_room import require_room
from mistudio.core.errors import InvalidInput
from mistudio.core.ids import new_id
from mistudio.core.units import format_bytes
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.dataset_names import free_name
from mistudio.jobs.hub_dataset import LARGE_BYTES, WARN_BYTES, HubDataset
from mistudio.jobs.index_dataset import index_after
from mistudio.jobs.last_progress import LastProgress
from mistudio.jobs.runner import Studio
from mistudio.store.records import DatasetRow
from mistudio.store.tables import DATASETS, JOBS

_BYTES_PER_TOKEN = 4
_LOOK_FIRST_BYTES = 50_000_000
_DOWNLOAD_SHARE = 0.7  # of the job's progress
_STORE_SHARE = 0.95


def prepare(studio: Studio, config: DownloadDatasetConfig) -> None:
    """Nothing is asked of the network when a job is queued."""


def run(ctx: JobContext, config: DownloadDatasetConfig) -> Result:
    """Download, store and index; a failure or a cancel leaves no row, and part files for a retry.

    A job that was interrupted goes on with the files that are in the cache.
    """
    report = LastProgress(ctx.report)
    ctx = dataclasses.replace(ctx, report=report)
    done = DATASETS.find(ctx.db, ctx.job.target_id) if ctx.job.target_id else None
    if done is None or done.status != "ready":
        ctx.report.progress(0.0, "Asking the Hub")
        with HubDataset(
            ctx.studio, config.repo, config.config, config.revision, "", ctx.control, report
        ) as found:
            done = _Download(ctx, config, found).run()
    index_after(ctx.studio, done, ctx.part(_STORE_SHARE, 1.0).report, ctx.control)
    ctx.report.progress(1.0, "Ready")
    return {"dataset": done.id, "name": done.name, "samples": done.num_samples}


class _Download:
    """One run of the job until the dataset is ready."""

    def __init__(self, ctx: JobContext, config: DownloadDatasetConfig, found: HubDataset) -> None:
        self.ctx = ctx
        self.config = config
        self.found = found
        self.dataset_id = new_id("dataset")
        self.folder = ctx.paths.dataset(self.dataset_id)
        self.splits = found.layout.chosen(config.split)

    def run(self) -> DatasetRow:
        """The dataset, ready."""
        whole = self.config.amount == "everything"
        if whole:
            self._require_room()
            if self.found.missing_bytes(self.config.split) > _LOOK_FIRST_BYTES:
                self._kinds()  # no long download without a text
        elif self.config.amount == "tokens":
            require_room(self.ctx.paths.home, self.config.count * _BYTES_PER_TOKEN)
        self._insert("downloading" if whole else "ingesting")
        try:
            at = 0.0
            if whole and self._is_missing():
                self._fetch()
                at = _DOWNLOAD_SHARE
            DATASETS.update(self.ctx.db, self.dataset_id, status="ingesting")
            self._store(self._kinds(), at)
        except BaseException:
            # files first: on a full disk the row cannot change before there is room again
            shutil.rmtree(self.folder, ignore_errors=True)
            DATASETS.delete(self.ctx.db, self.dataset_id)
            raise
        return DATASETS.get(self.ctx.db, self.dataset_id)

    def _kinds(self) -> dict[str, str]:
        """What each column holds; raises `InvalidInput` if no text is among them."""
        from mistudio.ml.data.hub_ingest import text_columns

        kinds = self.found.beginning(self.config.split).kinds
        text_columns(kinds, self.config.text_column)
        return kinds

    def _insert(self, status: str) -> None:
        found, config = self.found, self.config
        DATASETS.insert(
            self.ctx.db,
            id=self.dataset_id,
            name=free_name(
                self.ctx.studio,
                config.name.strip() or found.repo.rsplit("/", 1)[-1],
                self.ctx.report,
            ),
            source="huggingface",
            repo_id=found.repo,
            config=found.layout.config,
            split=config.split or None,
            revision=found.revision,
            commit_sha=found.sha,
            licence=found.licence or None,
            description=found.description or None,
            status=status,
            path=self.ctx.paths.relative(self.folder),
        )
        # a job that is interrupted while it builds the index finds its dataset again
        JOBS.update(self.ctx.db, self.ctx.job.id, target_id=self.dataset_id)

    def _require_room(self) -> None:
        """Room for what is missing of the files and for the text made of them."""
        from mistudio.hub.setup import cache_folder

        size = self.found.bytes_of(self.config.split)
        if size >= LARGE_BYTES and not self.config.accept_large:
            raise InvalidInput(
                f"This is a download of {format_bytes(size)}. Take the first rows or tokens, or "
                "say that everything is wanted.",
                code="very_large",
            )
        if size >= WARN_BYTES:
            self.ctx.report.note(f"This is a download of {format_bytes(size)}.", level="warning")
        text, cache = self.found.prepared_bytes(self.config.split), cache_folder()
        missing = self.found.missing_bytes(self.config.split)
        if _device(cache) == _device(self.ctx.paths.home):
            require_room(self.ctx.paths.home, missing + text)
        else:
            require_room(cache, missing)
            require_room(self.ctx.paths.home, text)

    def _is_missing(self) -> bool:
        paths = self.found.paths(self.config.split)
        return any(self.found.files.local(path) is None for path in paths)

    def _fetch(self) -> None:
        from mistudio.hub.download import download

        stage = self.ctx.part(0.0, _DOWNLOAD_SHARE)
        download(
            self.found.plan(self.config.split),
            self.found.token,
            stage.report,
            self.ctx.control,
            hold=self._hold,
        )

    def _hold(self) -> None:
        """Pause this job, so that its row and its card say so."""
        self.ctx.studio.request(self.ctx.job.id, "pause")

    def _store(self, kinds: dict[str, str], at: float) -> None:
        from mistudio.ml.data.hub_ingest import Amount, store_rows

        config = self.config
        amount = Amount(
            rows=config.count if config.amount == "rows" else None,
            tokens=config.count if config.amount == "tokens" else None,
        )
        facts = store_rows(
            self.folder,
            self.found.layout,
            self.found.files,
            self.splits,
            kinds,
            config.text_column,
            amount,
            name=f"'{self.found.repo}'",
            report=self.ctx.part(at, _STORE_SHARE).report,
            control=self.ctx.control,
            hold=self._hold,
        )
        DATASETS.update(
            self.ctx.db,
            self.dataset_id,
            status="ready",
            num_samples=facts.num_samples,
            text_column=facts.text_column,
            statistics=dataclasses.asdict(facts),
            size_bytes=directory_bytes(self.folder),
        )


def _device(path: Path) -> int:
    while not path.exists() and path.parent != path:
        path = path.parent
    return os.stat(path).st_dev
