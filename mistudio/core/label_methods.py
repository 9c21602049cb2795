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
        out.append(f"  {'*' if one['chosen'] else ' '} {score:>7}  {one['text']}  ({made}{n})")
    return out
