"""The health of an SAE: how its features are used, and what its weights look like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from mistudio.core.health_configs import HealthConfig
from mistudio.jobs import feature_analyses, feature_pages, lookup, sae_geometry, sae_library
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio
from mistudio.store.records import FeatureSetRow, SaeRow

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

KIND, VERSION = "health", 1


class HealthReport(NamedTuple):
    """Figures as `ml.features.health.health` gives them, and the SAE's kept evaluation."""

    health: dict[str, Any]
    evaluation: dict[str, Any] | None
    made_at: str


def prepare(studio: Studio, config: HealthConfig) -> None:
    """Refuse an SAE without features before anything is queued."""
    feature_pages.feature_set(studio, lookup.sae(studio, config.sae))


def run(ctx: JobContext, config: HealthConfig) -> Result:
    """Compare all decoder rows if that was not done yet, then describe; the report is kept."""
    row = lookup.sae(ctx.studio, config.sae)
    found = feature_pages.feature_set(ctx.studio, row)

    def check(done: float) -> None:
        ctx.control.check()
        ctx.report.progress(done, "comparing decoder rows")

    geometry = sae_geometry.kept_geometry(ctx.studio, row)
    if geometry is None:
        ctx.report.progress(0.0, "reading the SAE")
        sae = sae_library.read_sae(ctx.studio, row).to(_device())
        geometry = sae_geometry.ensure_geometry(ctx.studio, row, sae, check=check)
    sae_geometry.complete_sets(ctx.studio, row, geometry)
    report = _report(ctx.studio, row, found, geometry, anew=config.again)
    return {
        "sae": row.id,
        "name": row.name,
        "made_at": report.made_at,
        "health": report.health,
        "evaluation": report.evaluation,
    }


def known_report(studio: Studio, sae: SaeRow) -> HealthReport | None:
    """The report, unless decoder rows have to be compared for it first."""
    found = feature_pages.feature_set(studio, sae)
    geometry = sae_geometry.kept_geometry(studio, sae)
    return None if geometry is None else _report(studio, sae, found, geometry)


def _report(
    studio: Studio,
    sae: SaeRow,
    found: FeatureSetRow,
    geometry_F: NDArray[np.void],
    *,
    anew: bool = False,
) -> HealthReport:
    from mistudio.ml.features.health import health

    kept = feature_analyses.kept(
        studio,
        sae,
        found,
        KIND,
        VERSION,
        {},
        lambda: health(feature_pages.open_store(studio, found), geometry_F),
        anew=anew,
    )
    return HealthReport(kept.result, sae.evaluation, kept.made_at)


def _device() -> str:
    from mistudio.ml.device import choose_device

    return str(choose_device())
