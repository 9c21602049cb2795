"""Which features of an SAE stay the same in another format of its model."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mistudio.core.atomic import write_json
from mistudio.core.comparison_configs import SurvivalConfig
from mistudio.core.config import from_dict
from mistudio.core.disk_room import require_room
from mistudio.core.errors import Mismatch, Unsupported
from mistudio.core.sae_readings import refuse_cross_layer
from mistudio.core.training_configs import TrainConfig
from mistudio.jobs import lookup, sae_library
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.evaluate import reference_norms, text_for
from mistudio.jobs.runner import Studio
from mistudio.jobs.skipped_positions import with_skipped
from mistudio.store.records import ModelRow, SaeRow

if TYPE_CHECKING:
    from mistudio.ml.activations.pair_capture import PairCapture
    from mistudio.ml.evaluation.measure import TextPart
    from mistudio.ml.evaluation.survival import StoredReference
    from mistudio.ml.loading import LoadedModel
    from mistudio.ml.sae.base import SparseAutoencoder

_LOADING, _READING = 0.1, 0.4  # shares of the progress of each model
_VALUE_BYTES = 4  # of an activation in the file, at most


def prepare(studio: Studio, config: SurvivalConfig) -> None:
    """Refuse an SAE without model or text, and another network, before anything is queued."""
    row = lookup.sae(studio, config.sae)
    refuse_cross_layer(row.config, "what it reconstructs in two formats cannot be compared")
    model = lookup.model_of(studio, row)
    if not sae_library.is_placed(row):
        raise Mismatch(f"SAE {row.name!r} does not say which layer and hook it reads.")
    _judged(studio, config, model)
    if not config.dataset:
        lookup.training_tokenization(studio, row)


def run(ctx: JobContext, config: SurvivalConfig) -> Result:
    """Measure, and keep the report with the SAE as `survival-FORMAT.json`.

    The result is that of `ml.evaluation.survival` with the SAE's id, both models and formats and
    the name of the file, which holds the values per feature too.
    """
    row = lookup.sae(ctx.studio, config.sae)
    model = lookup.model_of(ctx.studio, row)
    other = _judged(ctx.studio, config, model)
    tokens = text_for(ctx, row, model, config.dataset)
    sae = sae_library.read_sae(ctx.studio, row)
    with tempfile.TemporaryDirectory(dir=ctx.paths.tmp, prefix="survival.") as folder:
        path = Path(folder) / "activations.bin"
        store = ctx.paths.absolute(tokens.path or "")
        form = config.reference or row.model_format or model.format or "auto"
        reference, text, stored = _read(ctx, config, row, model, form, sae, store, path)
        figures, judged, per_feature = _compare(
            ctx, config, row, other, config.format or other.format or "auto", sae, text, stored
        )
    kept = judged if other.id == model.id else f"{judged}-{other.id}"
    values: Result = {
        "sae": row.id,
        "name": row.name,
        "tokenization": tokens.id,
        "model": model.id,
        "reference": reference,
        "other": other.id,
        "format": judged,
        "file": f"survival-{kept}.json",
        **figures,
    }
    write_json(
        ctx.paths.absolute(row.path) / values["file"], {**values, "per_feature": per_feature}
    )
    return values


def _judged(studio: Studio, config: SurvivalConfig, model: ModelRow) -> ModelRow:
    """The row of the model to judge; raises `Mismatch` if it is another network."""
    if not config.other:
        return model
    other = lookup.model(studio, config.other)
    networks = [
        (row.num_layers, row.hidden_dim, (row.layer_map or {}).get("tokenizer"))
        for row in (model, other)
    ]
    if networks[0] != networks[1]:
        raise Mismatch(
            f"Model {other.name!r} has other layers or another vocabulary than {model.name!r}; "
            "choose the same network in another format."
        )
    return other


def _load(ctx: JobContext, row: ModelRow, form: str, start: float, phase: str) -> LoadedModel:
    def step(done: float) -> None:
        ctx.control.check()
        ctx.report.progress(start + _LOADING * done, phase)

    loaded = ctx.studio.models.load(
        row.id,
        row.name,
        ctx.paths.absolute(row.path),
        form,
        allow_code=row.trust_remote_code,
        step=step,
    )
    if loaded.note:
        raise Unsupported(loaded.note, code="no_backend")
    return loaded


def _capture(loaded: LoadedModel, row: SaeRow) -> PairCapture:
    from mistudio.ml.activations.pair_capture import PairCapture

    hook = row.hook_in or ""
    return PairCapture(loaded, row.layer or 0, hook, row.hook_out or hook)


def _read(
    ctx: JobContext,
    config: SurvivalConfig,
    row: SaeRow,
    model: ModelRow,
    form: str,
    sae: SparseAutoencoder,
    store: Path,
    path: Path,
) -> tuple[str, TextPart, StoredReference]:
    """Format, tokens and stored activations of the reference, which is let go on return."""
    from mistudio.ml.data.tokenize import TokenStore
    from mistudio.ml.evaluation.measure import TextPart
    from mistudio.ml.evaluation.survival import store_reference

    loaded = _load(ctx, model, form, 0.0, "loading the reference")
    tokens = with_skipped(TokenStore(store), sae)
    widths = sae.d_in + (sae.d_out if row.hook_out not in (None, row.hook_in) else 0)
    most = min(config.tokens, len(tokens.rows("evaluation")) * tokens.context)
    require_room(path.parent, most * widths * _VALUE_BYTES)
    training = from_dict(TrainConfig, row.config or {})
    norms = reference_norms(ctx, row, sae, loaded, tokens)
    text = TextPart(
        tokens,
        norm_limit=training.norm_cut * norms.read,
        norm_limit_out=training.norm_cut * norms.written,
        mask_special=training.mask_special,
        max_tokens=config.tokens,
        max_loss_tokens=0,
    )
    part = ctx.part(_LOADING, _LOADING + _READING)
    stored = store_reference(sae, _capture(loaded, row), text, path, part.report, ctx.control)
    return loaded.format, text, stored


def _compare(
    ctx: JobContext,
    config: SurvivalConfig,
    row: SaeRow,
    other: ModelRow,
    form: str,
    sae: SparseAutoencoder,
    text: TextPart,
    stored: StoredReference,
) -> tuple[Result, str, dict[str, list[object]]]:
    """Figures, the judged format and the values per feature."""
    from mistudio.ml.evaluation.survival import survival

    start = _LOADING + _READING
    loaded = _load(ctx, other, form, start, "loading the other format")
    part = ctx.part(start + _LOADING, 1.0)
    figures, per_feature = survival(
        sae.to(loaded.device),
        _capture(loaded, row),
        stored,
        text,
        config.min_firings,
        part.report,
        ctx.control,
    )
    return figures, loaded.format, per_feature
