"""Downloads files of a repository into the user's Hugging Face cache: resumed, verified, held."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import filelock

from mistudio.core.control import JobControl
from mistudio.core.disk_room import require_room
from mistudio.core.errors import (
    Cancelled,
    Damaged,
    InvalidInput,
    from_os_error,
)
from mistudio.core.events import Reporter
from mistudio.core.units import format_bytes
from mistudio.hub import errors, setup
from mistudio.hub.client import RemoteFile, RepoFacts, file_url, headers_for
from mistudio.hub.part_file import PartFile
from mistudio.hub.progress import Progress
from mistudio.hub.repo_cache import RepoCache
from mistudio.hub.transfer import Patience, Transfer

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class DownloadPlan:
    """Which files of which commit are wanted; `revision` is the branch or tag that named it."""

    kind: str
    repo: str
    revision: str
    sha: str
    files: tuple[RemoteFile, ...]

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class Downloaded:
    """The snapshot folder of the commit, and how many bytes came over the network."""

    folder: Path
    fetched_bytes: int
    total_bytes: int


@dataclass
class _Job:
    """What the steps of one download share."""

    plan: DownloadPlan
    cache: RepoCache
    progress: Progress
    transfer: Transfer
    control: JobControl
    report: Reporter
    damaged: set[str] = field(default_factory=set[str])


def plan_download(facts: RepoFacts, paths: Iterable[str] | None = None) -> DownloadPlan:
    """The plan for some files of a repository, all if `paths` is None.

    Raises `InvalidInput` for a path that is not there, `Damaged` for a list without checksums.
    """
    known = {file.path: file for file in facts.files}
    wanted = list(known) if paths is None else list(dict.fromkeys(paths))
    missing = [path for path in wanted if path not in known]
    if missing:
        raise InvalidInput(f"'{facts.id}' has no file '{missing[0]}'.", code="not_found")
    files = tuple(known[path] for path in wanted)
    if not _COMMIT.fullmatch(facts.sha) or not all(_ETAG.fullmatch(f.etag) for f in files):
        raise Damaged(f"The Hub's list of files of '{facts.id}' has no checksums.")
    return DownloadPlan(facts.kind, facts.id, facts.revision, facts.sha, files)


def cached_bytes(plan: DownloadPlan) -> int:
    """Bytes of a plan that are in the cache already, beginnings included."""
    return RepoCache(plan.kind, plan.repo).cached_bytes(plan.sha, plan.files)


def cached_snapshot(plan: DownloadPlan) -> Path | None:
    """The snapshot folder if every file of the plan is in it."""
    cache = RepoCache(plan.kind, plan.repo)
    return cache.snapshot(plan.sha) if cache.is_complete(plan.sha, plan.files) else None


def download(
    plan: DownloadPlan,
    token: str | None,
    report: Reporter,
    control: JobControl,
    *,
    patience: Patience | None = None,
    hold: Callable[[], object] | None = None,
) -> Downloaded:
    """Bring every file of a plan into the cache; what is there already is not fetched again.

    A file continues where an earlier try ended, after a broken connection, a pause or a restart,
    if the server knows ranges. Its SHA-256 (or git SHA-1) must be right; a damaged one is fetched
    once more. `hold` is called to pause the job when the disk falls below what is kept free (the
    default asks `control`). A snapshot shows only when all its files are whole.

    Raises `DiskFull` before the start, `NoAnswer` and `RateLimited` after the last try, `Damaged`,
    `NeedsToken`, `Gated`, `NotFound`, `Offline`, `Cancelled`. What has arrived stays for a retry.
    """
    cache = RepoCache(plan.kind, plan.repo)
    try:
        done = cached_snapshot(plan)
        if done is None:
            return _download(plan, cache, token, report, control, patience or Patience(), hold)
        cache.finish(plan.revision, plan.sha, plan.files)
    except OSError as error:
        raise from_os_error(error, f"write to the cache ({cache.folder})") from error
    return Downloaded(done, 0, plan.total_bytes)


def _download(
    plan: DownloadPlan,
    cache: RepoCache,
    token: str | None,
    report: Reporter,
    control: JobControl,
    patience: Patience,
    hold: Callable[[], object] | None,
) -> Downloaded:
    already = cache.cached_bytes(plan.sha, plan.files)
    missing = [file for file in plan.files if not cache.has(plan.sha, file)]
    if missing and setup.is_offline():
        raise errors.offline()
    require_room(cache.folder, plan.total_bytes - already)
    cache.prepare()
    progress = Progress(
        report,
        plan.total_bytes,
        {file.path: cache.cached_bytes(plan.sha, [file]) for file in plan.files},
    )
    headers = headers_for(token)
    transfer = Transfer(headers, report, control, progress, patience, hold or control.pause)
    job = _Job(plan, cache, progress, transfer, control, report)
    if already:
        kept = f"{format_bytes(already)} of {format_bytes(plan.total_bytes)}"
        report.note(f"{kept} are in the cache already.")
    try:
        for number, file in enumerate(plan.files, 1):
            control.check()
            if cache.has(plan.sha, file):
                progress.at(file.path, file.size)  # also another file of the same content
            else:
                _fetch_file(job, number, file)
        folder = cache.finish(plan.revision, plan.sha, plan.files)
    except BaseException as error:
        _say_what_stays(job, error)
        raise
    finally:
        transfer.close()
    return Downloaded(folder, transfer.fetched_bytes, plan.total_bytes)


def _say_what_stays(job: _Job, error: BaseException) -> None:
    """Tell how much a later try need not fetch, and leave no empty files."""
    for file in job.plan.files:
        part = job.cache.part(file)
        if part.exists() and part.stat().st_size == 0:
            part.unlink()
    kept = job.cache.cached_bytes(job.plan.sha, job.plan.files)
    if kept:
        told = f"{format_bytes(kept)} of {format_bytes(job.plan.total_bytes)}"
        job.report.note(f"{told} stay in the cache; a retry goes on from there.")
    else:
        job.cache.drop_if_empty()
        if isinstance(error, Cancelled):
            job.report.note("Nothing was kept.")


def _fetch_file(job: _Job, number: int, file: RemoteFile) -> None:
    with _locked(job, file):
        while not job.cache.has(job.plan.sha, file):
            part = PartFile(job.cache.part(file), file, job.control.check)
            with part:
                job.progress.at(file.path, part.position)
                if not part.is_full:
                    url = file_url(job.plan.kind, job.plan.repo, job.plan.sha, file.path)
                    subject = errors.Subject(
                        job.plan.kind, job.plan.repo, job.plan.revision, file.path
                    )
                    job.transfer.fill(part, url, subject)
                if part.is_right:
                    part.finish(job.cache.blob(file))
                    return
            part.drop()
            job.progress.at(file.path, 0)
            _note_damage(job, number, file)


def _note_damage(job: _Job, number: int, file: RemoteFile) -> None:
    sentence = f"File {number} of {len(job.plan.files)} arrived damaged"
    details = f"{file.path}: not the content whose checksum is {file.etag}"
    if file.path in job.damaged:
        damage = Damaged(f"{sentence} twice. Get it again later.", details=details)
        damage.retryable = True
        raise damage
    job.damaged.add(file.path)
    job.report.note(f"{sentence} ({file.path}); it is fetched again.", level="warning")


@contextmanager
def _locked(job: _Job, file: RemoteFile) -> Generator[None, None, None]:
    """Hold the content's lock, which the library takes, too; the wait for it can be cancelled."""
    path = job.cache.lock(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path, mode=0o664)
    told = False
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0.2)
        except filelock.Timeout:
            job.control.check()
            if not told:
                job.report.note("Waits: another program downloads the same file.")
                told = True
        except NotImplementedError:
            break  # a disk without locks: whole files are renamed into place all the same
    try:
        yield
    finally:
        lock.release()
