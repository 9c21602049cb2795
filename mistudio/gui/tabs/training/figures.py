"""The figures of an SAE's evaluation as rows of a table, in groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from mistudio.core.sae_figures import FIGURES, GROUPS, differences, is_number, measured
from mistudio.core.units import EM_DASH


class Rows(NamedTuple):
    """Texts and tooltips of rows; `headings` are the numbers of those that head a group."""

    texts: list[list[str]]
    tips: list[str]
    headings: list[int]


def figure_rows(evaluation: Mapping[str, Any]) -> Rows:
    """Name, value, 95 % interval and n of every figure that was measured."""
    lines = measured(evaluation)
    return _grouped([(x.figure, [x.figure.name, x.value, x.interval, x.n]) for x in lines], 4)


def comparison_rows(comparison: Mapping[str, Any]) -> Rows:
    """Name, value of A and B, difference and its interval of every figure of a comparison.

    A difference whose interval leaves 0 out is marked.
    """
    return _grouped(
        [
            (
                x.figure,
                [x.figure.name, x.first, x.second, x.difference, x.interval, "●" if x.sure else ""],
            )
            for x in differences(comparison)
        ],
        6,
    )


def short_figure(evaluation: Mapping[str, Any] | None, key: str) -> str:
    """One figure for a table cell; an em-dash until it was measured."""
    value = (evaluation or {}).get(key)
    found = next((f for f in FIGURES if f.key == key), None)
    return found.text(value) if found and value is not None and is_number(value) else EM_DASH


def _grouped(lines: Sequence[tuple[Any, list[str]]], columns: int) -> Rows:
    found = Rows([], [], [])
    for group, members in groupby(lines, key=lambda line: line[0].group):
        found.headings.append(len(found.texts))
        found.texts.append([group, *[""] * (columns - 1)])
        found.tips.append(GROUPS[group])
        for figure, texts in members:
            found.texts.append(texts)
            found.tips.append(f"{figure.meaning} ({figure.key})")
    return found
