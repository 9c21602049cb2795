"""One dataset repository at one commit: its files on the Hub or in the cache, and its rows."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from mistudio.core.control import JobControl
from mistudio.core.errors import InvalidInput, Offline, StudioError, Unsupported
from mistudio.core.events import Reporter
from mistudio.core.repositories import from_address, repository_problem
from mistudio.core.units import format_bytes
from mistudio.jobs.dataset_preview import FIRST_ROWS, DatasetPreview, SplitInfo
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
_RECENT_PIECES = 8  # of a megabyte
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\b")


class LastProgress:
    """Passes events on and remembers how far the job was, for phases of waiting."""

    def __init__(self, inner: Reporter) -> None:
        self._inner = inner
        self._fraction = 0.0
        self._told = ""

    def progress(
        self, fraction: float, phase: str, *, rate: str = "", eta_s: float | None = None
    ) -> None:
        self._fraction = fraction
        self._told = ""
        self._inner.progress(fraction, phase, rate=rate, eta_s=eta_s)

    def metric(self, name: str, values: Mapping[str, float | int | str | None]) -> None:
        self._inner.metric(name, values)

    def note(self, sentence: str, *, level: str = "info") -> None:
        self._inner.note(sentence, level=level)

    def partial(self, name: str, value: object) -> None:
        self._inner.partial(name, value)

    def waiting(self, error: StudioError, left: float) -> None:
        """Say that the Hub is asked again in `left` seconds, and once why."""
        if self._told != error.sentence:
            self._told = error.sentence
            self._inner.note(f"{error.sentence} It is asked again.", level="warning")
        self._inner.progress(self._fraction, f"Waiting {left:.0f} s to try again")


class HubFiles:
    """The files of a commit as a `FileSource`: those in the cache from there, others by pieces."""

    def __init__(
        self,
        snapshot: Path,
        sizes: Mapping[str, int],
        reader: RangeReader | None,
        control: JobControl,
    ) -> None:
        self.sizes = sizes
        self.control = control
        self._snapshot = snapshot
        self._reader = reader
        self._recent: OrderedDict[tuple[str, int, int], bytes] = OrderedDict()

    def local(self, path: str) -> Path | None:
        """The file in the cache if it is there in full."""
        place = self._snapshot / path
        try:
            return place if place.stat().st_size == self.sizes[path] else None
        except OSError:
            return None

    def read(self, path: str, start: int, end: int) -> bytes:
        """Bytes start..end-1 from the Hub; raises `Offline` where that is not to be asked.

        The last pieces are kept: a beginning is read for the preview, the columns and the rows.
        """
        key = (path, start, end)
        found = self._recent.get(key)
        if found is None:
            if self._reader is None:
                raise Offline("Offline mode is on; this dataset is not in the cache in full.")
            found = self._recent[key] = self._reader.read(path, start, end)
            if len(self._recent) > _RECENT_PIECES:
                self._recent.popitem(last=False)
        return found

    def text(self, path: str, most: int) -> str:
        """The beginning of a small text file, "" if there is none."""
        size = min(self.sizes.get(path, 0), most)
        if not size:
            return ""
        place = self.local(path)
        content = place.read_bytes()[:size] if place else self.read(path, 0, size)
        return content.decode("utf-8", "replace")


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
        """Asks the Hub, or the cache in offline mode; with a `report` waits and tries again.

        Raises `NotFound`, `NeedsToken`, `Gated`, `NoAnswer`, `Offline`, `Unsupported`,
        `InvalidInput`.
        """
        self.repo, self.revision = _named(repo, revision)
        self.token = token.strip() or studio.tokens.of(self.repo)
        self.control = control
        self._report = report
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
        from mistudio.hub import client, setup
        from mistudio.hub.repo_cache import RepoCache
        from mistudio.ml.data.hub_dataset import read_layout

        cache = RepoCache("dataset", self.repo)
        if setup.is_offline():
            self.sha = cache.commit_of(self.revision) or ""
            snapshot = cache.snapshot(self.sha) if self.sha else None
            if snapshot is None or not snapshot.is_dir():
                raise Offline(f"Offline mode is on, and '{self.repo}' is not on this machine.")
            self.files = HubFiles(snapshot, _sizes_below(snapshot), None, self.control)
        else:
            self.facts = client.repo_facts(
                "dataset", self.repo, self.revision, self.token, self.control.check
            )
            self.repo, self.sha = self.facts.id, self.facts.sha
            sizes = {file.path: file.size for file in self.facts.files}
            reader = self._closing.enter_context(self._reader(self.facts))
            self.files = HubFiles(cache.snapshot(self.sha), sizes, reader, self.control)
        card = self.files.text(CARD, _MOST_CARD)
        try:
            self.layout: Layout = read_layout(self.repo, self.files, card, config)
        except Unsupported as error:
            if self.facts is None and error.code == "no_data_files":
                raise self._partly() from error
            raise
        if self.facts is None:
            self._require_whole()

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

    def beginning(self, split: str) -> Beginning:
        """The first rows of one split, or of all for ""."""
        from mistudio.ml.data.hub_ingest import read_beginning

        return read_beginning(self.layout, self.files, self.layout.chosen(split))

    def preview(self, split: str) -> DatasetPreview:
        """What the download form shows; an empty split means all."""
        from mistudio.ml.data.hub_ingest import text_columns

        layout, chosen = self.layout, self.layout.chosen(split)
        beginning = self.beginning(split)
        size = self.bytes_of(split)
        rows = [layout.rows[name] for name in chosen]
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
                SplitInfo(name, layout.rows[name], sum(self.files.sizes[p] for p in paths))
                for name, paths in layout.files.items()
            ],
            columns=beginning.kinds,
            text_column=text,
            rows=sum(count or 0 for count in rows) if all(rows) else None,
            size_bytes=size,
            first=beginning.rows[:FIRST_ROWS],
            warning=warning,
            suggests_tokens=size >= LARGE_BYTES,
        )


def _named(repo: str, revision: str) -> tuple[str, str]:
    """Id and revision of what was typed or pasted; raises `InvalidInput`."""
    name, pasted = from_address(repo)
    if problem := repository_problem(name):
        raise InvalidInput(problem)
    wanted = revision.strip()
    return name, pasted if pasted and wanted in ("", "main") else (wanted or "main")


def _sizes_below(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
