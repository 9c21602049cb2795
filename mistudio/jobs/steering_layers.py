"""The further layers that an addition acts at: whether the model has them, and their norms."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mistudio.core.atomic import write_json
from mistudio.core.errors import InvalidInput
from mistudio.core.steering_spec import Spec
from mistudio.jobs import lookup, vector_library
from mistudio.jobs.context import JobContext
from mistudio.jobs.steering_cards import median_norm_at
from mistudio.store.records import ModelRow
from mistudio.store.tables import STEERING_VECTORS

if TYPE_CHECKING:
    from mistudio.ml.loading import LoadedModel
    from mistudio.ml.steering.sources import Place

HOOK = "resid_post"


def further_layers(spec: Spec) -> list[int]:
    """Every layer that an edit acts at beside its own, once."""
    return sorted({layer for edit in spec.edits for layer in edit.layers})


def check(model: ModelRow, spec: Spec) -> None:
    """Refuse a layer that the model does not have; raises `InvalidInput`."""
    count = model.num_layers
    wrong = [layer for layer in further_layers(spec) if count is not None and layer >= count]
    if wrong and count is not None:
        raise InvalidInput(
            f"There is no layer {wrong[0]}; {model.name} has layers 0 to {count - 1}."
        )


def kept_norms(file: Path) -> dict[str, float]:
    """What an SAE's file of norms holds; nothing if it is not there or cannot be read."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        kept = json.loads(file.read_text(encoding="utf-8"))
        return {str(name): float(value) for name, value in kept.items()}
    return {}


def norms(
    ctx: JobContext,
    model: ModelRow,
    loaded: LoadedModel,
    spec: Spec,
    texts: Callable[[], Iterable[str]],
    file: str,
) -> dict[Place, float]:
    """The median norm at each further layer, by which attention sinks are told there.

    That of an SAE of the layer if there is one, else measured once on `texts` and kept in `file`
    beside the first SAE that `spec` names; where it names none, with its first vector.
    """
    from mistudio.ml.steering.reference_norm import TOKENS, measure_median_norm
    from mistudio.ml.steering.sources import Place

    found: dict[Place, float] = {}
    for layer in further_layers(spec):
        place = Place(layer, HOOK)
        name = f"median_norm at {place.words}"
        known = median_norm_at(ctx.studio, model.id, layer, HOOK) or _kept(ctx, spec, file, name)
        if not known:
            ctx.report.progress(0.0, f"measuring the norm of the stream at layer {layer}")
            known = measure_median_norm(loaded, layer, HOOK, texts(), ctx.control)
            ctx.report.note(
                f"The median norm at layer {layer} {HOOK} is {known:.4g}, measured on "
                f"{TOKENS:,} tokens of the bundled text."
            )
            _keep(ctx, spec, file, name, known)
        found[place] = float(known)
    return found


def _sae_file(ctx: JobContext, spec: Spec, file: str) -> Path | None:
    named = next((feature.sae for feature in spec.features()), "")
    return ctx.paths.absolute(lookup.sae(ctx.studio, named).path) / file if named else None


def _kept(ctx: JobContext, spec: Spec, file: str, name: str) -> float | None:
    if (place := _sae_file(ctx, spec, file)) is not None:
        return kept_norms(place).get(name)
    report = vector_library.find_one(ctx.studio, spec.directions()[0].name).report or {}
    return report.get(name)


def _keep(ctx: JobContext, spec: Spec, file: str, name: str, value: float) -> None:
    if (place := _sae_file(ctx, spec, file)) is not None:
        write_json(place, {**kept_norms(place), name: value})
        return
    row = vector_library.find_one(ctx.studio, spec.directions()[0].name)
    STEERING_VECTORS.update(ctx.db, row.id, report={**(row.report or {}), name: value})
