"""Get a model from the Hub into the Hugging Face cache, then have it checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mistudio.core.errors import InUse, NoAnswer, Offline
from mistudio.core.model_configs import CheckModelConfig, DownloadModelConfig
from mistudio.core.units import format_bytes
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.last_progress import LastProgress
from mistudio.jobs.runner import Studio
from mistudio.store.records import ModelRow
from mistudio.store.tables import JOBS, MODELS

if TYPE_CHECKING:
    from mistudio.hub.client import RepoFacts
    from mistudio.hub.download import DownloadPlan

_WARN_BYTES = 5_000_000_000
_WARN_LEFT_BYTES = 10_000_000_000
_ACTIVE = "status IN ('queued', 'running', 'paused')"


def prepare(studio: Studio, config: DownloadModelConfig) -> None:
    """Refuse a model that is here already or on its way."""
    _unfinished_row(studio, config.repo, config.revision)
    for job in JOBS.select(studio.db(), f"kind = 'download_model' AND {_ACTIVE}"):
        if (job.config.get("repo"), job.config.get("revision")) == (config.repo, config.revision):
            raise InUse(f"'{config.repo}' is being downloaded already.")


def run(ctx: JobContext, config: DownloadModelConfig) -> Result:
    """Download what is missing, then queue the check; returns the model's id and that job's.

    After a failure or a cancel no row is left that was not there before, while what has arrived
    stays in the cache for a retry.
    """
    before = _unfinished_row(ctx.studio, config.repo, config.revision)
    plan, facts = _plan(ctx, config)
    if before is None and facts.id != config.repo:  # the Hub redirects old names
        before = _unfinished_row(ctx.studio, facts.id, config.revision)
    row_id = before.id if before else _insert(ctx, config, facts)
    JOBS.update(ctx.db, ctx.job.id, target_id=row_id)
    MODELS.update(ctx.db, row_id, status="downloading", error_code=None, error_message=None)
    try:
        path = _fetch(ctx, config, plan)
        _finish(ctx, row_id, path, plan, facts, config)
        check = CheckModelConfig(model=row_id, format=config.format, allow_code=config.allow_code)
        following = ctx.studio.submit("check_model", check)
    except BaseException:
        if before is None:
            MODELS.delete(ctx.db, row_id)
        else:
            MODELS.update(ctx.db, row_id, status=before.status, path=before.path)
        raise
    return {"model": row_id, "name": MODELS.get(ctx.db, row_id).name, "next": following}


def _unfinished_row(studio: Studio, repo: str, revision: str) -> ModelRow | None:
    """The model's row if there is one; raises `InUse` if it is no use to download it again."""
    found = MODELS.select(studio.db(), "repo_id = ? AND revision = ?", [repo, revision])
    if found and found[0].status in ("ready", "checking"):
        raise InUse(_here(found[0]))
    return found[0] if found else None


def _here(row: ModelRow) -> str:
    return f"'{row.repo_id}' ({row.revision}) is here already: it is the model {row.name!r}."


def _plan(ctx: JobContext, config: DownloadModelConfig) -> tuple[DownloadPlan, RepoFacts]:
    """Which files are wanted; from the cache if it has them all and the Hub cannot be asked."""
    from mistudio.hub import model_files
    from mistudio.hub.asking import persistently
    from mistudio.hub.download import DownloadPlan, plan_download

    report = LastProgress(ctx.report)
    report.progress(0.0, "Asking the Hub")
    facts, is_cached = persistently(lambda: _facts(ctx, config), ctx.control, report.waiting)
    paths = model_files.wanted_files(facts, config.file, with_code=config.allow_code)
    if not is_cached:
        return plan_download(facts, paths), facts
    files = tuple(file for file in facts.files if file.path in set(paths))
    return DownloadPlan("model", facts.id, config.revision, facts.sha, files), facts


def _facts(ctx: JobContext, config: DownloadModelConfig) -> tuple[RepoFacts, bool]:
    """What the Hub tells of the model, or the cache that has it; whether it is the latter."""
    from mistudio.hub import client, offline

    token = ctx.studio.tokens.of(config.repo)
    try:
        return client.repo_facts(
            "model", config.repo, config.revision, token, ctx.control.check
        ), False
    except (NoAnswer, Offline) as error:
        cached = offline.cached_facts("model", config.repo, config.revision)
        if cached is None or offline.lacks_shards(cached):
            raise
        ctx.report.note(f"{error.sentence} The files in the cache are used.", level="warning")
        return cached, True


def _insert(ctx: JobContext, config: DownloadModelConfig, facts: RepoFacts) -> str:
    from mistudio.hub.repo_cache import RepoCache

    row = MODELS.insert(
        ctx.db,
        name=config.name.strip() or facts.id.rsplit("/", 1)[-1],
        origin="hub",
        repo_id=facts.id,
        revision=config.revision,
        commit_sha=facts.sha,
        licence=facts.licence,
        trust_remote_code=config.allow_code,
        path=str(RepoCache("model", facts.id).snapshot(facts.sha).absolute()),
        status="downloading",
    )
    return row.id


def _fetch(ctx: JobContext, config: DownloadModelConfig, plan: DownloadPlan) -> str:
    """The snapshot folder or the GGUF file in it, as a row stores it."""
    from mistudio.hub.download import cached_bytes, download

    missing = plan.total_bytes - cached_bytes(plan)
    _warn(ctx, missing)
    done = download(
        plan,
        ctx.studio.tokens.of(config.repo),
        ctx.report,
        ctx.control,
        hold=lambda: ctx.studio.request(ctx.job.id, "pause"),
    )
    if not done.fetched_bytes:
        ctx.report.note("Every file was in the cache already.")
    single = plan.files[0].path if len(plan.files) == 1 else ""
    folder = done.folder.absolute()
    return str(folder / single if single.lower().endswith(".gguf") else folder)


def _warn(ctx: JobContext, missing: int) -> None:
    from mistudio.core.disk_room import free_bytes
    from mistudio.hub.setup import cache_folder

    if missing > _WARN_BYTES:
        ctx.report.note(f"This is a download of {format_bytes(missing)}.", level="warning")
    left = free_bytes(cache_folder()) - missing
    if missing and left < _WARN_LEFT_BYTES:
        ctx.report.note(f"{format_bytes(max(0, left))} will be left on the disk.", level="warning")


def _finish(
    ctx: JobContext,
    row_id: str,
    path: str,
    plan: DownloadPlan,
    facts: RepoFacts,
    config: DownloadModelConfig,
) -> None:
    MODELS.update(
        ctx.db,
        row_id,
        status="checking",
        path=path,
        size_bytes=plan.total_bytes,
        commit_sha=plan.sha,
        licence=facts.licence,
        trust_remote_code=config.allow_code,
    )
