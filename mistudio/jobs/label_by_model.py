"""Labels by a language model on this machine: each is kept, with its scores, once it is made."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mistudio.core.errors import StudioError
from mistudio.core.label_configs import LabelConfig
from mistudio.core.units import format_percent
from mistudio.jobs import encoders, feature_pages, label_plan, lookup
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio
from mistudio.store import labels
from mistudio.store.records import FeatureSetRow, ModelRow, SaeRow

if TYPE_CHECKING:
    from mistudio.ml.features.labels.by_model import Embed
    from mistudio.ml.features.labels.writer import Writer


def model_of(studio: Studio, row: SaeRow, config: LabelConfig) -> ModelRow:
    """The model of the library that writes; raises `NotFound` with what to do."""
    return lookup.model(studio, config.model) if config.model else lookup.model_of(studio, row)


def run(ctx: JobContext, row: SaeRow, found: FeatureSetRow, config: LabelConfig) -> Result:
    """Name and score features one by one. What is made is kept when the job ends early, and a
    resumed job goes on behind it."""
    from mistudio.ml.features.labels.by_model import Asked, name_feature

    asked = Asked(config.detection, config.fuzzing, config.embedding)
    # of a resumed job, those that it has named already
    wanted = label_plan.wanted(ctx.studio, row, config, since=ctx.job.created_at)
    store = feature_pages.open_store(ctx.studio, found)
    writer = _writer(ctx, row, config)
    embed = _embed(ctx, config) if config.embedding else None
    began, made, scores = time.monotonic(), 0, list[float]()
    for done, feature in enumerate(wanted):
        ctx.control.check()
        seconds = (time.monotonic() - began) / max(made, 1)
        ctx.report.progress(
            done / len(wanted),
            f"feature {feature:,}, {done + 1:,} of {len(wanted):,}",
            rate=f"{seconds:.1f} s a feature" if made else "",
            eta_s=seconds * (len(wanted) - done) if made else None,
        )
        named = name_feature(
            store, feature, writer, asked, embed, seed=config.seed, check=ctx.control.check
        )
        if named is None:
            continue
        labels.add(
            ctx.db,
            row.id,
            feature,
            named.text,
            source=labels.MODEL,
            method=label_plan.METHOD,
            model=writer.name,
            score=named.score,
            score_n=named.n,
            scores=named.scores,
            prompt=named.prompt,
        )
        made += 1
        scores += [] if named.score is None else [named.score]
        ctx.report.partial("label", {"feature": feature, "text": named.text, "score": named.score})
    seconds = time.monotonic() - began
    mean = sum(scores) / len(scores) if scores else None
    ctx.report.note(
        f"{writer.name} named {made:,} features; the mean score of {len(scores):,} is "
        f"{format_percent(mean)}."
    )
    return {
        "sae": row.id,
        "feature_set": found.id,
        "model": writer.name,
        "labelled": made,
        "scored": len(scores),
        "mean_score": mean,
        "seconds_per_feature": seconds / made if made else None,
        "encoder": embed is not None,
    }


def _writer(ctx: JobContext, row: SaeRow, config: LabelConfig) -> Writer:
    from mistudio.ml.features.labels.endpoint import EndpointWriter
    from mistudio.ml.features.labels.writer import LocalWriter

    if config.endpoint:
        return EndpointWriter(config.endpoint, config.endpoint_model)
    ctx.report.progress(0.0, "loading the model")
    model = model_of(ctx.studio, row, config)
    loaded = ctx.studio.models.get(model, ctx.paths.absolute(model.path))
    return LocalWriter(loaded, model.name)


def _embed(ctx: JobContext, config: LabelConfig) -> Embed | None:
    """The sentence encoder, or None with a note that there is none."""
    from mistudio.ml.embedding import Encoder

    try:
        folder = encoders.find(ctx.studio, config.encoder)
        encoder = Encoder(folder) if folder else None
    except StudioError as error:
        if config.encoder:
            raise
        ctx.report.note(f"No embedding score: {error.sentence}", level="warning")
        return None
    if encoder is None:
        ctx.report.note(
            f"No embedding score: there is no sentence encoder in {encoders.FOLDER} of the data "
            "folder or in the Hugging Face cache."
        )
        return None
    return encoder.embed
