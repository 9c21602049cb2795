"""Label features: by rules, which needs no model and takes seconds, or by a language model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mistudio.core.errors import NotFound, StudioError
from mistudio.core.label_configs import LabelConfig
from mistudio.core.units import format_percent
from mistudio.jobs import feature_pages, label_by_model, lookup, sae_geometry, sae_library
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio
from mistudio.store import labels
from mistudio.store.records import FeatureSetRow, SaeRow
from mistudio.store.tables import MODELS

if TYPE_CHECKING:
    from mistudio.ml.features.feature_store import FeatureStore
    from mistudio.ml.features.labels.promotes import Promoted
    from mistudio.ml.features.labels.strings import Strings
    from mistudio.ml.sae.base import SparseAutoencoder


def prepare(studio: Studio, config: LabelConfig) -> None:
    """Refuse an SAE without features, or a model that is not there, before anything is queued."""
    row = lookup.sae(studio, config.sae)
    feature_pages.feature_set(studio, row)
    for number in config.feature:
        if int(number) >= row.n_latents:
            raise NotFound(
                f"Feature {int(number):,} does not exist; the SAE has {row.n_latents:,} latents."
            )
    if config.method == "model" and not config.endpoint:
        label_by_model.model_of(studio, row, config)


def run(ctx: JobContext, config: LabelConfig) -> Result:
    """Label the features of an SAE's newest feature set."""
    row = lookup.sae(ctx.studio, config.sae)
    found = feature_pages.feature_set(ctx.studio, row)
    if config.method == "model":
        return label_by_model.run(ctx, row, found, config)
    return label_by_rules(ctx, row, found, config.seed, clusters=config.clusters)


def label_by_rules(
    ctx: JobContext, row: SaeRow, found: FeatureSetRow, seed: int, *, clusters: bool = True
) -> Result:
    """Rule labels of all live features, written in place of earlier ones."""
    from mistudio.ml.features.labels.directions import NEIGHBOURS
    from mistudio.ml.features.labels.make import label_features
    from mistudio.ml.features.labels.strings import strings_of

    store = feature_pages.open_store(ctx.studio, found)
    vocabulary = [store.vocabulary.text(index) for index in range(len(store.vocabulary))]
    sae = sae_library.read_sae(ctx.studio, row)
    ctx.report.progress(0.0, "comparing directions")

    def told(start: float, end: float, phase: str, done: float) -> None:
        ctx.control.check()
        ctx.report.progress(start + (end - start) * done, phase)

    geometry = sae_geometry.ensure_geometry(
        ctx.studio, row, sae, check=lambda done: told(0.0, 0.1, "comparing directions", done)
    )
    strings = strings_of(vocabulary)
    promoted = _promoted(ctx, row, store, sae, strings, seed)
    made = label_features(
        store.folder,
        store.row_length,
        store.kept_tokens,
        vocabulary,
        strings=strings,
        seed=seed,
        neighbours_FM=geometry["nearest"][:, :NEIGHBOURS],
        promoted=promoted,
        clusters=clusters,
        check=lambda done: told(0.25, 0.9, "fitting and scoring rules", done),
    )
    ctx.report.progress(0.9, "writing labels")
    labels.replace_auto(ctx.db, row.id, [label._asdict() for label in made])
    shown = labels.interpretability(ctx.db, found)
    ctx.report.note(
        f"{shown.labelled:,} of {shown.live:,} live features have a label; "
        f"{format_percent(shown.share)} of them score above {labels.INTERPRETABLE} on rows that "
        "the labels were not made from."
    )
    return {
        "sae": row.id,
        "feature_set": found.id,
        "live": shown.live,
        "labelled": shown.labelled,
        "scored": shown.scored,
        "above": shown.above,
        "share": shown.share,
        "edges": shown.edges,
        "counts": shown.counts,
        "methods": shown.methods,
    }


def _promoted(
    ctx: JobContext,
    row: SaeRow,
    store: FeatureStore,
    sae: SparseAutoencoder,
    strings: Strings,
    seed: int,
) -> Promoted | None:
    """The classes that directions promote; None, with a note, where the model is not there."""
    import numpy as np

    from mistudio.ml.features.arrays import open_array
    from mistudio.ml.features.labels.directions import promoted_classes
    from mistudio.ml.features.stream_rows import StreamRows

    def check(done: float) -> None:
        ctx.control.check()
        ctx.report.progress(0.1 + 0.15 * done, "classes that are promoted")

    try:
        model = MODELS.get(ctx.db, row.model_id or "")
        loaded = ctx.studio.models.get(model, ctx.paths.absolute(model.path))
        used = np.unique(open_array(store.folder / "ids.npy"))
        rows_FD = StreamRows(loaded, sae, sae_library.written_at(row)).all()
        return promoted_classes(loaded, rows_FD, strings, used, seed=seed, check=check)
    except StudioError as error:
        ctx.report.note(
            f"No labels by promoted classes of tokens: {error.sentence}", level="warning"
        )
        return None
