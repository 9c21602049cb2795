"""A survival report as a person reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mistudio.core.sae_figures import FIGURES, Figure
from mistudio.core.units import EM_DASH

_SHARE = Figure("", "", "", 1, "", percent=True)
_NUMBER = Figure("", "", "", 4, "")


def survival_sentences(found: Mapping[str, Any]) -> list[str]:
    """What was compared, on how much text, and how many features are judged."""
    silent = found["undefined"]
    sentences = [
        f"{found['format'].upper()} against {found['reference'].upper()} on {found['n']:,} tokens "
        f"of {found['documents']:,} held-out documents.",
        f"Judged are the {found['features']:,} of {found['latents']:,} features that fire on at "
        f"least {found['min_firings']:,} of these tokens in {found['reference'].upper()}.",
    ]
    if silent:
        sentences.append(
            f"Of these {silent:,} never change in {found['format'].upper()}; their correlation "
            "counts as 0."
        )
    return sentences


def survival_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Rows of name, value and 95 % interval, the heading first."""
    rows = [["", "value", "95 % interval"]]
    for line in found["survive"]:
        name = f"Features whose correlation is at least {line['bound']:g}"
        rows.append([name, _SHARE.text(line["share"]), _SHARE.interval(line["interval"])])
    for key, name in (
        ("correlation_median", "Median correlation"),
        ("jaccard", "Jaccard of firings, pooled"),
        ("jaccard_median", "Jaccard of firings, median"),
    ):
        rows.append([name, _NUMBER.text(found[key]), EM_DASH])
    moved = found["distance"]
    rows.append(
        [
            "Relative distance of the activations",
            EM_DASH if moved is None else _NUMBER.text(moved),
            _NUMBER.interval(found["intervals"]["distance"]),
        ]
    )
    for figure in FIGURES:
        if figure.key not in ("ev", "l0"):
            continue
        line = found["metrics"][figure.key]
        for side, form in (("a", found["reference"]), ("b", found["format"])):
            value = EM_DASH if line[side] is None else figure.text(line[side])
            rows.append([f"{figure.name} in {form.upper()}", value, EM_DASH])
        if line["difference"] is not None:
            value = figure.text(line["difference"], signed=True)
            interval = figure.interval(line["interval"], signed=True)
            rows.append([f"{figure.name}, difference", value, interval])
    return rows
