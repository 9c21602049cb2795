"""Every activation of chosen features as a cache that delphi reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mistudio.core.atomic import atomic_directory
from mistudio.core.errors import Damaged, InvalidInput, from_os_error
from mistudio.core.feature_export_configs import ExportFeaturesConfig
from mistudio.jobs.context import JobContext
from mistudio.store.records import FeatureSetRow, SaeRow
from mistudio.store.tables import DATASETS, MODELS, TOKENIZATIONS


def write_cache(
    ctx: JobContext,
    config: ExportFeaturesConfig,
    sae: SaeRow,
    found: FeatureSetRow,
    features: Sequence[int],
    out: Path,
) -> dict[str, int]:
    """Write the folder of one hook below `out`, which appears only when it was read back whole."""
    from mistudio.ml.features.feature_store import FeatureStore
    from mistudio.ml.formats import delphi

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInput(f"{out} is there already. Name a folder that is not.")
    store = FeatureStore(ctx.paths.absolute(found.path or ""))
    module = config.set_name or delphi.module_of(sae.layer or 0, sae.hook_in or "")

    def check(done: float) -> None:
        ctx.control.check()
        ctx.report.progress(0.95 * done, "writing")

    try:
        with atomic_directory(out) as folder:
            place = folder / module
            place.mkdir()
            told = {**_told(ctx, config, sae, found), "store_hash": found.store_hash}
            written = delphi.write_cache(place, store, features, told, check)
            again = delphi.open_cache(place)
            if again.entries != written:
                raise Damaged(f"{out.name} came out with {again.entries:,} of {written:,} entries.")
    except OSError as error:
        raise from_os_error(error, f"write {out.name}") from error
    return {"features": len(features), "skipped": 0, "entries": written}


def _told(
    ctx: JobContext, config: ExportFeaturesConfig, sae: SaeRow, found: FeatureSetRow
) -> dict[str, Any]:
    """The settings of the cache, as far as there are such here."""
    tokens = TOKENIZATIONS.find(ctx.db, found.tokenization_id or "")
    dataset = DATASETS.find(ctx.db, tokens.dataset_id) if tokens else None
    model = MODELS.find(ctx.db, sae.model_id or "")
    repository = dataset.repo_id or dataset.name if dataset else "unknown"
    return {
        "dataset_repo": repository,
        "dataset_split": (dataset.split if dataset else None) or "train",
        "dataset_name": (dataset.config if dataset else None) or "",
        "dataset_column": (dataset.text_column if dataset else None) or "text",
        "batch_size": 1,
        "model_name": config.model_id or (model.repo_id if model else None) or sae.model_name or "",
    }
