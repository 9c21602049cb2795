"""SAEs from other programs' files, or from the Hub, into the library."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio.core.configs import EvaluateConfig, ImportSaeConfig, SaePlaceConfig
from mistudio.core.errors import InvalidInput
from mistudio.core.sae_readings import is_cross_layer, kept_of, read_as
from mistudio.jobs import skipped_positions
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.sae_library import add_sae, is_placed
from mistudio.jobs.sae_places import (
    check_fits,
    hooks_for,
    model_for,
    read_hook_name,
    reads_before_gain,
)
from mistudio.store.records import ModelRow, SaeRow
from mistudio.store.tables import TOKENIZATIONS

if TYPE_CHECKING:
    from mistudio.ml.sae.base import SparseAutoencoder

CHECKED_TOKENS = 2048  # that an imported SAE is measured on at once


def run_import(ctx: JobContext, config: ImportSaeConfig) -> Result:
    """Read an SAE of any known format into the library, tied to a model of ours if one fits."""
    # as named, not where it links to: a file of the Hugging Face cache is called by its checksum
    source = Path(os.path.abspath(Path(config.path).expanduser()))
    return add_from_files(ctx, config, source, config.name.strip() or source.name)


def add_from_files(
    ctx: JobContext, config: SaePlaceConfig, source: Path, name: str, *, repo: str | None = None
) -> Result:
    """Read the SAE of a folder or file and add it; `repo` is the repository it came from."""
    from mistudio.ml.formats.registry import read_any

    found, sae, metadata = read_any(source)
    model = model_for(ctx.studio, config, metadata)
    if sae.is_transcoder and not config.hook and reads_before_gain(metadata):
        sae, metadata = _behind_gain(ctx, sae, metadata, model)
    layer, hook, hook_out = hooks_for(config, metadata, is_transcoder=sae.is_transcoder)
    check_fits(sae, model, layer, hook)
    row = add_sae(
        ctx.studio,
        sae,
        metadata,
        name=name,
        origin="imported",
        repo_id=repo,
        model=model,
        layer=layer,
        hook=hook,
        hook_out=hook_out,
        source_format=found.name,
        config=kept_of(sae.metadata) or None,
    )
    for sentence in read_as(row.config):
        ctx.report.note(sentence, level="warning")
    if sae.is_transcoder and None in (layer, hook, hook_out):
        ctx.report.note(
            "The file does not say which layer and hook this transcoder reads and which it gives; "
            "import it again naming all three, or it can only be looked at.",
            level="warning",
        )
    elif layer is None or hook is None:
        ctx.report.note(
            "The file does not say which layer and hook this SAE reads; import it again naming "
            "both, or it can only be looked at.",
            level="warning",
        )
    told, level = skipped_positions.remark(metadata)
    if told:
        ctx.report.note(told, level=level)
    if model is None:
        ctx.report.note(
            "No model in the library fits this SAE; import the model, then import the SAE again "
            "naming it.",
            level="warning",
        )
    return {
        "sae": row.id,
        "name": row.name,
        "format": found.name,
        "architecture": row.architecture,
        "model": model.name if model else None,
        "layer": layer,
        "hook": hook,
        **({"hook_out": hook_out} if sae.is_transcoder else {}),
        **(_measured_next(ctx, row) if config.measure else {}),
    }


def _behind_gain(
    ctx: JobContext, sae: SparseAutoencoder, metadata: Mapping[str, Any], model: ModelRow | None
) -> tuple[SparseAutoencoder, dict[str, Any]]:
    """A transcoder that reads a norm before its gain as one that reads what the MLP does."""
    from mistudio.ml.formats.norm_gain import behind_gain, gain_before_mlp

    if model is None:
        raise InvalidInput(
            "This transcoder reads what the norm before the MLP gives before its gain "
            "(ln2.hook_normalized). Import its model first: the gain is then taken from there."
        )
    layer = read_hook_name(str(metadata["hook_name"]))[0] or 0
    gain = gain_before_mlp(ctx.paths.absolute(model.path), layer)
    told = {"hook_name": f"blocks.{layer}.mlp.hook_in", "source_hook_name": metadata["hook_name"]}
    ctx.report.note("The gain of the model's norm was moved into the encoder; it reads mlp_in.")
    return behind_gain(sae, gain).with_metadata(**told), {**metadata, **told}


def _measured_next(ctx: JobContext, row: SaeRow) -> Result:
    """Queue a short measurement, which tells whether what was read can be right; {} without."""
    if row.model_id is None or not is_placed(row) or is_cross_layer(row.config):
        return {}
    texts = TOKENIZATIONS.select(
        ctx.db, "model_id = ? AND status = 'ready'", [row.model_id], limit=1
    )
    if not texts:
        ctx.report.note(
            "It is not measured: no text is tokenised for its model yet. Tokenise one, then "
            "evaluate the SAE to see whether its hook and scale are right."
        )
        return {}
    check = EvaluateConfig(sae=row.id, dataset=texts[0].id, tokens=CHECKED_TOKENS)
    return {"next": ctx.studio.submit("evaluate", check)}
