"""Vectors from files of other programs, and files for them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mistudio.core.errors import InvalidInput, Mismatch
from mistudio.core.ids import now
from mistudio.core.steering_spec import parse_edits
from mistudio.core.vector_configs import ExportVectorsConfig, ImportVectorsConfig
from mistudio.jobs import lookup, sae_geometry, sae_library, vector_library
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio
from mistudio.store.hook_width import hook_width
from mistudio.store.records import ModelRow, SteeringVectorRow
from mistudio.store.tables import MODELS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mistudio.ml.steering.import_files import Found


def prepare_import(studio: Studio, config: ImportVectorsConfig) -> None:
    """Refuse a file or model that is not there."""
    lookup.model(studio, config.model)
    path = Path(config.path).expanduser()
    if not path.is_file():
        raise InvalidInput(f"There is no file {path}.")


def run_import(ctx: JobContext, config: ImportVectorsConfig) -> Result:
    """Add every vector of a file, one row per layer."""
    from mistudio.ml.steering.import_files import read_file

    model = lookup.model(ctx.studio, config.model)
    path = Path(config.path).expanduser()
    found = [_placed(path, one, config, model) for one in _with_layer(read_file(path), config)]
    rows = vector_library.add(ctx.studio, model, found, "import")
    return {
        "vectors": [row.id for row in rows],
        "name": rows[0].name,
        "layers": [row.layer for row in rows],
        "width": rows[0].width,
    }


def _with_layer(found: Sequence[Found], config: ImportVectorsConfig) -> list[Found]:
    if config.layer < 0:
        return list(found)
    if len(found) > 1:
        raise InvalidInput(
            f"The file holds {len(found):,} vectors, each for its own layer; leave the layer out."
        )
    return [found[0]._replace(layer=config.layer)]


def _placed(
    path: Path, found: Found, config: ImportVectorsConfig, model: ModelRow
) -> vector_library.NewVector:
    from mistudio.core.configs import SAE_HOOKS

    hook = config.hook or found.hook or "resid_post"
    if hook not in SAE_HOOKS:
        raise InvalidInput(
            f"{path.name} names the hook {hook!r}; choose one of {', '.join(SAE_HOOKS)}."
        )
    width = hook_width(model, hook)
    if width not in (None, found.v_D.size):
        what = "heads" if hook == "attn_z" else "stream"
        raise Mismatch(
            f"{found.name} in {path.name} has {found.v_D.size:,} numbers, but the {what} of "
            f"{model.name} {'are' if hook == 'attn_z' else 'is'} {width:,} wide. Choose the model "
            "it was made for."
        )
    if found.layer is None:
        raise InvalidInput(
            f"{path.name} does not say which layer {found.name} belongs to; name the layer."
        )
    if model.num_layers is not None and not 0 <= found.layer < model.num_layers:
        raise Mismatch(
            f"{found.name} in {path.name} is for layer {found.layer}; {model.name} has layers 0 "
            f"to {model.num_layers - 1}."
        )
    report = {"file": path.name, "tensor": found.name, "model_hint": found.model_hint}
    name = config.name or path.name.split(".")[0] or "vector"
    return vector_library.NewVector(found.v_D, name[:500], found.layer, hook, report)


def prepare_export(studio: Studio, config: ExportVectorsConfig) -> None:
    """Refuse unknown vectors, and what the format cannot hold."""
    from mistudio.core.vector_configs import VECTOR_FORMATS

    assert config.format in VECTOR_FORMATS
    _chosen(studio, config)
    if config.sae:
        lookup.sae(studio, config.sae)


def run_export(ctx: JobContext, config: ExportVectorsConfig) -> Result:
    """Write the sum of the chosen vectors and features at each layer."""
    from mistudio.ml.steering import control_vector

    parts: list[tuple[int, str, NDArray[np.floating]]] = []
    models: set[str] = set()
    for row, strength in _chosen(ctx.studio, config):
        models.add(row.model_id or row.model_name)
        parts.append((row.layer, row.hook, vector_library.read(ctx.studio, row) * strength))
    if config.feature:
        control_vector.refuse_non_additive(e.operator for e in parse_edits(config.feature).edits)
        sae = lookup.sae(ctx.studio, config.sae)
        models.add(sae.model_id or sae.model_name or "")
        parts += feature_pairs(ctx.studio, config)
    if len(models) > 1:
        raise Mismatch("The chosen vectors and features belong to different models.")
    model = MODELS.find(ctx.db, next(iter(models)))
    out = _place(ctx.studio, config)
    if config.format == "gguf":
        pairs = [(control_vector.block_of(layer, hook), v_D) for layer, hook, v_D in parts]
        hint = (model.architecture_config or {}).get("model_type") if model else None
        written = control_vector.write_control_vector(out, pairs, str(hint or "unknown"))
        names = [f"direction.{layer}" for layer in written]
    else:
        names = write_safetensors(out, parts, model)
    return {
        "path": str(out),
        "format": config.format,
        "directions": names,
        "bytes": out.stat().st_size,
    }


def feature_pairs(
    studio: Studio, config: ExportVectorsConfig
) -> list[tuple[int, str, NDArray[np.floating]]]:
    """Layer, hook and strength times the decoder row of each feature, in units of the stream."""
    import numpy as np

    from mistudio.ml.features.decoder_rows import open_rows

    sae = lookup.sae(studio, config.sae)
    if not sae_library.is_placed(sae) or sae.layer is None:
        raise Mismatch(f"SAE {sae.name!r} does not say which layer and hook it reads.")
    rows_FO = open_rows(sae_geometry.weights_of(studio, sae))
    found: list[tuple[int, str, NDArray[np.floating]]] = []
    for edit in parse_edits(config.feature).edits:
        if edit.feature >= sae.n_latents:
            raise InvalidInput(
                f"Feature {edit.feature:,} does not exist; the SAE has {sae.n_latents:,} latents."
            )
        row_O = np.asarray(rows_FO[edit.feature], np.float64) * edit.value
        found.append((sae.layer, sae.hook_out or sae.hook_in or "", row_O))
    return found


def _chosen(studio: Studio, config: ExportVectorsConfig) -> list[tuple[SteeringVectorRow, float]]:
    found: list[tuple[SteeringVectorRow, float]] = []
    for written in config.vectors:
        name, sign, strength = written.rpartition("=")
        try:
            value = float(strength) if sign else 1.0
        except ValueError:
            name, value = written, 1.0  # a name with an equals sign of its own
        if not math.isfinite(value):
            raise InvalidInput(f"The strength in {written!r} is no finite number.")
        found += [(row, value) for row in vector_library.find(studio, name if sign else written)]
    return found


def write_safetensors(
    out: Path, parts: Sequence[tuple[int, str, NDArray[np.floating]]], model: ModelRow | None
) -> list[str]:
    """Write (layer, hook, vector) with those of one place summed; the names of the tensors."""
    from mistudio.ml.steering.control_vector import merged
    from mistudio.ml.steering.vector_file import write_tensors

    tensors: dict[str, NDArray[np.floating]] = {}
    for hook in sorted({hook for _, hook, _ in parts}):
        summed = merged((layer, v_D) for layer, at, v_D in parts if at == hook)
        stem = "direction" if hook == "resid_post" else hook
        tensors |= {f"{stem}.{layer}": v_D for layer, v_D in summed.items()}
    hooks = {hook for _, hook, _ in parts}
    told = {
        "model": model.repo_id or model.name if model else None,
        "hook": next(iter(hooks)) if len(hooks) == 1 else None,
        "created": now(),
    }
    write_tensors(out, tensors, told)
    return list(tensors)


def _place(studio: Studio, config: ExportVectorsConfig) -> Path:
    """The file to make: as named, else a fresh name in the data folder's exports."""
    ending = f".{config.format}"
    if config.out.strip():
        out = Path(config.out.strip()).expanduser().absolute()
        return out if out.suffix.lower() == ending else out.with_name(out.name + ending)
    first = _chosen(studio, config)
    stem = first[0][0].name if first else f"{lookup.sae(studio, config.sae).name}_blend"
    stem = re.sub(r"[^\w.-]+", "_", stem).strip("_.")[:100] or "vector"
    out, number = studio.paths.exports / f"{stem}{ending}", 2
    while out.exists():
        out = studio.paths.exports / f"{stem}_{number}{ending}"
        number += 1
    return out
