"""Steers: generates with and without the edits in one batch and measures the difference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mistudio.core.configs import SteerConfig
from mistudio.core.control import JobControl
from mistudio.core.events import Reporter
from mistudio.core.steering_spec import Edit, Feature, Spec, source_order
from mistudio.ml.loading import LoadedModel
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.steering import metrics
from mistudio.ml.steering.generate import STOPPED, generate
from mistudio.ml.steering.operators import BASELINE
from mistudio.ml.steering.sampling import SamplingSettings
from mistudio.ml.steering.sources import Library, PlacedSae
from mistudio.ml.steering.steered_model import SteeredModel
from mistudio.ml.steering.teacher_forcing import divergences
from mistudio.ml.steering.variants import (
    Comparison,
    GenerationRequest,
    Text,
    continuation_of,
    run_variants,
)

OVER_STEERED = 0.5  # mean |delta| / |x| above which text is often fluent but wrong
STEERED = "steered"  # the name of the variant if there is one
GENERATING = 0.85  # share of the whole that generation takes, for the progress bar


@dataclass(frozen=True)
class SteerResult:
    """Texts of all variants, and `metrics` per steered variant as plain JSON values."""

    comparison: Comparison
    metrics: dict[str, dict[str, Any]]
    kl_per_token: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """of each variant's first text, as the mean in `metrics` is made of; [] where not measured"""

    @property
    def is_empty(self) -> bool:
        """Whether the run was stopped before its first token."""
        return not any(text.ids for text in self.comparison.texts)


@dataclass(frozen=True)
class IdentityResult:
    """Whether edits of strength 0 leave a model as it is."""

    identical: bool  # same tokens as the baseline beside it, and as without a hook
    largest_logit_difference: float  # hooked against not hooked, over all steps and rows
    tokens: int


def steer(
    loaded: LoadedModel,
    specs: Mapping[str, Spec],
    library: Library,
    config: SteerConfig,
    report: Reporter,
    control: JobControl,
) -> SteerResult:
    """Generate baseline and variants for `config` in one batch and compare each with the baseline.

    Partial texts go to `report.partial(variant, text)`. A stop keeps what there is, without the
    teacher-forced metrics. Raises `StudioError` sentences for specifications, prompts and models
    that do not fit.
    """
    with SteeredModel(loaded, specs, library) as model:
        continuation = continuation_of(model, request_of(config), report)
        found = run_variants(model, continuation, report, control, share=GENERATING)
        measured: dict[str, dict[str, Any]] = {}
        per_token: dict[str, list[float]] = {}
        stopped = any(text.reason == STOPPED for text in found.texts)
        for number, name in enumerate(specs):
            share = GENERATING + (1 - GENERATING) * number / len(specs)
            report.progress(share, "Measuring")
            pair = (found.samples(BASELINE)[0], found.samples(name)[0])
            forced = None
            if not stopped:
                ids = [text.ids for text in pair]
                forced = divergences(model, found.prompts[0], name, ids, control)
                stopped = forced is None
            per_token[name] = forced[1].kl if forced else []
            twins = (found.greedy(BASELINE), found.greedy(name))
            figures = {**_metrics(pair, twins, forced), **_what_was_done(model, pair[1])}
            measured[name] = {
                **figures,
                "over_steered": _over_steered(figures),
                "features": [edit.feature for edit in _in_order(found.variants[name])],
                "values": found.values[name],
            }
    report.progress(1.0, "Ready")
    return SteerResult(found, measured, per_token)


def request_of(config: SteerConfig) -> GenerationRequest:
    """What a run's settings ask to be generated."""
    return GenerationRequest(
        (config.prompt,),
        config.max_tokens,
        config.samples,
        SamplingSettings(
            config.temperature,
            config.top_p,
            config.top_k,
            config.repetition_penalty,
            config.seed,
            config.presence_penalty,
            config.frequency_penalty,
        ),
        config.chat,
        config.stop,
        config.time_limit,
    )


def placed(
    sae: SparseAutoencoder,
    layer: int,
    hook: str,
    hook_in: str | None = None,
    largest: Mapping[int, float] | None = None,
    median_norm: float | None = None,
) -> PlacedSae:
    """An SAE at its place; without a `median_norm` that of its own training is taken, if known."""
    name = "median_norm_out" if sae.is_transcoder else "median_norm"
    known = median_norm or sae.metadata.get(name)
    norm = float(known) if isinstance(known, (int, float)) and known > 0 else None
    return PlacedSae(sae, layer, hook, hook_in or "", largest or {}, norm)


