"""The SAE library: adding, exporting and importing sparse autoencoders."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio.core.atomic import directory_bytes, sha256_file, write_json
from mistudio.core.configs import HOOKS, ExportSaeConfig, ImportSaeConfig
from mistudio.core.errors import InvalidInput, Mismatch
from mistudio.core.ids import new_id, now
from mistudio.jobs import lookup
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio
from mistudio.store.records import ModelRow, SaeRow
from mistudio.store.tables import MODELS, SAES

if TYPE_CHECKING:
    from mistudio.ml.sae.base import SparseAutoencoder

WEIGHTS = "sae_weights.safetensors"
# the last part of a module path below a block, as transformers' families name it
SUBLAYERS = {
    "": "resid_post",
    "mlp": "mlp_out",
    "self_attn": "attn_out",
    "attn": "attn_out",
    "attention": "attn_out",
}


def add_sae(
    studio: Studio,
    sae: SparseAutoencoder,
    metadata: Mapping[str, Any],
    *,
    name: str,
    origin: str,
    model: ModelRow | None,
    layer: int | None,
    hook: str | None,
    training_id: str | None = None,
    step: int | None = None,
    config: dict[str, Any] | None = None,
    source_format: str = "saelens",
) -> SaeRow:
    """Write an SAE's files and its row; without a row there are no files and the reverse."""
    from mistudio.ml.formats.saelens import write_saelens

    sae_id = new_id("sae")
    folder = studio.paths.sae(sae_id)
    try:
        write_saelens(folder, sae, metadata)
        weights_hash = sha256_file(folder / WEIGHTS)
        card = {
            "id": sae_id,
            "name": name,
            "origin": origin,
            "created_at": now(),
            "training": training_id,
            "step": step,
            "model": model.name if model else None,
            "layer": layer,
            "hook": hook,
            "weights_sha256": weights_hash,
            "settings": config,
        }
        write_json(folder / "card.json", card)
        return SAES.insert(
            studio.db(),
            id=sae_id,
            name=name,
            origin=origin,
            training_id=training_id,
            checkpoint_step=step,
            model_id=model.id if model else None,
            model_name=model.name if model else metadata.get("model_name"),
            model_format=model.format if model else None,
            layer=layer,
            hook_in=hook,
            hook_out=hook,
            encoder_type="sae",
            architecture=sae.architecture,
            d_in=sae.d_in,
            d_out=sae.d_out,
            n_latents=sae.n_latents,
            dtype="float32",
            normalisation="folded",
            source_format=source_format,
            weights_hash=weights_hash,
            config=config,
            path=studio.paths.relative(folder),
            size_bytes=directory_bytes(folder),
            status="ready",
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def read_sae(studio: Studio, row: SaeRow) -> SparseAutoencoder:
    """The tensors of a library entry, on the CPU; raises `Damaged` if its files are broken."""
    from mistudio.ml.formats.saelens import read_saelens

    return read_saelens(studio.paths.absolute(row.path))[0]


def training_norm(sae: SparseAutoencoder) -> float | None:
    """The median activation norm of the training, None for an SAE that does not carry it."""
    known = sae.metadata.get("median_norm")
    return float(known) if known else None


def run_export(ctx: JobContext, config: ExportSaeConfig) -> Result:
    """Write an SAE in the format of another program."""
    from mistudio.ml.formats.registry import writer

    row = lookup.sae(ctx.studio, config.sae)
    sae = read_sae(ctx.studio, row)
    out = Path(config.out).expanduser().resolve()
    told = {"model_name": row.model_name, "layer": row.layer, "hook": row.hook_in}
    added = {name: value for name, value in told.items() if name not in sae.metadata}
    writer(config.format)(out, sae, {} if config.format == "saelens" else added)
    return {
        "sae": row.id,
        "format": config.format,
        "out": str(out),
        "architecture": sae.architecture,
        "bytes": directory_bytes(out),
    }


def run_import(ctx: JobContext, config: ImportSaeConfig) -> Result:
    """Read an SAE of any known format into the library, tied to a model of ours if one fits."""
    from mistudio.ml.formats.registry import read_any

    source = Path(config.path).expanduser().resolve()
    found, sae, metadata = read_any(source)
    model = _model_for(ctx.studio, config, metadata)
    layer, hook = _hook_for(config, metadata)
    if model is not None:
        if model.hidden_dim != sae.d_in:
            raise Mismatch(
                f"This SAE expects width {sae.d_in:,}, the model has {model.hidden_dim or 0:,}."
            )
        if layer is not None and model.num_layers is not None and layer >= model.num_layers:
            raise Mismatch(f"This SAE reads block {layer}; the model has {model.num_layers}.")
    row = add_sae(
        ctx.studio,
        sae,
        metadata,
        name=config.name.strip() or source.name,
        origin="imported",
        model=model,
        layer=layer,
        hook=hook,
        source_format=found.name,
    )
    if layer is None or hook is None:
        ctx.report.note(
            "The file does not say which layer and hook this SAE reads; import it again naming "
            "both, or it can only be looked at.",
            level="warning",
        )
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
    }


def _model_for(
    studio: Studio, config: ImportSaeConfig, metadata: Mapping[str, Any]
) -> ModelRow | None:
    if config.model:
        return lookup.model(studio, config.model)
    wanted = str(metadata.get("model_name") or "")
    found = MODELS.select(studio.db(), "name = ? AND status = 'ready'", [wanted], limit=1)
    return found[0] if found else None


def _hook_for(
    config: ImportSaeConfig, metadata: Mapping[str, Any]
) -> tuple[int | None, str | None]:
    """Layer and hook: as given, as we wrote them, or read from the name of the hook."""
    layer, hook = metadata.get("layer"), metadata.get("hook")
    if layer is None or hook is None:
        layer, hook = read_hook_name(str(metadata.get("hook_name") or ""))
    if config.layer >= 0:
        layer = config.layer
    hook = config.hook or hook
    if hook is not None and hook not in HOOKS:
        raise InvalidInput(
            f"This SAE reads {hook!r}; supported are {', '.join(HOOKS)}. Name one with --hook."
        )
    return layer, hook


def read_hook_name(name: str) -> tuple[int | None, str | None]:
    """Block and hook that a TransformerLens name or a module path stands for; None if unclear.

    `blocks.3.hook_resid_pre`, the input of block 3, is the output of block 2. Raises
    `InvalidInput` for the input of the first block, which no hook of ours reads.
    """
    lens = re.fullmatch(r"blocks\.(\d+)\.((?:\w+\.)*)hook_(\w+)", name)
    if lens is not None:
        layer, hook = int(lens[1]), lens[2] + lens[3]
        if hook != "resid_pre":
            return layer, hook
        if layer == 0:
            raise InvalidInput("SAEs on the embedding (resid_pre of block 0) cannot be used.")
        return layer - 1, "resid_post"
    module = re.fullmatch(r"(?:\w+\.)+(\d+)(?:\.(\w+))?", name)
    if module is None:
        return None, None
    return int(module[1]), SUBLAYERS.get(module[2] or "")
