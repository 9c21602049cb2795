"""A kept steering run as it is read by people: prompts, variants, their texts and figures.

Runs are kept in the form of the version that made them; every face reads them through here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mistudio.core.errors import StudioError
from mistudio.core.steering_operators import Value
from mistudio.core.steering_spec import Edit, Feature, Source, Spec, parse_edits

BASELINE = "baseline"
ENDINGS = {
    "time": "Cut by the time limit; the text so far is kept.",
    "stopped": "Stopped; the text so far is kept.",
    "stop_string": "Ended at a stop string.",
    "aborted": "Ended because its condition held.",
}
LARGE_PUSH = 0.5  # |delta| / |x| beyond which text is often fluent but wrong


@dataclass(frozen=True)
class Text:
    """One text that was generated, why it ended, and whether always the likeliest token."""

    text: str
    reason: str = ""
    greedy: bool = False
    acted: int | None = None
    """tokens that were changed, of `positions`; None where the run does not say"""
    positions: int | None = None

    @property
    def acted_words(self) -> str:
        """On how many tokens was acted, "" where that is not known."""
        if self.acted is None or self.positions is None:
            return ""
        return f"acted on {self.acted} of {self.positions} positions"

    @property
    def ending(self) -> str:
        """A sentence where a text did not end by itself or by its length, else ""."""
        return ENDINGS.get(self.reason, "")


@dataclass(frozen=True)
class Variant:
    """One way of steering: its name in the run, what people read, texts, figures.

    `strength` is the factor of a sweep. Figures are keyed as the engine measures them; None or
    absent is not measured.
    """

    name: str
    title: str
    texts: tuple[Text, ...] = ()
    metrics: Mapping[str, Any] = field(default_factory=dict[str, Any])
    strength: float | None = None
    per_token: tuple[tuple[str, float], ...] = ()
    """pieces of the first text with the KL of their prediction, where measured"""
    controls: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """what a test against random features found, empty before one"""

    @property
    def is_baseline(self) -> bool:
        return self.name == BASELINE

    @property
    def labels(self) -> tuple[str, ...]:
        """What each text is called: its sample, or that it is the greedy twin."""
        samples = sum(not text.greedy for text in self.texts)
        found: list[str] = []
        for text in self.texts:
            number = 1 + sum(not name.startswith("greedy") for name in found)
            found.append(
                "greedy" if text.greedy else f"sample {number}" if samples > 1 else "sampled"
            )
        return tuple(found)


@dataclass(frozen=True)
class PromptRun:
    """Everything that came of one prompt; the baseline comes first."""

    prompt: str
    variants: tuple[Variant, ...]

    @property
    def baseline(self) -> Variant | None:
        return next((v for v in self.variants if v.is_baseline), None)

    @property
    def steered(self) -> tuple[Variant, ...]:
        return tuple(v for v in self.variants if not v.is_baseline)


def read_run(
    prompt: str, outputs: Mapping[str, Any] | None, metrics: Mapping[str, Any] | None
) -> tuple[PromptRun, ...]:
    """The prompts of a run as it is kept; runs of the first form have one steered text."""
    outputs, metrics = outputs or {}, metrics or {}
    if outputs.get("variants"):
        return (_variants_form(prompt, outputs["variants"], metrics),)
    if "steered" in outputs or "baseline" in outputs:
        return (_first_form(prompt, outputs, metrics),)
    return ()


def _first_form(prompt: str, outputs: Mapping[str, Any], metrics: Mapping[str, Any]) -> PromptRun:
    reasons: Mapping[str, Any] = outputs.get("reasons") or {}
    variants: list[Variant] = []
    for name, title in ((BASELINE, "Unsteered (baseline)"), ("steered", "Steered")):
        early = str(metrics.get("stopped_early") or "")
        acted = (None, None)
        if name != BASELINE:
            acted = (metrics.get("acted"), metrics.get("positions"))
        why = str(reasons.get(name) or early)
        texts = [Text(str(outputs.get(name) or ""), why, False, *acted)]
        if metrics.get(f"greedy_{name}"):
            why = str(reasons.get(f"greedy_{name}") or early)
            texts.append(Text(str(metrics[f"greedy_{name}"]), why, True))
        variants.append(Variant(name, title, tuple(texts), metrics if name == "steered" else {}))
    return PromptRun(prompt, tuple(variants))


def _variants_form(
    prompt: str, outputs: Mapping[str, Any], metrics: Mapping[str, Any]
) -> PromptRun:
    """Texts by variant; figures are those of the only one, or by name under "variants"."""
    several: Mapping[str, Any] = metrics.get("variants") or {}
    tested: Mapping[str, Any] = metrics.get("controls") or {}
    metrics = {name: value for name, value in metrics.items() if name != "controls"}
    found: list[Variant] = []
    for name, told in outputs.items():
        texts = [_text_of(one, name) for one in told.get("samples", ())]
        twin = told.get("greedy")
        if twin is not None:
            greedy = _text_of(twin, name, greedy=True)
            # at temperature 0 the sample is the greedy text
            is_same = len(texts) == 1 and twin == told["samples"][0]
            texts = [greedy] if is_same else [*texts, greedy]
        is_baseline = name == BASELINE
        own: Mapping[str, Any] = {} if is_baseline else several.get(name) or metrics
        parts: Mapping[str, Any] = told.get("per_token") or {}
        pairs = tuple(zip(parts.get("pieces", ()), parts.get("kl", ()), strict=False))
        controls: Mapping[str, Any] = tested.get(name) or {}
        strength = strength_of(name)
        found.append(Variant(name, title_of(name), tuple(texts), own, strength, pairs, controls))
    return PromptRun(prompt, tuple(found))


def _text_of(told: Mapping[str, Any], name: str, *, greedy: bool = False) -> Text:
    at = told.get("acted_at")
    acted = len(at) if at is not None and name != BASELINE else None
    reason = str(told.get("reason") or "")
    return Text(str(told["text"]), reason, greedy, acted, told.get("positions"))


def title_of(name: str) -> str:
    """How people read the name of a variant."""
    from mistudio.core.steering_words import parse_edit

    if name in (BASELINE, "steered"):
        return "Unsteered (baseline)" if name == BASELINE else "Steered"
    if strength_of(name) is not None:
        return f"Strength {name}".replace("-", "−")
    try:
        return edit_words(parse_edit(name))
    except StudioError:
        return name


def strength_of(name: str) -> float | None:
    """The factor of a sweep's variant, None of any other."""
    try:
        return float(name[1:]) if name.startswith("×") else None
    except ValueError:
        return None


