"""Measure an SAE on held-out documents and keep the figures with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from mistudio.core.atomic import write_json
from mistudio.core.config import from_dict
from mistudio.core.configs import EvaluateConfig
from mistudio.core.errors import Mismatch
from mistudio.core.sae_figures import NO_MODEL
from mistudio.core.sae_readings import refuse_cross_layer
from mistudio.core.training_configs import TrainConfig
from mistudio.jobs import lookup, sae_library
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio
from mistudio.jobs.skipped_positions import with_skipped
from mistudio.jobs.tokenize import for_training
from mistudio.store.records import ModelRow, SaeRow, TokenizationRow
from mistudio.store.tables import SAES

if TYPE_CHECKING:
    from mistudio.jobs.training_source import TrainingSource
    from mistudio.ml.data.row_table import RowTable
    from mistudio.ml.loading import LoadedModel
    from mistudio.ml.sae.base import SparseAutoencoder

# Reconstruction is measured on all tokens; the language model's loss takes three whole forward
# passes with logits, so fewer tokens must do (their number is told as ce_n).
LOSS_TOKENS = 32_768
LITTLE = 0.3  # explained variance below which an imported SAE is doubted


def prepare(studio: Studio, config: EvaluateConfig) -> None:
    """Refuse an unknown SAE, or one whose model or vectors are missing, before it is queued."""
    row = lookup.sae(studio, config.sae)
    refuse_cross_layer(row.config, "there is no output that its reconstruction could be held to")
    if not lookup.reads_vectors(row):
        lookup.model_of(studio, row)
    elif not config.dataset:
        lookup.training_vectors(studio, row)
    elif row.model_id is None:
        raise Mismatch(
            f"SAE {row.name!r} was trained on vectors that have no language model, so that it "
            "reads no text. Leave the dataset out to measure it on vectors that were held out."
        )


def run(ctx: JobContext, config: EvaluateConfig) -> Result:
    """Evaluate on the held-out part of a tokenisation; the figures go into the SAE's row.

    An SAE of vectors without text is measured on those of them that its training held out.
    """
    row = lookup.sae(ctx.studio, config.sae)
    if lookup.reads_vectors(row) and not config.dataset:
        return _on_vectors(ctx, row, config.tokens)
    model = lookup.model_of(ctx.studio, row)
    tokens = text_for(ctx, row, model, config.dataset)
    figures = measure(ctx, row, model, tokens, config)
    keep(ctx.studio, row, figures)
    doubt = doubt_of(figures) if row.origin == "imported" else ""
    if doubt:
        ctx.report.note(doubt, level="warning")
    return {"sae": row.id, "tokenization": tokens.id, "doubt": doubt, **figures}


def _on_vectors(ctx: JobContext, row: SaeRow, most: int) -> Result:
    from mistudio.jobs.training_source import vector_source

    stored = lookup.training_vectors(ctx.studio, row)
    settings = dataclasses.replace(from_dict(TrainConfig, row.config or {}), eval_tokens=most)
    figures = measure_trained(ctx, row, vector_source(stored, settings), settings)
    keep(ctx.studio, row, figures)
    return {"sae": row.id, "activations": stored.id, "doubt": "", **figures}


def doubt_of(figures: Mapping[str, Any]) -> str:
    """Why an imported SAE may be read wrongly, as a sentence; "" if its figures give no reason."""
    explained, n = float(figures["ev"]), int(figures["n"])
    if explained >= LITTLE:
        return ""
    worse = "less than the mean activation does" if explained < 0 else "little"
    return (
        f"This SAE explains {worse}: explained variance {explained:.3f} at L0 {figures['l0']:.1f} "
        f"on {n:,} tokens. Its layer or hook may be another one, or the scale of its input, the "
        "model or the format is not what it was trained for."
    )


def text_for(
    ctx: JobContext, row: SaeRow, model: ModelRow, dataset: str, share: float | None = None
) -> TokenizationRow:
    """The tokenisation to read: the named one, else the SAE's own training text.

    It holds out what the SAE's training did, or `share` per cent; that of an SAE from elsewhere is
    taken as it is.
    """
    wanted = dataset or lookup.training_tokenization(ctx.studio, row)
    return for_training(ctx, wanted, model, 0, held_out_of(row) if share is None else share)


def held_out_of(row: SaeRow) -> float | None:
    """Per cent of the documents that an SAE was not trained on and is measured on; None for one
    that was not trained here."""
    if row.origin != "trained":
        return None
    return from_dict(TrainConfig, row.config or {}).held_out_share


def measure(
    ctx: JobContext,
    row: SaeRow,
    model: ModelRow,
    tokens: TokenizationRow,
    config: EvaluateConfig,
) -> dict[str, Any]:
    """Every metric of an SAE on held-out tokens, as many as the settings say."""
    from mistudio.ml.data.tokenize import TokenStore
    from mistudio.ml.evaluation.evaluate import evaluate

    if not sae_library.is_placed(row):
        raise Mismatch(f"SAE {row.name!r} does not say which layer and hook it reads.")
    ctx.report.progress(0.0, "loading the model")
    loaded = ctx.studio.models.get(model, ctx.paths.absolute(model.path))
    sae = sae_library.read_sae(ctx.studio, row).to(loaded.device)
    store = with_skipped(TokenStore(ctx.paths.absolute(tokens.path or "")), sae)
    training = from_dict(TrainConfig, row.config or {})
    norms = reference_norms(ctx, row, sae, loaded, store)
    return evaluate(
        sae,
        loaded,
        store,
        row.layer or 0,
        row.hook_in or "",
        hook_out=row.hook_out,
        norm_limit=training.norm_cut * norms.read,
        norm_limit_out=training.norm_cut * norms.written,
        mask_special=training.mask_special,
        max_tokens=config.tokens,
        max_loss_tokens=config.loss_tokens,
        report=ctx.report,
        control=ctx.control,
    )


def measure_trained(
    ctx: JobContext, row: SaeRow, source: TrainingSource, config: TrainConfig
) -> dict[str, Any]:
    """Every metric of an SAE that has just been trained, on what was held out of its own data.

    Without a language model those that need one are left out.
    """
    from mistudio.ml.evaluation.evaluate import evaluate
    from mistudio.ml.evaluation.vectors import evaluate_vectors

    sae = sae_library.read_sae(ctx.studio, row).to(source.device)
    norm = sae_library.training_norm(sae)
    limit = None if norm is None else config.norm_cut * norm
    written = sae_library.training_norm(sae, "median_norm_out")
    loaded = source.loaded
    if loaded is None:
        from mistudio.jobs.training_source import calibration_reader
        from mistudio.ml.activations.multi_capture import HookPoint

        ctx.report.note(NO_MODEL)
        return evaluate_vectors(
            sae,
            calibration_reader(source, [HookPoint(config.layer, config.hook)], ctx),
            source.table,
            norm_limit=limit,
            max_tokens=config.eval_tokens,
            report=ctx.report,
            control=ctx.control,
        )
    return evaluate(
        sae,
        loaded,
        source.table,
        config.layer,
        config.hook_read,
        hook_out=config.hook_written,
        norm_limit=limit,
        norm_limit_out=limit if written is None else config.norm_cut * written,
        mask_special=config.mask_special,
        max_tokens=config.eval_tokens,
        max_loss_tokens=LOSS_TOKENS,
        report=ctx.report,
        control=ctx.control,
    )


class Norms(NamedTuple):
    """Median norms of what an SAE reads and of what it is to give; an SAE's are the same."""

    read: float
    written: float


def reference_norms(
    ctx: JobContext,
    row: SaeRow,
    sae: SparseAutoencoder,
    loaded: LoadedModel,
    store: RowTable,
) -> Norms:
    """The median norms that the norm cut refers to: the training's, else measured on the text."""
    from mistudio.ml.activations.capture import Capture
    from mistudio.ml.activations.statistics import StatisticsSettings, reference_statistics

    def norm_of(hook: str | None, known: float | None) -> float:
        if known is not None:
            return known
        capture = Capture(loaded, row.layer or 0, hook or "resid_post")
        settings = StatisticsSettings(min_tokens=4096)
        return reference_statistics(capture, store, settings, None, ctx.control).median_norm

    read = norm_of(row.hook_in, sae_library.training_norm(sae))
    if row.hook_out in (None, row.hook_in):
        return Norms(read, read)
    return Norms(read, norm_of(row.hook_out, sae_library.training_norm(sae, "median_norm_out")))


def keep(studio: Studio, row: SaeRow, figures: dict[str, Any]) -> None:
    """Store figures with an SAE: in its row and beside its files."""
    write_json(studio.paths.absolute(row.path) / "evaluation.json", figures)
    SAES.update(studio.db(), row.id, evaluation=figures)
