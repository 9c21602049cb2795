"""What the controls of a steering run say, in words that every face shares."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from mistudio.core.units import EM_DASH

MEASURES = {
    "probability": "Probability of the words",
    "share": "Share of the words in the text",
    "reread": "Features re-read in the text",
    "kl": "KL (nats per token)",
}
ABOUT = {
    "probability": "Mean probability that the next token is one of the words, on the unsteered "
    "continuation that every variant reads.",
    "share": "Share of the tokens of the greedy text that are one of the words.",
    "reread": "Mean activation of the steered features over the greedy text, as the unsteered "
    "model reads it.",
    "kl": "How far the same length of change moves the predictions, on the same text.",
}
LEAST = 19
SELECTIVE = 0.05


def number(value: float | None) -> str:
    """A figure in three digits, an em-dash where nothing was measured."""
    return EM_DASH if value is None else f"{value:.3g}".replace("-", "−")


def verdict(measure: Mapping[str, Any]) -> str:
    """What may be said of one measure."""
    if measure.get("p") is None:
        return EM_DASH
    if measure["selective"]:
        return "selective"
    if measure["controls"] < LEAST:
        return "too few controls"
    return "not selective" if measure["moves"] else "not moved as meant"


def random_words(values: list[float]) -> str:
    """The controls' values in short: median and ends."""
    if not values:
        return EM_DASH
    return f"{number(median(values))} ({number(min(values))} to {number(max(values))})"


def measured(found: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Names and values of what was measured, in order."""
    known: Mapping[str, Any] = found.get("measures") or {}
    return [(name, m) for name in MEASURES if (m := known.get(name)) and m["p"] is not None]


def control_rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row of texts for each measure: name, unsteered, steered, random, p, verdict, baselines."""
    return [
        (
            MEASURES[name],
            number(m["baseline"]),
            number(m["steered"]),
            random_words(m["random"]),
            number(m["p"]),
            verdict(m),
            number(m["means"]),
            number(m["prompted"]),
        )
        for name, m in measured(found)
    ]


def is_selective(found: Mapping[str, Any]) -> bool:
    """Whether any measure of what the words or the features say is beyond the controls."""
    return any(m["selective"] for name, m in measured(found) if name != "kl")


def headline(found: Mapping[str, Any]) -> str:
    """The chief result in a sentence."""
    count = found.get("controls") or 0
    own = [(MEASURES[name].lower(), m) for name, m in measured(found) if m["selective"]]
    if not own:
        if count < LEAST:
            return f"Nothing can be called selective: {count} controls are fewer than {LEAST}."
        return f"Not selective: {count} random features do as much as often as chance allows."
    listed = ", ".join(f"{name} (p {number(m['p'])})" for name, m in own)
    return f"Selective beside {count} random features: {listed}."


def controls_summary(found: Mapping[str, Any]) -> list[str]:
    """Everything beside the table, one sentence each."""
    told = [headline(found)]
    words = ", ".join(repr(word) for word in found.get("words") or ())
    if words:
        origin = "given" if found.get("words_from") == "given" else "of the label"
        told.append(f"Words {origin}: {words}.")
    ends, ratio = found.get("random_ratio"), found.get("ratio")
    if ends and ratio is not None:
        told.append(
            "Every control makes the same change along another direction, at the same tokens: "
            f"‖Δ‖/‖x‖ {number(ratio)}, of the random features {number(ends[0])} to "
            f"{number(ends[1])}."
        )
    if any(m["lowers"] for _, m in measured(found)):
        told.append("The steering is meant to lower these: smaller counts as more.")
    return [*told, *(found.get("problems") or ())]
