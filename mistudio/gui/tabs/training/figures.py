"""The figures of an SAE's evaluation as rows of text, each with its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from mistudio.core.units import EM_DASH, format_count


class Figure(NamedTuple):
    """A metric as shown: its key in the evaluation, name, number format and meaning."""

    key: str
    name: str
    digits: int
    percent: bool
    meaning: str


FIGURES = (
    Figure("ev", "Explained variance", 4, False, "1 is perfect; 1 - FVU over held-out tokens"),
    Figure("l0", "L0", 2, False, "Features active per token, on average"),
    Figure("ce_loss_score", "CE loss score", 4, False, "Share of the loss recovered: 1 is all"),
    Figure("dead", "Never fired", 2, True, "Share of latents silent on these tokens"),
    Figure("kl_div_score", "KL score", 4, False, "1 - KL with the SAE / KL with zeros"),
    Figure("fvu", "Unexplained variance (FVU)", 4, False, "Error over total variance"),
    Figure("cossim", "Cosine similarity", 4, False, "Of input and reconstruction"),
    Figure("l2_ratio", "Length ratio", 4, False, "Length of the reconstruction over the input's"),
    Figure("relative_reconstruction_bias", "Reconstruction bias", 4, False, "1 is unbiased"),
    Figure("mse", "Mean squared error", 5, False, "Per token, summed over the width"),
    Figure("ce_clean", "CE loss, model", 4, False, "Nats per token of the untouched model"),
    Figure(
        "ce_sae", "CE loss, with the SAE", 4, False, "Nats per token, reconstruction patched in"
    ),
    Figure("ce_zero", "CE loss, zeros", 4, False, "Nats per token, the hook set to zero"),
)


LOSS_KEYS = ("ce_loss_score", "kl_div_score", "ce_clean", "ce_sae", "ce_zero")


def figure_rows(evaluation: Mapping[str, Any]) -> list[list[str]]:
    """Name, value, 95 % interval and n of every figure that was measured."""
    intervals = evaluation.get("intervals") or {}
    return [
        [
            figure.name,
            _number(figure, evaluation[figure.key]),
            _interval(figure, intervals.get(figure.key)),
            format_count(evaluation.get("ce_n" if figure.key in LOSS_KEYS else "n")),
        ]
        for figure in _measured(evaluation)
    ]


def figure_tips(evaluation: Mapping[str, Any]) -> list[str]:
    """What each row of `figure_rows` means."""
    return [figure.meaning for figure in _measured(evaluation)]


def short_figure(evaluation: Mapping[str, Any] | None, key: str) -> str:
    """One figure for a table cell; an em-dash until it was measured."""
    found = (f for f in _measured(evaluation or {}) if f.key == key)
    shown = next(found, None)
    return EM_DASH if shown is None else _number(shown, (evaluation or {})[key])


def _measured(evaluation: Mapping[str, Any]) -> list[Figure]:
    return [f for f in FIGURES if _is_number(evaluation.get(f.key))]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _number(figure: Figure, value: float) -> str:
    if figure.percent:
        return f"{100 * value:.{figure.digits}f} %"
    return f"{value:,.{figure.digits}f}"


def _interval(figure: Figure, bounds: Any) -> str:
    if not bounds:
        return EM_DASH
    low, high = (_number(figure, float(bound)) for bound in bounds[:2])
    return f"{low} to {high}"
