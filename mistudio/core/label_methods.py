"""How a label came about, in words: shown beside its score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mistudio.core.units import EM_DASH, format_percent

SOURCES = {
    "auto": "by rules",
    "model": "by a model",
    "user": "by you",
    "imported": "imported",
}
MARKS = {"auto": "≈", "model": "✦", "user": "✎", "imported": "↓"}
METHODS = {
    "token": "at most three tokens hold 80 % of its activation",
    "say": "at most three next tokens hold 80 % of its activation",
    "after": "at most three previous tokens hold 80 % of its activation",
    "class": "one class of tokens holds 80 % of its activation",
    "words": "the three most telling words; the score is naive Bayes over previous, this and next "
    "token and the position",
    "lens": "its direction promotes few tokens: skew of the logits above 3",
    "set": "its direction promotes a class of tokens: enrichment against random sets",
    "cluster": "words that at least three of its neighbours share, by direction or by firing "
    "with it",
    "examples": "a language model read 40 examples",
}
RULE_SCORE = (
    "AUROC on rows that the label was not made from: how often the rule gives more on a token "
    "where the feature is active (equally many of each tenth of its activations) than on one where "
    "it is not (half random; half with the same token, or where a neighbour is active). 50 % is "
    "chance."
)
MODEL_SCORE = (
    "AUROC of detection: how often the model finds that the label fits a text in which the feature "
    "is active more than one in which it is not. 50 % is chance."
)


def score_lines(
    method: str | None, scores: Mapping[str, Any], score: float | None, n: int | None
) -> list[str]:
    """What is behind a label's score, a line each, for a tooltip."""
    lines = [f"Method: {METHODS.get(method or '', method or EM_DASH)}"]
    return [*lines, *_input_lines(scores, score, n), *output_lines(scores)]


def _input_lines(scores: Mapping[str, Any], score: float | None, n: int | None) -> list[str]:
    lines: list[str] = []
    if score is None:
        positives = scores.get("positives")
        few = positives is not None and positives < 10
        lines.append(f"Not scored: {positives} held-out active tokens are too few" if few else "")
        return [line for line in lines if line]
    lines.append(f"Score {format_percent(score)} over n = {n or 0:,}")
    if "positives" in scores:
        lines.append(
            f"{scores['positives']:,} active and {scores['negatives']:,} inactive tokens; against "
            f"random ones {_percent(scores, 'auroc_random')}, against hard ones "
            f"{_percent(scores, 'auroc_hard')}"
        )
        precision = scores.get("precision")
        lines.append(
            f"Precision at its natural density {format_percent(precision)}"
            if precision is not None
            else "No random inactive token fits the rule: precision not measured"
        )
        lines.append(RULE_SCORE)
    else:
        for name in ("detection", "fuzzing", "embedding"):
            if (part := scores.get(name)) is not None:
                lines.append(f"{name.capitalize()}: {_part(part)}")
        lines.append(MODEL_SCORE)
    return lines


def output_cell(scores: Mapping[str, Any]) -> str:
    """Whether steering raises the label's tokens, in a word or two."""
    output = scores.get("output")
    if output is None:
        return EM_DASH
    if "p" not in output:
        return str(output.get("outcome", EM_DASH))
    times = output["after"] / output["before"] if output["before"] else None
    told = "rises" if output["after"] > output["before"] else "falls"
    told = f"{told} × {times:.3g}" if times is not None else told
    return f"{told}, p {_p(output['p'])}"


def output_lines(scores: Mapping[str, Any]) -> list[str]:
    """The output side: what steering the feature does to the tokens that its label names."""
    output = scores.get("output")
    if output is None:
        return []
    if "p" not in output:
        return [f"Output side: {output.get('outcome', EM_DASH)}."]
    return [
        f"Output side: steered to a KL of {_p(output['kl'])} nats per token, the probability of "
        f"the {output['tokens']:,} tokens that the label names goes from {output['before']:.2g} to "
        f"{output['after']:.2g}; p {_p(output['p'])} against {output['controls']} random features "
        "of like density, changed by the same length."
    ]


def _p(value: float | None) -> str:
    return EM_DASH if value is None else f"{value:.2g}"


def _part(part: Mapping[str, Any]) -> str:
    told = f"AUROC {format_percent(part.get('auroc'))}"
    if part.get("balanced_accuracy") is not None:
        told += f", balanced accuracy {format_percent(part['balanced_accuracy'])}"
    return f"{told}, n = {part.get('positives', 0):,} + {part.get('negatives', 0):,}"


def _percent(scores: Mapping[str, Any], name: str) -> str:
    return format_percent(scores.get(name))


def lines(labels: Sequence[Mapping[str, Any]]) -> list[str]:
    """The labels of a feature as text for a terminal; the chosen one is marked."""
    if not labels:
        return []
    out = ["labels:"]
    for one in labels:
        source = SOURCES.get(one["source"], one["source"])
        made = " ".join(part for part in (source, one["method"], one["model"]) if part)
        score = format_percent(one["score"])
        n = f", n = {one['score_n']:,}" if one["score"] is not None and one["score_n"] else ""
        steered = output_cell(one.get("scores") or {})
        tested = "" if steered == EM_DASH else f"; steering: {steered}"
        chosen = "*" if one["chosen"] else " "
        out.append(f"  {chosen} {score:>7}  {one['text']}  ({made}{n}{tested})")
    return out
