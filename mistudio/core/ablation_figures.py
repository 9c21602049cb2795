"""How the figures of an ablation read, in the window and on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mistudio.core.units import EM_DASH, format_count, format_percent


class Figure(NamedTuple):
    """A figure of an effect: its key, name, decimals, definition, and whether it is signed."""

    key: str
    name: str
    digits: int
    meaning: str
    signed: bool = False


FIGURES = (
    Figure(
        "delta_ce",
        "ΔCE",
        4,
        "Mean cross-entropy of the true next token without the feature minus with it, in nats per "
        "token. Above 0 the model predicts worse without the feature.",
        True,
    ),
    Figure(
        "kl",
        "KL",
        4,
        "Mean KL(with‖without) of the next-token distributions, in nats per token; 0 if nothing "
        "changes.",
    ),
    Figure(
        "perplexity",
        "Perplexity with",
        2,
        "exp of the mean cross-entropy, model untouched, over the tokens that the change can "
        "reach: in each window those from the first changed one on.",
    ),
    Figure(
        "perplexity_ablated",
        "Perplexity without",
        2,
        "exp of the mean cross-entropy, feature out, over the same tokens.",
    ),
    Figure(
        "delta_logit",
        "Δ logit",
        4,
        "Mean change of the true next token's logit when the feature is taken out.",
        True,
    ),
    Figure(
        "delta_rank",
        "Δ rank",
        2,
        "Mean change of the true next token's rank (0 is the likeliest); above 0 it falls behind.",
        True,
    ),
)
BY_KEY = {figure.key: figure for figure in FIGURES}

MODES = {
    "zero": "its activation is set to 0",
    "mean": "its activation is set to its mean",
    "resample": "its activation is replaced by its own at the same position of another row",
}


def number(figure: Figure, value: float | None) -> str:
    """A figure as it reads; the unknown is an em-dash."""
    if value is None:
        return EM_DASH
    if value and abs(value) < 0.5 * 10**-figure.digits:
        return f"{value:{'+' if figure.signed else ''}.1e}"
    return f"{value:{'+' if figure.signed else ''}.{figure.digits}f}"


def counts(effect: Mapping[str, Any]) -> str:
    """On how many windows and tokens an effect was measured, and how many of them it can reach."""
    windows = "window" if effect["windows"] == 1 else "windows"
    return (
        f"{effect['windows']} {windows} · n = {format_count(effect['n'])} tokens, "
        f"{format_count(effect['reached'])} within reach"
    )


def interval(figure: Figure, effect: Mapping[str, Any]) -> str:
    """The 95 % interval of a figure, "" if there is none."""
    found = effect["intervals"].get(figure.key)
    return f"{number(figure, found[0])} to {number(figure, found[1])}" if found else ""


def how(page: Mapping[str, Any]) -> str:
    """One sentence on what was done."""
    words = MODES[page["mode"]]
    if page["mode"] == "mean" and page["effect"]["mean"] is not None:
        over = "all tokens that count" if page["mean_of"] == "all" else "its active tokens"
        words += f" over {over} ({page['effect']['mean']:.4g})"
    return (
        f"In windows of {page['window_tokens']} tokens {words}; what the SAE does not explain "
        "stays. Activations are encoded anew in each window."
    )


def standing_sentence(controls: Mapping[str, Any]) -> str:
    """Where the effect stands among those of controls, and what that means."""
    place = controls["delta_ce"]
    n = place["controls"]
    if not n:
        return "No other feature is within a factor of 2 of it in density and strength."
    share = f"ΔCE is above that of {place['percentile']:.0f} % of {n} random features of like "
    share += f"density and strength (p = {place['p']:.3f})"
    if n < 19:
        return f"{share}; fewer than 19 are alike, too few for a verdict."
    verdict = "selective" if place["selective"] else "not selective: such an effect is common"
    return f"{share}: {verdict}."


def lines(page: Mapping[str, Any]) -> list[str]:
    """The page of one feature for a terminal."""
    effect, out = page["effect"], [how(page)]
    for name, key in (("top", "top"), ("random", "random")):
        part = effect[key]
        out.append(f"On {name} windows: {counts(part)}")
        for figure in FIGURES:
            shown, around = number(figure, part[figure.key]), interval(figure, part)
            out.append(f"  {figure.name:<20} {shown:>12}  {around and f'95 % {around}'}".rstrip())
    if page["controls"]:
        out.append(standing_sentence(page["controls"]))
    for title, found in (("lost", page["lost"]), ("gained", page["gained"])):
        shown = "  ".join(f"{t['text']!r} {t['change']:+.4f}" for t in found)
        out.append(f"Probability {title} on average: {shown}")
    return out


def batch_lines(found: Mapping[str, Any]) -> list[str]:
    """The summary of a measurement of every live feature."""
    chance = found.get("share_by_chance") or 0.05
    strongest = ", ".join(f"{f['feature']} ({f['delta_ce']:+.4f})" for f in found["strongest"])
    return [
        f"{found['features']:,} features measured ({found['mode']}).",
        f"{found['selective']:,} of {found['judged']:,} with at least 19 like ones are "
        f"selective; among equals {format_percent(chance)} would be.",
        f"Largest ΔCE: {strongest}",
    ]
