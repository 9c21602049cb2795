"""What labelling takes: how many features, how much reading, and how long as far as it is known."""

from __future__ import annotations

from dataclasses import dataclass

from mistudio.core.label_configs import LabelConfig
from mistudio.core.units import format_count, format_duration, format_short
from mistudio.jobs import feature_pages, lookup
from mistudio.jobs.runner import Studio
from mistudio.store import features, labels
from mistudio.store.features import FeatureFilter
from mistudio.store.records import SaeRow
from mistudio.store.tables import JOBS, MODELS

METHOD = "examples"  # how a label that a model wrote came about
WINDOWS, WINDOW = 40, 32  # texts that a model reads to name a feature, tokens of each
TEXTS = 100  # texts of a score, half of them active
PROMPT = 110  # tokens of the question around one text, about


@dataclass(frozen=True)
class LabelPlan:
    """`seconds` is measured on the last labelling by the same model, None if there was none."""

    wanted: tuple[int, ...]
    tokens: int
    seconds: float | None
    sentence: str


def writer(studio: Studio, row: SaeRow, config: LabelConfig) -> str:
    """The name of the model that writes the labels, as it is kept with them."""
    if config.endpoint:
        return config.endpoint_model
    if config.model:
        return lookup.model(studio, config.model).name
    found = MODELS.find(studio.db(), row.model_id or "")
    return found.name if found else ""


def wanted(studio: Studio, row: SaeRow, config: LabelConfig, since: str = "") -> list[int]:
    """The live features to label by a model, most frequent first; those that it has named are left
    out, of a labelling anew those named at `since` or later (if given)."""
    found = feature_pages.feature_set(studio, row)
    shown = FeatureFilter(show_hidden=True)
    live = features.feature_ids(studio.db(), found, shown, sort="frequency")
    if config.feature:
        asked = {int(number) for number in config.feature}
        live = [index for index in live if index in asked]
    if config.anew and not since:
        return live
    name = writer(studio, row, config)
    known = labels.labelled_by(studio.db(), row.id, METHOD, name, since if config.anew else "")
    return [index for index in live if index not in known]


def plan(studio: Studio, config: LabelConfig) -> LabelPlan:
    """What a labelling would take; raises `NotFound` for an SAE without features."""
    row = lookup.sae(studio, config.sae)
    if config.method == "rules":
        told = "Takes seconds: no language model is asked. Labels by rules are replaced."
        return LabelPlan((), 0, None, told)
    asked = wanted(studio, row, config)
    each = WINDOWS * WINDOW + 3 * PROMPT
    each += (config.detection + config.fuzzing) * TEXTS * (WINDOW + PROMPT)
    seconds = _measured(studio, writer(studio, row, config), config)
    total = None if seconds is None else seconds * len(asked)
    noun = "feature" if len(asked) == 1 else "features"
    told = (
        f"{format_count(len(asked))} {noun}, about {format_short(each)} tokens to read for each. "
    )
    told += (
        "How long this model takes is known after the first ones."
        if total is None
        else f"About {format_duration(total)}, as measured when this model last labelled."
    )
    return LabelPlan(tuple(asked), each * len(asked), total, told)


def _measured(studio: Studio, name: str, config: LabelConfig) -> float | None:
    """Seconds per feature of the newest finished labelling with the same model and scores."""
    done = JOBS.select(studio.db(), "kind = 'label_features' AND status = 'completed'")
    for job in done:
        result = job.result or {}
        same = all(
            bool(job.config.get(part)) == getattr(config, part) for part in ("detection", "fuzzing")
        )
        if result.get("model") == name and same and result.get("seconds_per_feature"):
            return float(result["seconds_per_feature"])
    return None
