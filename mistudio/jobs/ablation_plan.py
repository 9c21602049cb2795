"""What measuring the ablation of every live feature takes, as far as it is known."""

from __future__ import annotations

import re
from typing import NamedTuple

from mistudio.core.analysis_configs import AblateConfig
from mistudio.core.units import format_count, format_duration
from mistudio.jobs import ablate, feature_analyses, feature_pages, lookup
from mistudio.jobs.runner import Studio
from mistudio.store import analyses, features
from mistudio.store.features import FeatureFilter
from mistudio.store.records import SaeRow
from mistudio.store.tables import JOBS

_RATE = re.compile(r"([0-9.]+) features/s")


class AblationPlan(NamedTuple):
    """`rate` is in features per second, measured by the last such job with windows as many and as
    long; None if there was none, and then `seconds` is None too."""

    live: int
    missing: int
    rate: float | None
    seconds: float | None
    sentence: str


def plan(studio: Studio, config: AblateConfig) -> AblationPlan:
    """What a job over every live feature would measure; raises `NotFound` without features."""
    row = lookup.sae(studio, config.sae)
    found = feature_pages.feature_set(studio, row)
    db = studio.db()
    live = features.feature_ids(db, found, FeatureFilter(show_hidden=True), sort="frequency")
    key = feature_analyses.key_hash(
        row, found, ablate.EFFECT, ablate.VERSION, ablate.effect_parameters(config)
    )
    known: set[int] = set() if config.anew else analyses.features_of(db, row.id, ablate.EFFECT, key)
    missing = sum(index not in known for index in live)
    rate = _measured_rate(studio, row, config)
    seconds = missing / rate if rate else None
    return AblationPlan(len(live), missing, rate, seconds, _sentence(len(live), missing, seconds))


def _sentence(live: int, missing: int, seconds: float | None) -> str:
    told = f"{format_count(live)} live features"
    if missing < live:
        told += f", {format_count(live - missing)} measured already with these settings"
    if not missing:
        return f"{told}: only their place among their controls is computed again."
    if seconds is None:
        return f"{told}. How long it takes is unknown until it runs."
    return f"{told}. About {format_duration(seconds)} at the rate of the last such job."


def _measured_rate(studio: Studio, row: SaeRow, config: AblateConfig) -> float | None:
    """That of the last job over every feature of this SAE; of one that ended early, as told."""
    jobs = JOBS.select(studio.db(), "kind = 'ablate'", limit=100)
    wanted = (config.windows, config.window_tokens)
    for job in jobs:
        told, result = {**AblateConfig().__dict__, **job.config}, job.result or {}
        of_this = row.id in (told["sae"], result.get("sae")) or told["sae"] == row.name
        if told["feature"] >= 0 or not of_this:
            continue
        if (told["windows"], told["window_tokens"]) != wanted:
            continue
        if result.get("measured"):
            return float(result["measured"] / result["measured_s"])
        read = _RATE.fullmatch(job.rate or "")
        if read and float(read[1]):
            return float(read[1])
    return None
