"""Write features of an SAE for people and for other programs: tables, a report, peers' layouts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mistudio.core.atomic import directory_bytes
from mistudio.core.errors import InvalidInput, Mismatch
from mistudio.core.feature_export_configs import (
    FOLDER_FORMATS,
    FORMAT_ENDINGS,
    TABLE_FORMATS,
    ExportFeaturesConfig,
)
from mistudio.core.ids import now
from mistudio.core.index_ranges import parse_ranges
from mistudio.jobs import (
    export_delphi,
    export_peers,
    feature_pages,
    feature_records,
    feature_report,
    lookup,
    sae_library,
)
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.feature_tables import write_table
from mistudio.jobs.runner import Studio
from mistudio.store import feature_export
from mistudio.store.records import FeatureSetRow, SaeRow
from mistudio.store.tables import DATASETS, TOKENIZATIONS

if TYPE_CHECKING:
    from mistudio.ml.features.feature_store import FeatureStore


def prepare(studio: Studio, config: ExportFeaturesConfig) -> None:
    """Refuse an SAE without features, and a choice of none, before anything is queued."""
    sae = lookup.sae(studio, config.sae)
    features_of(studio, sae, feature_pages.feature_set(studio, sae), config)
    if config.format in FOLDER_FORMATS and not sae_library.is_placed(sae):
        raise Mismatch(f"SAE {sae.name!r} does not say which layer and hook it reads.")


def run(ctx: JobContext, config: ExportFeaturesConfig) -> Result:
    """Write the chosen features in one format; the result says where, and how many bytes."""
    sae = lookup.sae(ctx.studio, config.sae)
    found = feature_pages.feature_set(ctx.studio, sae)
    features = features_of(ctx.studio, sae, found, config)
    out = place_of(ctx.studio, sae, config)
    told = {"features": len(features), "skipped": 0}
    if config.format in TABLE_FORMATS:
        _write_table(ctx, config, sae, found, features, out)
    elif config.format == "html":
        _write_report(ctx, config, sae, found, features, out)
    elif config.format == "delphi":
        told = export_delphi.write_cache(ctx, config, sae, found, features, out)
    else:
        store = store_of(ctx.studio, found, with_text=False)
        dataset = text_of(ctx.studio, found)
        told = export_peers.write_folder(
            ctx, config, sae, found, features, store, dataset, out
        )._asdict()
    return {
        "sae": sae.id,
        "feature_set": found.id,
        "format": config.format,
        **told,
        "path": str(out),
        "bytes": directory_bytes(out),
    }


def features_of(
    studio: Studio, sae: SaeRow, found: FeatureSetRow, config: ExportFeaturesConfig
) -> list[int]:
    """Numbers of the features that a config means; raises `InvalidInput` if it means none."""
    if config.features.strip():
        features = parse_ranges(config.features, sae.n_latents)
    elif config.list:
        features = feature_export.of_list(studio.db(), sae.id, config.list)
    else:
        features = feature_export.chosen(studio.db(), found, config.which)
    if not features:
        raise InvalidInput("No feature is chosen; there is nothing to write.")
    return features


def place_of(studio: Studio, sae: SaeRow, config: ExportFeaturesConfig) -> Path:
    """The file or folder to make: as named, else a fresh name in the data folder's exports."""
    ending = FORMAT_ENDINGS.get(config.format, "")
    if config.out.strip():
        out = Path(config.out.strip()).expanduser().absolute()
        if out.is_dir() and config.format not in FOLDER_FORMATS:
            out = out / proposed_name(sae.name, config.format)
        if ending and out.suffix.lower() != ending:
            out = out.with_name(out.name + ending)
        return out
    name = proposed_name(sae.name, config.format)
    stem, out, number = name.removesuffix(ending), studio.paths.exports / name, 2
    while out.exists():
        out = studio.paths.exports / f"{stem}_{number}{ending}"
        number += 1
    return out


def proposed_name(name: str, kind: str) -> str:
    """What a file of an SAE's features is called if nobody says so."""
    words = re.sub(r"[^\w.-]+", "_", f"{name}_features").strip("_.")
    if kind in FOLDER_FORMATS:
        words += f"_{kind}"
    return (words or "features") + FORMAT_ENDINGS.get(kind, "")


def store_of(studio: Studio, found: FeatureSetRow, *, with_text: bool) -> FeatureStore:
    """The files of a set; without text they open even if the text has been deleted."""
    if with_text:
        return feature_pages.open_store(studio, found)
    from mistudio.ml.features.feature_store import FeatureStore

    return FeatureStore(studio.paths.absolute(found.path or ""))


def _write_table(
    ctx: JobContext,
    config: ExportFeaturesConfig,
    sae: SaeRow,
    found: FeatureSetRow,
    features: list[int],
    out: Path,
) -> None:
    with_text = config.format in ("json", "jsonl") and config.examples > 0
    store = store_of(ctx.studio, found, with_text=with_text)
    rows = feature_records.records(ctx.db, sae, store, features, ctx.report, ctx.control)
    if with_text:
        rows = (
            {
                **row,
                "examples": feature_records.examples_of(
                    store, row["index"], config.examples, config.context
                ),
            }
            for row in rows
        )
    write_table(config.format, rows, out)


def _write_report(
    ctx: JobContext,
    config: ExportFeaturesConfig,
    sae: SaeRow,
    found: FeatureSetRow,
    features: list[int],
    out: Path,
) -> None:
    store = store_of(ctx.studio, found, with_text=config.examples > 0)
    told = feature_records.with_progress(ctx.db, sae, features, ctx.report, ctx.control)
    feature_report.write_report(
        out,
        f"Features of {sae.name}",
        facts_of(ctx.studio, sae, found, len(features)),
        store,
        told,
        examples=config.examples,
        context=config.context,
    )


def facts_of(studio: Studio, sae: SaeRow, found: FeatureSetRow, shown: int) -> dict[str, str]:
    """What the features are of, as lines for a head."""
    place = sae_library.place_of(sae) if sae_library.is_placed(sae) else "unknown place"
    return {
        "Model": f"{sae.model_name or 'unknown'}, {place}",
        "SAE": f"{sae.architecture}, {sae.n_latents:,} latents, "
        f"weights {(sae.weights_hash or 'unknown')[:12]}",
        "Text": f"{text_of(studio, found) or 'unknown'}, {found.n_tokens or 0:,} tokens read, "
        f"feature set {(found.store_hash or '')[:12]}",
        "Written": f"{now()[:16].replace('T', ' ')} UTC by miStudio, {shown:,} features",
    }


def text_of(studio: Studio, found: FeatureSetRow) -> str:
    """Name of the dataset that a set was read from, "" if it is gone."""
    tokens = TOKENIZATIONS.find(studio.db(), found.tokenization_id or "")
    dataset = DATASETS.find(studio.db(), tokens.dataset_id) if tokens else None
    return dataset.name if dataset else ""
