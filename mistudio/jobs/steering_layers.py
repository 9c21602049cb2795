"""The further layers that an addition acts at: whether the model has them, and their norms."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from mistudio.core.atomic import write_json
from mistudio.core.errors import InvalidInput
from mistudio.core.steering_spec import Spec
from mistudio.jobs import lookup
from mistudio.jobs.context import JobContext
from mistudio.jobs.runner import Studio
from mistudio.jobs.steering_cards import median_norm_at
from mistudio.store.records import SaeRow

if TYPE_CHECKING:
    from mistudio.ml.loading import LoadedModel
    from mistudio.ml.steering.sources import Place

HOOK = "resid_post"


def further_layers(spec: Spec) -> list[int]:
    """Every layer that an edit acts at beside its own, once."""
    return sorted({layer for edit in spec.edits for layer in edit.layers})


def check(studio: Studio, row: SaeRow, spec: Spec) -> None:
    """Refuse a layer that the model of an SAE does not have; raises `InvalidInput`."""
    model = lookup.model_of(studio, row)
    count = model.num_layers
    wrong = [layer for layer in further_layers(spec) if count is not None and layer >= count]
    if wrong and count is not None:
        raise InvalidInput(
            f"There is no layer {wrong[0]}; {model.name} has layers 0 to {count - 1}."
        )


def norms(
    ctx: JobContext,
    row: SaeRow,
    loaded: LoadedModel,
    spec: Spec,
    texts: Callable[[], Iterable[str]],
    file: str,
) -> dict[Place, float]:
    """The median norm at each further layer, by which attention sinks are told there.

    That of an SAE of the layer if there is one, else measured once on `texts` and kept in `file`
    beside the SAE of the run.
    """
    from mistudio.ml.steering.reference_norm import TOKENS, measure_median_norm
    from mistudio.ml.steering.sources import Place

    found: dict[Place, float] = {}
    path = ctx.paths.absolute(row.path) / file
    kept: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        kept = json.loads(path.read_text(encoding="utf-8"))
    for layer in further_layers(spec):
        place = Place(layer, HOOK)
        name = f"median_norm at {place.words}"
        known = median_norm_at(ctx.studio, row.model_id, layer, HOOK) or kept.get(name)
        if not known:
            ctx.report.progress(0.0, f"measuring the norm of the stream at layer {layer}")
            known = measure_median_norm(loaded, layer, HOOK, texts(), ctx.control)
            ctx.report.note(
                f"The median norm at layer {layer} {HOOK} is {known:.4g}, measured on "
                f"{TOKENS:,} tokens of the bundled text."
            )
            kept[name] = known
            write_json(path, kept)
        found[place] = float(known)
    return found
