"""One dataset repository at one commit: its files on the Hub or in the cache, and its rows."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from mistudio.core.control import JobControl
from mistudio.core.errors import InvalidInput, NoAnswer, Offline, StudioError, Unsupported
from mistudio.core.repositories import from_address, repository_problem
from mistudio.core.units import format_bytes
from mistudio.jobs.dataset_preview import FIRST_ROWS, DatasetPreview, SplitInfo
from mistudio.jobs.hub_files import HubFiles, sizes_below
from mistudio.jobs.last_progress import LastProgress
from mistudio.jobs.runner import Studio

if TYPE_CHECKING:
    from mistudio.hub.client import RepoFacts
    from mistudio.hub.download import DownloadPlan
    from mistudio.hub.ranges import RangeReader
    from mistudio.ml.data.hub_dataset import Layout
    from mistudio.ml.data.hub_ingest import Beginning

CARD = "README.md"
WARN_BYTES = 10_000_000_000
LARGE_BYTES = 100_000_000_000
_MOST_CARD = 4_000_000
_PACKED = (".gz", ".zip", ".xz", ".bz2", ".zst", ".parquet")
_UNPACKED_TIMES = 3  # text per byte of those
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\b")


class HubDataset:
    """A dataset of the Hub, opened: what it holds is asked once, at the commit of that moment."""

    def __init__(
        self,
        studio: Studio,
        repo: str,
        config: str,
        revision: str,
        token: str,
        control: JobControl,
        report: LastProgress | None = None,
    ) -> None:
        """Asks the Hub, or the cache in offline mode and where the Hub does not answer.

        With a `report` the Hub is asked again after some waits if the cache has nothing.

        Raises `NotFound`, `NeedsToken`, `Gated`, `NoAnswer`, `Offline`, `Unsupported`,
        `InvalidInput`.
        """
        self.repo, self.revision = _named(repo, revision)
        self.token = token.strip() or studio.tokens.of(self.repo)
        self.control = control
        self._report = report
        self.sha = ""
        self._closing = ExitStack()
        self.facts: RepoFacts | None = None
        try:
            self._open(config)
        except BaseException:
            self._closing.close()
            raise

    def __enter__(self) -> HubDataset:
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.close()

    def _open(self, config: str) -> None:
        from mistudio.hub import setup
        from mistudio.hub.asking import persistently

        if setup.is_offline():
            self._open_cached(config)
            return
        if self._report is None:
            facts = self._ask(config)
        else:
            waiting = self._report.waiting
            facts = persistently(lambda: self._ask(config), self.control, waiting)
        if facts is not None:
            self._open_remote(facts, config)

    def _ask(self, config: str) -> RepoFacts | None:
        """What the Hub tells; None if it does not answer and the cache, which has all, is open."""
        from mistudio.hub import client

        try:
            return client.repo_facts(
                "dataset", self.repo, self.revision, self.token, self.control.check
            )
        except NoAnswer as error:
            try:
                self._open_cached(config)
            except StudioError:
                raise error from None
            if self._report is not None:
                told = f"{error.sentence} The files in the cache are used."
                self._report.note(told, level="warning")
            return None

    def _cached_snapshot(self) -> Path | None:
        from mistudio.hub.repo_cache import RepoCache

        cache = RepoCache("dataset", self.repo)
        sha = cache.commit_of(self.revision)
        snapshot = cache.snapshot(sha) if sha else None
        return snapshot if snapshot is not None and snapshot.is_dir() else None

    def _open_remote(self, facts: RepoFacts, config: str) -> None:
        from mistudio.hub.repo_cache import RepoCache

        self.facts, self.repo, self.sha = facts, facts.id, facts.sha
        sizes = {file.path: file.size for file in facts.files}
        reader = self._closing.enter_context(self._reader(facts))
        snapshot = RepoCache("dataset", self.repo).snapshot(self.sha)
        self.files = HubFiles(snapshot, sizes, reader, self.control)
        self.layout = self._read_layout(config)

    def _open_cached(self, config: str) -> None:
        snapshot = self._cached_snapshot()
        if snapshot is None:
            raise Offline(f"Offline mode is on, and '{self.repo}' is not on this machine.")
        self.sha = snapshot.name
        self.files = HubFiles(snapshot, sizes_below(snapshot), None, self.control)
        try:
            self.layout = self._read_layout(config)
        except Unsupported as error:
            if error.code == "no_data_files":
                raise self._partly() from error
            raise
        self._require_whole()

    def _read_layout(self, config: str) -> Layout:
        from mistudio.ml.data.hub_dataset import read_layout

        return read_layout(self.repo, self.files, self.files.text(CARD, _MOST_CARD), config)

    def _reader(self, facts: RepoFacts) -> RangeReader:
        from mistudio.hub.ranges import WAITS_S, RangeReader

        if self._report is None:  # someone looks at the preview: no long waits
            return RangeReader(facts, self.token, self.control, waits_s=(), silence_s=10.0)
        return RangeReader(
            facts, self.token, self.control, waits_s=WAITS_S, waiting=self._report.waiting
        )

    def _require_whole(self) -> None:
        """In offline mode, refuse a split of which only some files were ever downloaded."""
        for paths in self.layout.files.values():
            for path in paths:
                found = _SHARD.search(path)
                if found and sum(1 for other in paths if _SHARD.search(other)) < int(found[2]):
                    raise self._partly()

    def _partly(self) -> Offline:
        return Offline(f"Offline mode is on, and only a part of '{self.repo}' is on this machine.")

    @property
    def licence(self) -> str:
        return (self.facts.licence if self.facts else None) or self.layout.licence

    @property
    def description(self) -> str:
        return self.layout.description or (self.facts.description if self.facts else "")

    def paths(self, split: str) -> list[str]:
        """The files of one split, or of all for "". Raises `InvalidInput`."""
        return [path for name in self.layout.chosen(split) for path in self.layout.files[name]]

    def bytes_of(self, split: str) -> int:
        """Bytes of those files."""
        return sum(self.files.sizes[path] for path in self.paths(split))

    def plan(self, split: str) -> DownloadPlan:
        """What to download: the files of a split, or of all for "", and the card."""
        from mistudio.hub.download import plan_download

        assert self.facts is not None, "nothing is missing in offline mode"
        card = [CARD] if CARD in self.files.sizes else []
        return plan_download(self.facts, [*self.paths(split), *card])

    def missing_bytes(self, split: str) -> int:
        """Bytes of those files that are not in the cache."""
        from mistudio.hub.download import cached_bytes

        if self.facts is None:
            return 0
        plan = self.plan(split)
        return plan.total_bytes - cached_bytes(plan)

    def prepared_bytes(self, split: str) -> int:
        """About how much the stored text of those files takes."""
        sizes = self.files.sizes
        return sum(
            sizes[path] * (_UNPACKED_TIMES if path.lower().endswith(_PACKED) else 1)
            for path in self.paths(split)
        )

    def beginning(self, split: str) -> Beginning:
        """The first rows of one split, or of all for ""."""
        from mistudio.ml.data.hub_ingest import read_beginning

        return read_beginning(self.layout, self.files, self.layout.chosen(split))

    def preview(self, split: str) -> DatasetPreview:
        """What the download form shows; an empty split means all."""
        from mistudio.ml.data.hub_ingest import count_rows, text_columns

        layout, chosen = self.layout, self.layout.chosen(split)
        beginning = self.beginning(split)
        size = self.bytes_of(split)
        counts = count_rows(layout, self.files)
        rows = [counts[name] for name in chosen]
        warning = ""
        try:
            text = text_columns(beginning.kinds, ())
        except InvalidInput as error:
            text, warning = (), error.sentence
        if size >= WARN_BYTES and not warning:
            warning = f"This is a download of {format_bytes(size)}."
        return DatasetPreview(
            id=self.repo,
            sha=self.sha,
            description=self.description,
            licence=self.licence,
            gated=self.facts.gated if self.facts else False,
            configs=layout.configs,
            config=layout.config,
            splits=[
                SplitInfo(name, counts[name], sum(self.files.sizes[p] for p in paths))
                for name, paths in layout.files.items()
            ],
            columns=beginning.kinds,
            text_column=text,
            rows=None if None in rows else sum(count or 0 for count in rows),
            size_bytes=size,
            first=beginning.rows[:FIRST_ROWS],
            warning=warning,
            missing_bytes=self.missing_bytes(split),
            prepared_bytes=self.prepared_bytes(split),
            suggests_tokens=size >= LARGE_BYTES,
        )


def _named(repo: str, revision: str) -> tuple[str, str]:
    """Id and revision of what was typed or pasted; raises `InvalidInput`."""
    name, pasted = from_address(repo)
    if problem := repository_problem(name):
        raise InvalidInput(problem)
    wanted = revision.strip()
    return name, pasted if pasted and wanted in ("", "main") else (wanted or "main")
