"""The SAE library: adding, reading and exporting sparse autoencoders."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio.core.atomic import directory_bytes, fsync_path, sha256_file, write_json
from mistudio.core.configs import (
    ExportSaeConfig,
)
from mistudio.core.errors import InvalidInput, Mismatch
from mistudio.core.ids import new_id, now
from mistudio.core.sae_readings import refuse_cross_layer
from mistudio.jobs import lookup, sae_metadata
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio
from mistudio.store.records import ModelRow, SaeRow
from mistudio.store.tables import MODELS, SAES, TRAININGS

if TYPE_CHECKING:
    from mistudio.ml.activations.multi_capture import HookPoint
    from mistudio.ml.sae.base import SparseAutoencoder

WEIGHTS = "sae_weights.safetensors"


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


def written_at(row: SaeRow) -> HookPoint:
    """Where a placed SAE writes."""
    from mistudio.ml.activations.multi_capture import HookPoint

    return HookPoint(row.layer or 0, row.hook_out or row.hook_in or "")


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
    if config.format == "circuit_tracer":
        _export_set(ctx.studio, [row.id, *config.others], out)
    else:
        added = sae_metadata.for_export(ctx.studio, row, sae.metadata)
        writer(config.format)(out, sae, added)
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
    for row in rows:
        refuse_cross_layer(row.config, "circuit-tracer's files cannot hold it; SAELens's can")
    first, layers = rows[0], [row.layer for row in rows]
    if any(layer is None for layer in layers):
        raise Mismatch("circuit-tracer needs to know the layer of each transcoder.")
    if len(set(layers)) < len(layers):
        raise InvalidInput("Name one transcoder for each layer; two are of the same one.")
    places = {(row.model_name, row.hook_in, row.hook_out) for row in rows}
    if len(places) > 1:
        raise Mismatch("Transcoders of one set must be of the same model and the same hooks.")
    model = MODELS.find(studio.db(), first.model_id or "")
    write_circuit_tracer(
        out,
        {row.layer or 0: read_sae(studio, row) for row in rows},
        first.hook_in or "",
        first.hook_out or "",
        sae_metadata.public_name(model) if model else first.model_name or "",
    )