_UNIT_WORDS = {"": " × max", "max": " × max", "raw": "", "percent": " %", "kl": " nats"}


def edit_words(edit: Edit, unit: str = "max") -> str:
    """An edit in short for people: "#12 +2 × max", "#12 = 1 × max", "Ablate #12"."""
    source = _source_words(edit.source)
    mark, rule = _UNIT_WORDS[edit.unit or unit], edit.rule
    if rule.has_target and edit.target is not None:
        words = f"{source} ↔ {_source_words(edit.target)}"
    elif edit.operator == "add":
        words = f"{source} {edit.value:+g}{mark}"
    elif edit.operator == "clamp":
        words = f"{source} = {edit.value:g}{mark}"
    elif rule.value is Value.NONE:
        words = f"{rule.label} {source}"
    elif rule.value is Value.FACTOR:
        words = f"{rule.label} {source} × {edit.value:g}"
    elif edit.high is not None:
        words = f"{rule.label} {source}: {edit.value:g} to {edit.high:g}{mark}"
    else:
        words = f"{rule.label} {source}: {edit.value:g}{mark}"
    if edit.layers:
        words += f", also at {'layer' if len(edit.layers) == 1 else 'layers'} "
        words += ", ".join(map(str, edit.layers))
    if edit.condition is not None:
        words += f" if #{edit.condition.feature.index} > {edit.condition.above:g}"
    return words.replace("-", "−") if edit.value < 0 else words


