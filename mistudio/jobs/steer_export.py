"""Write what a run steers with for use outside: transformers code, control vectors, vectors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mistudio.core.config import from_dict
from mistudio.core.configs import SteerConfig
from mistudio.core.errors import InvalidInput, NotFound, Unsupported
from mistudio.core.steering_export_configs import ENDINGS, TEXT, ExportSteeringConfig
from mistudio.core.steering_settings import variants_of
from mistudio.core.steering_spec import Spec
from mistudio.jobs import exchange_vectors, steer
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio
from mistudio.store.records import ModelRow
from mistudio.store.tables import STEERING_RUNS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mistudio.ml.loading import LoadedModel
    from mistudio.ml.steering.sources import Library


class _Chosen(NamedTuple):
    """One way of steering, of a kept run or of settings."""

    config: SteerConfig
    subject: steer.Subject
    spec: Spec


def prepare(studio: Studio, config: ExportSteeringConfig) -> None:
    """Refuse a run that is not there, or one that could not be done again."""
    chosen = _chosen(studio, config)
    steer.prepare(studio, chosen.config)
    _refuse(config, chosen.spec)


def settings_of(studio: Studio, config: ExportSteeringConfig) -> SteerConfig:
    """The settings of the run that is exported; raises `NotFound`."""
    if config.settings:
        return from_dict(SteerConfig, json.loads(config.settings))
    if config.run != "last":
        return from_dict(SteerConfig, STEERING_RUNS.get(studio.db(), config.run).config)
    found = STEERING_RUNS.select(studio.db(), limit=1)
    if not found:
        raise NotFound("There is no steering run yet.")
    return from_dict(SteerConfig, found[0].config)


def _chosen(studio: Studio, config: ExportSteeringConfig) -> _Chosen:
    run = settings_of(studio, config)
    subject = steer.subject_of(studio, run)
    variants = variants_of(run)
    names = list(variants)
    name = config.variant or (names[0] if len(names) == 1 else "")
    if name not in variants:
        raise InvalidInput(
            f"This run has {len(names):,} variants; name one of {', '.join(names)}."
            if len(names) > 1
            else f"There is no variant {name!r} in this run."
        )
    spec = variants[name].on_sae(subject.sae.id if subject.sae else "").check()
    return _Chosen(run, subject, spec)


def run(ctx: JobContext, config: ExportSteeringConfig) -> Result:
    """Write the script or the vectors; `notes` say in sentences what the file cannot hold."""
    chosen = _chosen(ctx.studio, config)
    _refuse(config, chosen.spec)
    model = chosen.subject.model
    ctx.report.progress(0.0, "loading the model")
    loaded = ctx.studio.models.get(model, ctx.paths.absolute(model.path))
    library = steer.library_of(ctx, model, loaded, chosen.subject.spec)
    ctx.report.progress(0.8, "writing")
    if config.format == "python":
        found = _python(ctx, config, chosen, loaded, library)
    else:
        found = _vectors(ctx, config, chosen, loaded, library)
    ctx.report.progress(1.0, "Ready")
    return {"format": config.format, **found}


def _python(
    ctx: JobContext,
    config: ExportSteeringConfig,
    chosen: _Chosen,
    loaded: LoadedModel,
    library: Library,
) -> Result:
    from mistudio.ml.steering.compare import request_of
    from mistudio.ml.steering.snippet import make_snippet, write_snippet
    from mistudio.ml.steering.snippet_spec import Origin, snippet_spec

    model = chosen.subject.model
    revision = model.commit_sha or model.revision or ""
    origin = Origin(model.repo_id, revision) if _is_of_hub(model) and model.repo_id else Origin()
    spec = snippet_spec(loaded, chosen.spec, library, request_of(chosen.config), origin)
    if config.out == TEXT:
        return {"script": make_snippet(spec).script, "files": []}
    files = write_snippet(_place(ctx.studio, config, chosen), spec)
    return {"path": str(files[0]), "files": [str(file) for file in files]}


def _is_of_hub(model: ModelRow) -> bool:
    """Whether the model's own repository holds the files that were loaded."""
    return model.origin == "hub"


def _refuse(config: ExportSteeringConfig, spec: Spec) -> None:
    """Raise `Unsupported`, naming the part, for what added vectors cannot do."""
    from mistudio.ml.steering.control_vector import refuse_non_additive

    if config.format == "python":
        return
    refuse_non_additive(edit.operator for edit in spec.edits)
    parts = {
        "a condition (if)": any(edit.condition for edit in spec.edits),
        f"the norm rule {spec.norm!r}": bool(spec.norm),
        "reconstruction (replace)": bool(spec.replace),
        "an end by a feature (abort)": spec.abort is not None,
        f"the positions {spec.positions.written()!r}": spec.positions.rule != "all",
    }
    if named := [name for name, is_used in parts.items() if is_used]:
        raise Unsupported(
            f"A vector that is added to every token cannot hold {' and '.join(named)}. Leave that "
            "out, or write Python."
        )


def _vectors(
    ctx: JobContext,
    config: ExportSteeringConfig,
    chosen: _Chosen,
    loaded: LoadedModel,
    library: Library,
) -> Result:
    """The sum of all that is added at each place, in units of the stream."""
    from mistudio.ml.steering import control_vector
    from mistudio.ml.steering.operators import prepare as prepared

    model = chosen.subject.model
    ready = prepared({"steered": chosen.spec}, library, loaded.hidden_dim, loaded.device)
    parts: list[tuple[int, str, NDArray[np.floating]]] = []
    for site in ready.sites:
        for channel in site.channels:
            v_D = channel.direction_D.double().cpu().numpy() * float(channel.value_N[0])
            parts.append((site.place.layer, site.place.hook, v_D))
    out = _place(ctx.studio, config, chosen)
    if config.format == "gguf":
        pairs = [(control_vector.block_of(layer, hook), v_D) for layer, hook, v_D in parts]
        hint = loaded.facts.model_type or "unknown"
        written = control_vector.write_control_vector(out, pairs, hint)
        names = [f"direction.{layer}" for layer in written]
    else:
        names = exchange_vectors.write_safetensors(out, parts, model)
    notes: list[str] = []
    if not (chosen.spec.positions.special and chosen.spec.positions.sinks):
        notes.append(
            "What is added there acts on every token; here special tokens and attention sinks are "
            "left alone."
        )
    return {"path": str(out), "files": [str(out)], "directions": names, "notes": notes}


def _place(studio: Studio, config: ExportSteeringConfig, chosen: _Chosen) -> Path:
    """The file to make: as named, else a fresh name in the data folder's exports."""
    ending = f".{ENDINGS[config.format]}"
    if config.out.strip():
        out = Path(config.out.strip()).expanduser().absolute()
        return out if out.suffix.lower() == ending else out.with_name(out.name + ending)
    stem = file_stem(chosen.config.prompt)
    out, number = studio.paths.exports / f"{stem}{ending}", 2
    while out.exists() or out.with_suffix(".safetensors").exists():
        out = studio.paths.exports / f"{stem}_{number}{ending}"
        number += 1
    return out


def file_stem(prompt: str) -> str:
    """A name for the file, of the prompt's first words."""
    words = re.sub(r"[^\w-]+", "_", prompt[:40]).strip("_")
    return "_".join(part for part in ("steering", words) if part)


def lines(found: dict[str, Any]) -> list[str]:
    """What was written, for a terminal."""
    if "script" in found:
        return str(found["script"]).rstrip("\n").split("\n")
    return [f"Written: {file}" for file in found["files"]] + list(found.get("notes", ()))
