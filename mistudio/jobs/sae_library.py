"""The SAE library: adding, exporting and importing sparse autoencoders."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mistudio.core.atomic import directory_bytes, fsync_path, sha256_file, write_json
from mistudio.core.configs import (
    HOOKS,
    TRANSCODER_INPUTS,
    EvaluateConfig,
    ExportSaeConfig,
    ImportSaeConfig,
    SaePlaceConfig,
)
from mistudio.core.errors import InvalidInput, Mismatch
from mistudio.core.ids import new_id, now
from mistudio.jobs import lookup
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio
from mistudio.store.records import ModelRow, SaeRow
from mistudio.store.tables import MODELS, SAES, TOKENIZATIONS, TRAININGS

if TYPE_CHECKING:
    from mistudio.ml.sae.base import SparseAutoencoder

WEIGHTS = "sae_weights.safetensors"
CHECKED_TOKENS = 2048  # that an imported SAE is measured on at once
# the last part of a module path below a block, as transformers' families name it
SUBLAYERS = {
    "": "resid_post",
    "output": "resid_post",
    "mlp": "mlp_out",
    "self_attn": "attn_out",
    "attn": "attn_out",
    "attention": "attn_out",
    "mlp.input": "mlp_in",
    "pre_feedforward_layernorm": "mlp_in",
    "post_feedforward_layernorm": "mlp_out",
}
# names in TransformerLens that stand for one of our hooks under another name, or for none of them
LENS_NAMES = {
    "mlp.in": "mlp_in",
    "mlp.out": "mlp_out",
    "mlp_in": "mlp_in (the stream before the norm)",
}
BEFORE_GAIN = "ln2.normalized"


class Hooks(NamedTuple):
    """Where an SAE reads and, a transcoder, what it gives; None is not known."""

    layer: int | None
    read: str | None
    written: str | None


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
    hook_out: str | None = None,
    training_id: str | None = None,
    step: int | None = None,
    config: dict[str, Any] | None = None,
    source_format: str = "saelens",
    is_result: bool = False,
    repo_id: str | None = None,
) -> SaeRow:
    """Write an SAE's files and its row; without a row there are no files and the reverse.

    A transcoder reads `hook` and gives `hook_out`. One that `is_result` is what its training was
    for: the training's row names it from the same moment on. The files take their place when all
    are there.
    """
    from mistudio.ml.formats.saelens import write_saelens

    sae_id = new_id("sae")
    folder, made = studio.paths.sae(sae_id), studio.paths.tmp / sae_id
    if is_result and training_id is not None:  # what a killed process leaves goes with the run
        made = studio.paths.run(training_id) / f".{sae_id}.tmp"
    try:
        write_saelens(made, sae, metadata, for_library=True)
        weights_hash = sha256_file(made / WEIGHTS)
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
            "hook_out": hook_out if sae.is_transcoder else hook,
            "weights_sha256": weights_hash,
            "settings": config,
        }
        write_json(made / "card.json", card)
        folder.parent.mkdir(parents=True, exist_ok=True)
        made.replace(folder)
        fsync_path(folder.parent)
        with studio.db().atomic():
            row = SAES.insert(
                studio.db(),
                id=sae_id,
                name=name,
                origin=origin,
                training_id=training_id,
                checkpoint_step=step,
                repo_id=repo_id,
                model_id=model.id if model else None,
                model_name=model.name if model else metadata.get("model_name"),
                model_format=model.format if model else None,
                layer=layer,
                hook_in=hook,
                hook_out=hook_out if sae.is_transcoder else hook,
                encoder_type=sae.encoder,
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
            if is_result and training_id is not None:
                TRAININGS.update(studio.db(), training_id, sae_id=sae_id)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        if SAES.find(studio.db(), sae_id) is None:  # its row may have been written already
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return row


def read_sae(studio: Studio, row: SaeRow) -> SparseAutoencoder:
    """The tensors of a library entry, on the CPU; raises `Damaged` if its files are broken."""
    from mistudio.ml.formats.saelens import read_saelens

    return read_saelens(studio.paths.absolute(row.path))[0]


def training_norm(sae: SparseAutoencoder, name: str = "median_norm") -> float | None:
    """The median activation norm of the training, None for an SAE that does not carry it.

    Of what a transcoder is to give it is called "median_norm_out".
    """
    known = sae.metadata.get(name)
    return float(known) if known else None


def is_placed(row: SaeRow) -> bool:
    """Whether it is known where an SAE reads and, a transcoder, what it gives."""
    if row.layer is None or row.hook_in is None:
        return False
    return row.encoder_type == "sae" or row.hook_out is not None


def place_of(row: SaeRow) -> str:
    """Layer and hook in words, such as "layer 3 mlp_in → mlp_out"."""
    written = f" → {row.hook_out}" if row.hook_out not in (None, row.hook_in) else ""
    return f"layer {row.layer} {row.hook_in}{written}"


def run_export(ctx: JobContext, config: ExportSaeConfig) -> Result:
    """Write an SAE in the format of another program."""
    from mistudio.ml.formats.registry import writer

    row = lookup.sae(ctx.studio, config.sae)
    sae = read_sae(ctx.studio, row)
    out = Path(config.out).expanduser().resolve()
    told = {"model_name": row.model_name, "layer": row.layer, "hook": row.hook_in}
    if sae.is_transcoder:
        told["hook_out"] = row.hook_out
    added = {name: value for name, value in told.items() if name not in sae.metadata}
    if config.format == "circuit_tracer":
        _export_set(ctx.studio, [row.id, *config.others], out)
    else:
        writer(config.format)(out, sae, {} if config.format == "saelens" else added)
    return {
        "sae": row.id,
        "format": config.format,
        "out": str(out),
        "architecture": sae.architecture,
        "bytes": directory_bytes(out),
    }


def _export_set(studio: Studio, names: list[str], out: Path) -> None:
    """Write transcoders of one model and of the same hooks as a set of circuit-tracer's."""
    from mistudio.ml.formats.circuit_tracer import write_circuit_tracer

    rows = [lookup.sae(studio, name) for name in names]
    first, layers = rows[0], [row.layer for row in rows]
    if any(layer is None for layer in layers):
        raise Mismatch("circuit-tracer needs to know the layer of each transcoder.")
    if len(set(layers)) < len(layers):
        raise InvalidInput("Name one transcoder for each layer; two are of the same one.")
    places = {(row.model_name, row.hook_in, row.hook_out) for row in rows}
    if len(places) > 1:
        raise Mismatch("Transcoders of one set must be of the same model and the same hooks.")
    write_circuit_tracer(
        out,
        {row.layer or 0: read_sae(studio, row) for row in rows},
        first.hook_in or "",
        first.hook_out or "",
        first.model_name or "",
    )


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
    check_fits(sae, model, layer)
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
    )
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