def _source_words(source: Source) -> str:
    return f"#{source.index}" if isinstance(source, Feature) else source.name


def edits_of(config: Mapping[str, Any]) -> list[Edit]:
    """The edits that kept settings hold, of whatever version; what cannot be read is left out."""
    kept = config.get("specification")
    try:
        if kept:
            return list(Spec.from_json(kept).edits)
        inline = str(config.get("spec") or "")
        first = list(Spec.from_json(json.loads(inline)).edits) if inline.startswith("{") else []
    except (StudioError, ValueError):
        first = []
    return [*first, *parse_edits([*config.get("feature", ()), *config.get("edit", ())]).edits]


def over_steering(metrics: Mapping[str, Any]) -> list[str]:
    """Why a text counts as over-steered, in words that follow "because"; [] if it does not."""
    found: list[str] = []
    if (metrics.get("delta_ratio") or 0.0) > LARGE_PUSH:
        found.append("the push is more than half of the activation")
    if metrics.get("loops_steered"):
        found.append("the text loops")
    before, after = metrics.get("perplexity_baseline"), metrics.get("perplexity_steered")
    if before and after and after > 2 * before:
        found.append("perplexity more than doubles")
    if metrics.get("over_steered") and not found:
        found.append("the run says so")
    return found


def repeat_words(metrics: Mapping[str, Any]) -> str:
    """The longest stretch that a text says again, in a sentence; "" where it was not measured."""
    parts: list[str] = []
    for name, title in (("steered", "steered"), (BASELINE, "baseline")):
        length, share = metrics.get(f"longest_repeat_{name}"), metrics.get(f"repeat_share_{name}")
        if length is not None and share is not None:
            parts.append(f"{title} {length} tokens, {share:.0%} of the text")
    return f"Longest stretch said again: {'; '.join(parts)}." if parts else ""


def repeating(metrics: Mapping[str, Any]) -> str:
    """A warning that a text says a long stretch again, "" if it does not."""
    if not metrics.get("repeats_steered"):
        return ""
    length, share = metrics["longest_repeat_steered"], metrics["repeat_share_steered"]
    told = f"says a stretch of {length} tokens more than once, {share:.0%} of its length"
    also = " So does the baseline." if metrics.get("repeats_baseline") else ""
    return f"The text {told}.{also}"


def kl_word(kl: float | None) -> str:
    """How large a KL is."""
    if kl is None:
        return ""
    return "minimal" if kl < 0.01 else "moderate" if kl <= 0.1 else "large"


def similarity_word(similarity: float | None) -> str:
    """How near two texts are in meaning."""
    if similarity is None:
        return ""
    return "near" if similarity > 0.9 else "related" if similarity >= 0.7 else "far"


def overlap_word(overlap: float | None) -> str:
    """How many words two texts share."""
    if overlap is None:
        return ""
    return "alike" if overlap > 0.5 else "partly alike" if overlap >= 0.3 else "different"


def ratio_word(ratio: float | None) -> str:
    """How strong a push is beside the activation that it acts on."""
    return "" if ratio is None else "over-steering likely" if ratio > LARGE_PUSH else "in bounds"


def differing(text: str, baseline: str) -> list[tuple[int, int]]:
    """Stretches of `text`, as first and last character (exclusive), whose words the baseline has
    not in that order; stretches that only spaces part are one."""
    from difflib import SequenceMatcher

    spans, words = _words(text)
    _, others = _words(baseline)
    found: list[tuple[int, int]] = []
    for tag, low, high, _, _ in SequenceMatcher(None, words, others, autojunk=False).get_opcodes():
        if tag in ("replace", "delete") and high > low:
            found.append((spans[low][0], spans[high - 1][1]))
    return found


def _words(text: str) -> tuple[list[tuple[int, int]], list[str]]:
    import re

    matches = list(re.finditer(r"\w+|[^\w\s]", text))
    return [found.span() for found in matches], [found[0] for found in matches]
