"""The median norm of the stream at each place that is steered: what sinks and % are told by.

A place is a layer and a hook. What an SAE, a feature set or a vector already knows is taken; else
the norm is measured once on the bundled text and kept beside the SAE or with the vector.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio.core.atomic import write_json
from mistudio.core.errors import InvalidInput
from mistudio.core.paths import resources
from mistudio.core.steering_spec import Spec
from mistudio.jobs import lookup, sae_library, vector_library
from mistudio.jobs.context import JobContext
from mistudio.jobs.steering_cards import STREAM_NORM, median_norm_at
from mistudio.store import features
from mistudio.store.records import ModelRow, SaeRow, SteeringVectorRow
from mistudio.store.tables import STEERING_VECTORS

if TYPE_CHECKING:
    from mistudio.ml.loading import LoadedModel
    from mistudio.ml.sae.base import SparseAutoencoder
    from mistudio.ml.steering.sources import Place

FURTHER_HOOK = "resid_post"  # where an edit acts at further layers
NORM_FILE = "median_norm.json"  # beside the files of an SAE that came without


def median_norm(
    ctx: JobContext, row: SaeRow, sae: SparseAutoencoder, loaded: LoadedModel
) -> float | None:
    """The median norm at the place an SAE writes to.

    That of its newest feature set, else of its training, else measured and kept beside its files.
    """
    found = features.newest_set(ctx.db, row.id)
    summary: Mapping[str, Any] = (found.summary if found else None) or {}
    name = "median_norm_out" if sae.is_transcoder else "median_norm"
    known = summary.get(name) or sae_library.training_norm(sae, name)
    if known:
        return float(known)
    file = ctx.paths.absolute(row.path) / NORM_FILE
    kept = _kept_in(file)
    if name in kept:
        return kept[name]
    hook = row.hook_out or row.hook_in or ""
    measured = _measured(ctx, loaded, row.layer or 0, hook)
    write_json(file, {**kept, name: measured})
    return measured


def stream_norm(ctx: JobContext, row: SteeringVectorRow, loaded: LoadedModel) -> float:
    """The median norm at the place of a vector: as an SAE or another vector there knows it.

    Else it is measured and kept with the vector.
    """
    known = median_norm_at(ctx.studio, row.model_id, row.layer, row.hook)
    if known:
        return known
    measured = _measured(ctx, loaded, row.layer, row.hook)
    report = {**(row.report or {}), STREAM_NORM: measured}
    STEERING_VECTORS.update(ctx.db, row.id, report=report)
    return measured


def further_layers(spec: Spec) -> list[int]:
    """Every layer that an edit acts at beside its own, once."""
    return sorted({layer for edit in spec.edits for layer in edit.layers})


def check_layers(model: ModelRow, spec: Spec) -> None:
    """Refuse a layer that the model does not have; raises `InvalidInput`."""
    count = model.num_layers
    wrong = [layer for layer in further_layers(spec) if count is not None and layer >= count]
    if wrong and count is not None:
        raise InvalidInput(
            f"There is no layer {wrong[0]}; {model.name} has layers 0 to {count - 1}."
        )


def layer_norms(
    ctx: JobContext, model: ModelRow, loaded: LoadedModel, spec: Spec
) -> dict[Place, float]:
    """The median norm at each further layer.

    That of an SAE of the layer if there is one, else measured and kept beside the first SAE that
    `spec` names; where it names none, with its first vector.
    """
    from mistudio.ml.steering.sources import Place

    found: dict[Place, float] = {}
    for layer in further_layers(spec):
        place = Place(layer, FURTHER_HOOK)
        name = f"median_norm at {place.words}"
        known = median_norm_at(ctx.studio, model.id, *place) or _kept(ctx, spec, name)
        if not known:
            known = _measured(ctx, loaded, *place)
            _keep(ctx, spec, name, known)
        found[place] = float(known)
    return found


def _measured(ctx: JobContext, loaded: LoadedModel, layer: int, hook: str) -> float:
    from mistudio.ml.steering.reference_norm import TOKENS, measure_median_norm

    ctx.report.progress(0.0, f"measuring the norm of the stream at layer {layer}")
    measured = measure_median_norm(loaded, layer, hook, _sample_texts(), ctx.control)
    ctx.report.note(
        f"The median norm at layer {layer} {hook} is {measured:.4g}, measured on "
        f"{TOKENS:,} tokens of the bundled text."
    )
    return measured


def _sample_texts() -> Iterator[str]:
    """The documents of the bundled sample, in order."""
    file = resources() / "sample" / "text" / "corpus.jsonl"
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            yield str(json.loads(line)["text"])


def _kept_in(file: Path) -> dict[str, float]:
    """What an SAE's file of norms holds; nothing if it is not there or cannot be read."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        kept = json.loads(file.read_text(encoding="utf-8"))
        return {str(name): float(value) for name, value in kept.items()}
    return {}


def _sae_file(ctx: JobContext, spec: Spec) -> Path | None:
    named = next((feature.sae for feature in spec.features()), "")
    if not named:
        return None
    return ctx.paths.absolute(lookup.sae(ctx.studio, named).path) / NORM_FILE


def _kept(ctx: JobContext, spec: Spec, name: str) -> float | None:
    if (file := _sae_file(ctx, spec)) is not None:
        return _kept_in(file).get(name)
    report = vector_library.find_one(ctx.studio, spec.directions()[0].name).report or {}
    return report.get(name)


def _keep(ctx: JobContext, spec: Spec, name: str, value: float) -> None:
    if (file := _sae_file(ctx, spec)) is not None:
        write_json(file, {**_kept_in(file), name: value})
        return
    row = vector_library.find_one(ctx.studio, spec.directions()[0].name)
    STEERING_VECTORS.update(ctx.db, row.id, report={**(row.report or {}), name: value})