def check_fits(sae: SparseAutoencoder, model: ModelRow | None, layer: int | None) -> None:
    """Raise `Mismatch` for an SAE of another width than the model's, or of no block of it."""
    if model is None:
        return
    for width in {sae.d_in, sae.d_out}:
        if model.hidden_dim != width:
            raise Mismatch(
                f"This SAE expects width {width:,}, the model has {model.hidden_dim or 0:,}."
            )
    if layer is not None and model.num_layers is not None and layer >= model.num_layers:
        raise Mismatch(f"This SAE reads block {layer}; the model has {model.num_layers}.")


def _measured_next(ctx: JobContext, row: SaeRow) -> Result:
    """Queue a short measurement, which tells whether what was read can be right; {} without."""
    if row.model_id is None or not is_placed(row):
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


def reads_before_gain(metadata: Mapping[str, Any]) -> bool:
    """Whether it reads the norm before the MLP without its gain, which no hook of ours is."""
    if metadata.get("hook") is not None:
        return False
    return read_hook_name(str(metadata.get("hook_name") or ""))[1] == BEFORE_GAIN


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
    gain_D = gain_before_mlp(ctx.paths.absolute(model.path), layer)
    told = {"hook_name": f"blocks.{layer}.mlp.hook_in", "source_hook_name": metadata["hook_name"]}
    ctx.report.note("The gain of the model's norm was moved into the encoder; it reads mlp_in.")
    return behind_gain(sae, gain_D).with_metadata(**told), {**metadata, **told}