def identity_check(
    loaded: LoadedModel,
    sae: SparseAutoencoder,
    layer: int,
    hook: str,
    features: Sequence[int],
    config: SteerConfig,
    control: JobControl,
) -> IdentityResult:
    """Generate with the features added at strength 0, and without any hook, and compare.

    Logits must be equal bit for bit in every step, and the tokens of the steered row must be
    those of the baseline row.
    """
    zero = Spec(tuple(Edit(Feature(feature), 0.0) for feature in sorted(set(features))), unit="raw")
    library = Library({"": PlacedSae(sae, layer, hook)})
    logits: list[list[torch.Tensor]] = [[], []]
    ids: list[list[list[int]]] = []
    for kept, spec in zip(logits, (zero, Spec()), strict=True):
        with SteeredModel(loaded, {STEERED: spec}, library) as model:
            continuation = continuation_of(model, request_of(config))
            ids.append(generate(model, continuation, control, on_logits=kept.append).ids)
    half = len(ids[0]) // 2
    gaps = [float((a - b).abs().max()) for a, b in zip(*logits, strict=False)]
    same = ids[0][:half] == ids[0][half:] and ids[0] == ids[1] and len(logits[0]) == len(logits[1])
    gap = max(gaps, default=0.0)
    return IdentityResult(same and gap == 0.0, gap, len(ids[0][0]))


def _in_order(spec: Spec) -> list[Edit]:
    return sorted(spec.edits, key=source_order)


def _what_was_done(model: SteeredModel, text: Text) -> dict[str, Any]:
    """How many tokens were changed, and |Δ| / |x| of them: over all layers, and for each."""
    by_place = {place.words: text.trace.ratio(place) for place in model.places}
    changed = [r[r != 0] for r in text.trace.ratios.values()]
    ratios = torch.cat(changed) if changed else torch.zeros(0)
    return {
        "delta_ratio": float(ratios.mean()) if len(ratios) else None,
        "delta_ratio_max": float(ratios.max()) if len(ratios) else None,
        "delta_ratios": {place: known[0] for place, known in by_place.items() if known},
        "acted": text.trace.acted,
        "positions": text.trace.positions,
    }


def _over_steered(figures: Mapping[str, Any]) -> bool:
    """Whether text of such figures is often fluent but wrong."""
    before, after = figures["perplexity_baseline"], figures["perplexity_steered"]
    return bool(
        (figures["delta_ratio"] or 0.0) > OVER_STEERED
        or figures["loops_steered"]
        or (before and after and after > 2 * before)
    )


def _metrics(
    pair: tuple[Text, Text],
    twins: tuple[Text, Text],
    measured: Sequence[metrics.Divergence] | None,
) -> dict[str, Any]:
    ids = [text.ids for text in pair]
    texts = [text.text for text in pair]
    nothing = metrics.Divergence([], [], [])
    on_baseline, on_steered = measured or (nothing, nothing)
    before, after = on_baseline.perplexity, on_steered.perplexity
    looping = metrics.loops(ids[1])
    return {
        "kl": metrics.mean(on_steered.kl),
        "kl_max": max(on_steered.kl, default=None),
        "kl_first": on_steered.kl[0] if on_steered.kl else None,
        "kl_reverse": metrics.mean(on_steered.reverse),
        "kl_on_baseline": metrics.mean(on_baseline.kl),
        "kl_reverse_on_baseline": metrics.mean(on_baseline.reverse),
        "perplexity_baseline": before,
        "perplexity_steered": after,
        "perplexity_delta": after - before if before and after else None,
        "perplexity_log_ratio": math.log(after / before) if before and after else None,
        "word_overlap": metrics.word_overlap(texts[0], texts[1]),
        "distinct_1_baseline": metrics.distinct(ids[0], 1),
        "distinct_1_steered": metrics.distinct(ids[1], 1),
        "distinct_2_baseline": metrics.distinct(ids[0], 2),
        "distinct_2_steered": metrics.distinct(ids[1], 2),
        "loops_baseline": metrics.loops(ids[0]),
        "loops_steered": looping,
        "longest_repeat_baseline": metrics.longest_repeat(ids[0]),
        "longest_repeat_steered": metrics.longest_repeat(ids[1]),
        "repeat_share_baseline": metrics.repeat_share(ids[0]),
        "repeat_share_steered": metrics.repeat_share(ids[1]),
        "repeats_baseline": metrics.repeats(ids[0]),
        "repeats_steered": metrics.repeats(ids[1]),
        "first_divergence": metrics.first_divergence(ids[0], ids[1]),
        "identical": ids[0] == ids[1] and bool(ids[0]),
        "greedy_baseline": twins[0].text,
        "greedy_steered": twins[1].text,
        "greedy_first_divergence": metrics.first_divergence(twins[0].ids, twins[1].ids),
        "stopped_early": next((t.reason for t in pair if t.reason in ("time", "stopped")), None),
    }
