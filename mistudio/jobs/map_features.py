"""The map of an SAE's live features, computed once for a feature set and kept."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistudio.core.errors import from_os_error
from mistudio.core.feature_search_configs import MapFeaturesConfig
from mistudio.jobs import feature_analyses, feature_pages, lookup, sae_library
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio
from mistudio.store import features
from mistudio.store.features import FeatureFilter
from mistudio.store.records import SaeRow

KIND, VERSION = "direction_map", 1


@dataclass(frozen=True)
class FeatureMap:
    """Live features with their places, and the share of the variance that each axis explains."""

    features: list[int]
    xs: list[float]
    ys: list[float]
    shares: list[float]
    made_at: str


def prepare(studio: Studio, config: MapFeaturesConfig) -> None:
    """Refuse an SAE whose features are not found yet."""
    feature_pages.feature_set(studio, lookup.sae(studio, config.sae))


def run(ctx: JobContext, config: MapFeaturesConfig) -> Result:
    """Compute the map unless it is known; `anew` computes it again."""
    row = lookup.sae(ctx.studio, config.sae)
    found = feature_pages.feature_set(ctx.studio, row)

    def check(done: float) -> None:
        ctx.control.check()
        ctx.report.progress(done, "Placing directions")

    analysis = feature_analyses.kept(
        ctx.studio, row, found, KIND, VERSION, {},
        lambda: _compute(ctx.studio, row, check), anew=config.anew,
    )  # fmt: skip
    ctx.report.progress(1.0, "Ready")
    return {
        "sae": row.id,
        "features": len(analysis.result["features"]),
        "shares": analysis.result["shares"],
    }


def _compute(studio: Studio, row: SaeRow, check: Any) -> dict[str, Any]:
    import numpy as np

    from mistudio.ml.features.direction_map import direction_map

    found = feature_pages.feature_set(studio, row)
    live = features.feature_ids(
        studio.db(), found, FeatureFilter(show_hidden=True), sort="index", descending=False
    )
    sae = sae_library.read_sae(studio, row)
    kept = np.zeros(row.n_latents, bool)
    kept[live] = True
    placed = direction_map(sae.W_dec_FO, kept, check=check)
    return {
        "features": live,
        "xs": [round(float(x), 6) for x in placed.places_F2[live, 0]],
        "ys": [round(float(y), 6) for y in placed.places_F2[live, 1]],
        "shares": placed.shares_2.tolist(),
    }


def known(studio: Studio, row: SaeRow) -> FeatureMap | None:
    """The map of the newest feature set, if it was computed."""
    found = feature_pages.feature_set(studio, row)
    analysis = feature_analyses.known(studio, row, found, KIND, VERSION, {})
    return None if analysis is None else FeatureMap(**analysis.result, made_at=analysis.made_at)


def write_csv(placed: FeatureMap, path: Path) -> None:
    """Index and coordinates of each live feature."""
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["index", "x", "y"])
            writer.writerows(zip(placed.features, placed.xs, placed.ys, strict=True))
    except OSError as error:
        raise from_os_error(error, "write the map") from error