def model_for(
    studio: Studio, config: SaePlaceConfig, metadata: Mapping[str, Any]
) -> ModelRow | None:
    """The model that is named, or that of the library which the files name; None for none."""
    if config.model:
        return lookup.model(studio, config.model)
    wanted = str(metadata.get("model_name") or "")
    short = wanted.rsplit("/", 1)[-1]
    # of a model that was not downloaded nobody knows the owner
    for where, value in (
        ("name = ?", wanted),
        ("repo_id = ?", wanted),
        ("name = ? AND repo_id IS NULL", short),
    ):
        found = MODELS.select(studio.db(), f"{where} AND status = 'ready'", [value], limit=1)
        if found and wanted:
            return found[0]
    return None


def hooks_for(config: SaePlaceConfig, metadata: Mapping[str, Any], *, is_transcoder: bool) -> Hooks:
    """Layer and hooks: as given, as we wrote them, or read from the names of the hooks."""
    layer, hook = metadata.get("layer"), metadata.get("hook")
    if layer is None or hook is None:
        layer, hook = read_hook_name(str(metadata.get("hook_name") or ""))
    if config.layer >= 0:
        layer = config.layer
    hook = config.hook or hook
    known = TRANSCODER_INPUTS if is_transcoder else HOOKS
    if hook is not None and hook not in known:
        what = "transcoder" if is_transcoder else "SAE"
        raise InvalidInput(
            f"This {what} reads {hook!r}; supported are {', '.join(known)}. Name one with --hook."
        )
    if not is_transcoder:
        return Hooks(layer, hook, hook)
    layer_out, hook_out = layer, metadata.get("hook_out")
    if hook_out is None:
        layer_out, hook_out = read_hook_name(str(metadata.get("hook_name_out") or ""))
    hook_out = config.hook_out or hook_out
    if hook_out is not None and hook_out not in HOOKS:
        raise InvalidInput(
            f"This transcoder gives {hook_out!r}; supported are {', '.join(HOOKS)}. Name one with "
            "--hook-out."
        )
    if config.layer < 0 and None not in (layer, layer_out) and layer != layer_out:
        raise InvalidInput(
            f"This transcoder reads block {layer} and gives what block {layer_out} does; only "
            "transcoders inside one block can be used."
        )
    return Hooks(layer if layer is not None else layer_out, hook, hook_out)


def read_hook_name(name: str) -> tuple[int | None, str | None]:
    """Block and hook that a TransformerLens name or a module path stands for; None if unclear.

    `blocks.3.hook_resid_pre`, the input of block 3, is the output of block 2. Raises
    `InvalidInput` for the input of the first block, which no hook of ours reads.
    """
    lens = re.fullmatch(r"blocks\.(\d+)\.((?:\w+\.)*)hook_(\w+)", name)
    if lens is not None:
        layer, hook = int(lens[1]), lens[2] + lens[3]
        if hook != "resid_pre":
            return layer, LENS_NAMES.get(hook, hook)
        if layer == 0:
            raise InvalidInput("SAEs on the embedding (resid_pre of block 0) cannot be used.")
        return layer - 1, "resid_post"
    module = re.fullmatch(r"(?:\w+\.)+(\d+)(?:\.(\w+(?:\.input)?))?(?:\.output)?", name)
    if module is None:
        return None, None
    return int(module[1]), SUBLAYERS.get(module[2] or "")
