"""Get an SAE from the Hub into the Hugging Face cache, then add it to the library."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mistudio.core.configs import DownloadSaeConfig
from mistudio.core.errors import InUse, NoAnswer, NotFound, Offline, Unsupported
from mistudio.core.units import format_bytes
from mistudio.jobs import import_sae
from mistudio.jobs.context import JobContext, Result, StageReporter
from mistudio.jobs.last_progress import LastProgress
from mistudio.jobs.runner import Studio
from mistudio.store.tables import JOBS

if TYPE_CHECKING:
    from mistudio.hub.client import RepoFacts
    from mistudio.hub.download import DownloadPlan
    from mistudio.ml.formats.listing import Listed

_ACTIVE = "status IN ('queued', 'running', 'paused')"
_FETCHED = 0.95  # share of the job that downloading is
_WARN_BYTES = 5_000_000_000


class _Chosen(NamedTuple):
    plan: DownloadPlan
    sae: Listed


def prepare(studio: Studio, config: DownloadSaeConfig) -> None:
    """Refuse an SAE that is on its way already."""
    wanted = (config.repo, config.revision, config.folder)
    for job in JOBS.select(studio.db(), f"kind = 'download_sae' AND {_ACTIVE}"):
        if tuple(job.config.get(name) for name in ("repo", "revision", "folder")) == wanted:
            raise InUse(f"This SAE of '{config.repo}' is being downloaded already.")


def run(ctx: JobContext, config: DownloadSaeConfig) -> Result:
    """Download the files of one SAE and add it, as `import_sae` does with files of this machine.

    What has arrived stays in the cache for a retry; no row is made before all is read.
    """
    from mistudio.hub.download import cached_bytes, download

    plan, chosen = _choose(ctx, config)
    missing = plan.total_bytes - cached_bytes(plan)
    if missing > _WARN_BYTES:
        ctx.report.note(f"This is a download of {format_bytes(missing)}.", level="warning")
    done = download(
        plan,
        ctx.studio.tokens.of(config.repo),
        StageReporter(ctx.report, 0.0, _FETCHED),
        ctx.control,
        hold=lambda: ctx.studio.request(ctx.job.id, "pause"),
    )
    if not done.fetched_bytes:
        ctx.report.note("Every file was in the cache already.")
    ctx.report.progress(_FETCHED, "reading")
    source = Path(done.folder).absolute() / chosen.place
    name = config.name.strip() or " ".join([plan.repo.rsplit("/", 1)[-1], chosen.place]).strip()
    return import_sae.add_from_files(ctx, config, source, name, repo=plan.repo)


def _choose(ctx: JobContext, config: DownloadSaeConfig) -> _Chosen:
    """The SAE and its files; from the cache if it has them and the Hub cannot be asked."""
    from mistudio.hub import client, offline
    from mistudio.hub.asking import persistently
    from mistudio.hub.download import DownloadPlan, plan_download

    report = LastProgress(ctx.report)
    report.progress(0.0, "Asking the Hub")
    token = ctx.studio.tokens.of(config.repo)

    def ask() -> RepoFacts:
        return client.repo_facts("model", config.repo, config.revision, token, ctx.control.check)

    try:
        facts = persistently(ask, ctx.control, report.waiting)
    except (NoAnswer, Offline) as error:
        cached = offline.cached_facts("model", config.repo, config.revision)
        if cached is None:
            raise
        try:
            sae = _named(cached, config)
        except (NotFound, Unsupported):
            raise error from None  # the cache holds other parts of this repository
        ctx.report.note(f"{error.sentence} The files in the cache are used.", level="warning")
        files = tuple(file for file in cached.files if file.path in sae.files)
        return _Chosen(DownloadPlan("model", cached.id, config.revision, cached.sha, files), sae)
    sae = _named(facts, config)
    return _Chosen(plan_download(facts, sae.files), sae)


def _named(facts: RepoFacts, config: DownloadSaeConfig) -> Listed:
    from mistudio.ml.formats.listing import one_of, saes_of

    names = [file.path for file in facts.files]
    return one_of(saes_of(names), names, config.folder, facts.id)
