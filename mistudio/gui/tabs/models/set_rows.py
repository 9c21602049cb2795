"""The activation sets of the library with what a table tells of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mistudio.core.units import EM_DASH
from mistudio.jobs import activation_pages
from mistudio.jobs.runner import Studio
from mistudio.store.records import ActivationSetRow, JobRow
from mistudio.store.tables import JOBS, MODELS


class SetList(NamedTuple):
    """The sets, newest first, with the names of the models and the jobs."""

    sets: Sequence[ActivationSetRow]
    models: dict[str, str]
    jobs: dict[str, JobRow]  # the newest extraction of each set


def read_sets(studio: Studio) -> SetList:
    """Every set, the names of the models, and the newest job of each set."""
    db = studio.db()
    names = {row_.id: row_.name for row_ in MODELS.select(db)}
    jobs = JOBS.select(db, "kind = 'extract_activations' AND target_id IS NOT NULL")
    newest: dict[str, JobRow] = {}
    for job in jobs:
        newest.setdefault(job.target_id or "", job)
    return SetList(activation_pages.sets(studio), names, newest)


def is_imported(row: ActivationSetRow) -> bool:
    """Whether the vectors came from a file: no model of the library has run for them."""
    return "path" in row.config


def origin_of(row: ActivationSetRow, models: Mapping[str, str]) -> tuple[str, str, str]:
    """Model, layers and hooks of a set in words; an em-dash for what an import did not say."""
    imported = is_imported(row)
    model = models.get(row.model_id or "", "imported" if imported else EM_DASH)
    layers, hooks = layer_words(row.layers), (row.hooks or EM_DASH).replace(",", ", ")
    if imported and int(row.config.get("layer", -1)) < 0:
        layers = EM_DASH
    if imported and not row.config.get("hook"):
        hooks = EM_DASH
    return model, layers, hooks


def layer_words(layers: str | None) -> str:
    """ "0,1,2,5" as "0–2, 5"; none as an em-dash."""
    if not layers:
        return EM_DASH
    runs: list[list[int]] = []
    for layer in map(int, layers.split(",")):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
