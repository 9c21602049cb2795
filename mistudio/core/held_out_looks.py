"""A look at held-out text during a training: as a metric row, as figures, as a sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mistudio.core.sae_figures import DENSITY_EDGES
from mistudio.core.units import EM_DASH, format_decimal, format_percent

BOUNDED = ("ev", "l0")  # what comes with a 95 % interval
_ALONE = (
    "ev",
    "l0",
    "dead",
    "n",
    "documents",
    "dead_bound",
    "density_below_1e-6",
    "density_below_1e-5",
    "density_above_1e-2",
    "density_above_1e-1",
)
_COUNTS = "heldout_density_histogram"
_DIGITS = {"ev": 4, "l0": 1}


def row_of(figures: Mapping[str, Any]) -> dict[str, float | int | str | None]:
    """The columns of a metric row that hold what `measure_held` found."""
    row: dict[str, float | int | str | None] = {_column(name): figures[name] for name in _ALONE}
    for name in BOUNDED:
        low, high = figures["intervals"][name] or (None, None)
        row |= {f"heldout_{name}_low": low, f"heldout_{name}_high": high}
    return {**row, _COUNTS: json.dumps(figures["density_histogram"])}


def figures_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a metric row tells, as an evaluation names it; rows of earlier versions tell less."""
    told = {name: row[_column(name)] for name in _ALONE if row.get(_column(name)) is not None}
    found = {name: bounds_of(row, name) for name in BOUNDED}
    told["intervals"] = {name: list(bounds) for name, bounds in found.items() if bounds}
    counts = json.loads(row.get(_COUNTS) or "[]")
    if len(counts) == len(DENSITY_EDGES) - 1:
        told |= {"density_histogram": counts, "density_histogram_edges": list(DENSITY_EDGES)}
    return told


def bounds_of(row: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """The 95 % interval of a figure in a row; None if none is kept, as of a single document."""
    low, high = row.get(f"heldout_{name}_low"), row.get(f"heldout_{name}_high")
    return None if low is None or high is None else (low, high)


def with_bounds(name: str, value: float | None, bounds: Sequence[float] | None) -> str:
    """Such as "0.8840 [0.8810, 0.8870]"; without bounds the value alone."""
    digits = _DIGITS[name]
    return format_decimal(value, digits) + bracket(bounds, digits)


def bracket(bounds: Sequence[float] | None, digits: int) -> str:
    """Such as " [0.8810, 0.8870]", to stand behind a value; nothing without bounds."""
    if bounds is None:
        return ""
    return f" [{', '.join(f'{bound:.{digits}f}' for bound in bounds)}]"


def rests_on(tokens: int | None, documents: int | None) -> str:
    """Such as "32,768 tokens of 412 documents"; rows of earlier versions do not tell the latter."""
    if tokens is None:
        return EM_DASH
    of = "" if documents is None else f" of {documents:,} document{'s' if documents > 1 else ''}"
    return f"{tokens:,} tokens{of}"


def sentence(step: int, figures: Mapping[str, Any]) -> str:
    """A look in one line of a log."""
    ev, l0 = (with_bounds(name, figures[name], figures["intervals"][name]) for name in BOUNDED)
    return (
        f"Step {step:,}: held-out EV {ev}, L0 {l0}, {format_percent(figures['dead'], 2)} of the "
        f"latents never fired, {format_percent(figures['density_above_1e-1'], 2)} fire on more "
        f"than a tenth; n {rests_on(figures['n'], figures['documents'])}."
    )


def told_of(figures: Mapping[str, Any]) -> str:
    """A look in a sentence for a tooltip; nothing without one."""
    if "n" not in figures:
        return ""
    bounds = figures["intervals"]
    ev, l0 = (with_bounds(name, figures.get(name), bounds.get(name)) for name in BOUNDED)
    return (
        f"On {rests_on(figures['n'], figures.get('documents'))} held out: explained variance "
        f"{ev}, L0 {l0}{' (95 % intervals)' if bounds else ''}, "
        f"{format_percent(figures.get('dead'))} of the latents silent."
    )


def _column(name: str) -> str:
    """SQL's names have no hyphen."""
    return f"heldout_{name.replace('-', '_')}"
