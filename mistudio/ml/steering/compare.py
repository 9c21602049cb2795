"""Steers: generates with and without the edits in one batch and measures the difference."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mistudio.core.configs import SteerConfig
from mistudio.core.control import JobControl
from mistudio.core.errors import InvalidInput
from mistudio.core.events import Reporter
from mistudio.core.steering_spec import Edit
from mistudio.ml.hooks import hook_module, hook_place
from mistudio.ml.loading import LoadedModel
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.steering import metrics
from mistudio.ml.steering.detokenize import TextStream
from mistudio.ml.steering.generate import (
    STOPPED,
    Continuation,
    Generated,
    generate,
    sampled_and_greedy,
)
from mistudio.ml.steering.hook import SteeringHook
from mistudio.ml.steering.operators import Steering, prepare
from mistudio.ml.steering.sampling import SamplingSettings
from mistudio.ml.steering.teacher_forcing import divergences

NORM_CUT = 10.0  # tokens beyond this many median norms (attention sinks) are not steered
OVER_STEERED = 0.5  # mean |delta| / |x| above which text is often fluent but wrong
UPDATES_PER_SECOND = 30
NAMES = ("baseline", "steered", "greedy_baseline", "greedy_steered")
GENERATING = 0.85  # share of the whole that generation takes, for the progress bar


@dataclass(frozen=True)
class SteerResult:
    """Texts, their tokens, and `metrics` as plain JSON values.

    The greedy pair is generated at temperature 0; at temperature 0 it is the pair itself.
    `reasons` says per text why it ended: "end", "length", "time" or "stopped".
    """

    prompt_ids: list[int]
    baseline_ids: list[int]
    steered_ids: list[int]
    baseline_text: str
    steered_text: str
    greedy_baseline_text: str
    greedy_steered_text: str
    reasons: dict[str, str]
    metrics: dict[str, Any]


@dataclass(frozen=True)
class IdentityResult:
    """Whether edits of strength 0 leave a model as it is."""

    identical: bool  # same tokens as the baseline beside it, and as without a hook
    largest_logit_difference: float  # hooked against not hooked, over all steps and rows
    tokens: int


def steer(
    loaded: LoadedModel,
    sae: SparseAutoencoder,
    layer: int,
    hook: str,
    edits: Sequence[Edit],
    config: SteerConfig,
    largest: Mapping[int, float],
    report: Reporter,
    control: JobControl,
    *,
    median_norm: float | None = None,
    hook_in: str | None = None,
) -> SteerResult:
    """Generate baseline and steered text for `config` and compare them.

    Directions are added at `hook`; `hook_in` is where a transcoder reads, which sets a feature's
    own activation.
    `largest` gives each feature's largest activation for the unit "max". `median_norm` of the
    stream (else the SAE's own, else none) bounds the norm of tokens that are steered. Partial
    texts go to `report.partial("baseline" | "steered", text)`. A stop keeps what there is, without
    the teacher-forced metrics. Raises `StudioError` sentences for edits, prompts and models that
    do not fit.
    """
    steering = prepare(edits, sae, config.unit, largest, loaded.hidden_dim, loaded.device)
    request = _continuation(loaded, config, report)
    watch = _Watch(loaded, request, report)
    module, limit = hook_module(loaded, layer, hook), _limit(sae, median_norm)
    read = hook_place(loaded, layer, hook_in) if hook_in not in (None, hook) else None
    with SteeringHook(module, steering, limit, read) as edit:
        found = generate(loaded, request, edit, control, on_token=watch)
        texts = watch.finish()
        measured = None
        if STOPPED not in found.reasons:
            report.progress(GENERATING, "Measuring")
            measured = divergences(loaded, request, edit, found, control)
    ids = [*found.ids, *found.ids][:4]
    shown = [*texts, *texts][:4]
    reasons: dict[str, str] = dict(zip(NAMES, found.reasons, strict=False))
    result = SteerResult(
        prompt_ids=list(request.prompt_ids),
        baseline_ids=ids[0],
        steered_ids=ids[1],
        baseline_text=shown[0],
        steered_text=shown[1],
        greedy_baseline_text=shown[2],
        greedy_steered_text=shown[3],
        reasons=reasons,
        metrics=_metrics(steering, found, ids, shown, measured),
    )
    report.progress(1.0, "Ready")
    return result


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
    zero = [Edit(feature, 0.0, "add") for feature in sorted(set(features))]
    steering = prepare(zero, sae, "raw", {}, loaded.hidden_dim, loaded.device)
    request = _continuation(loaded, config, None)
    hooked: list[torch.Tensor] = []
    with SteeringHook(hook_module(loaded, layer, hook), steering, math.inf) as edit:
        steered = generate(loaded, request, edit, control, on_logits=hooked.append)
    plain: list[torch.Tensor] = []
    free = generate(loaded, request, None, control, on_logits=plain.append)
    gaps = [float((a - b).abs().max()) for a, b in zip(hooked, plain, strict=False)]
    pairs_equal = all(steered.ids[i] == steered.ids[i + 1] for i in range(0, len(request.rows), 2))
    same = pairs_equal and steered.ids == free.ids and len(hooked) == len(plain)
    gap = max(gaps, default=0.0)
    return IdentityResult(same and gap == 0.0, gap, len(steered.ids[0]))


class _Watch:
    """Streams texts to the reporter while tokens arrive, at most so many times a second."""

    def __init__(self, loaded: LoadedModel, request: Continuation, report: Reporter) -> None:
        prompt = list(request.prompt_ids)
        self._streams = [TextStream(loaded.tokenizer, prompt) for _ in request.rows]
        self._report = report
        self._told = [0.0, 0.0]
        self._tokens = 0
        self._total = request.max_tokens

    def __call__(self, row: int, token: int) -> None:
        text = self._streams[row].add(token)
        now = time.monotonic()
        if row == 0:
            self._tokens += 1
            self._report.progress(GENERATING * self._tokens / self._total, "Generating")
        if row < 2 and now - self._told[row] >= 1 / UPDATES_PER_SECOND:
            self._told[row] = now
            self._report.partial(NAMES[row], text)

    def finish(self) -> list[str]:
        """The whole texts; baseline and steered are told once more."""
        texts = [stream.finish() for stream in self._streams]
        for name, text in zip(NAMES[:2], texts, strict=False):
            self._report.partial(name, text)
        return texts


def _continuation(
    loaded: LoadedModel, config: SteerConfig, report: Reporter | None
) -> Continuation:
    prompt_ids = [int(i) for i in loaded.tokenizer(config.prompt)["input_ids"]]
    if not prompt_ids:
        raise InvalidInput("The prompt holds no text; write some words to continue.")
    max_tokens = config.max_tokens
    limit = loaded.facts.max_positions
    if limit:
        if len(prompt_ids) >= limit:
            raise InvalidInput(
                f"The prompt has {len(prompt_ids):,} tokens; {loaded.facts.name} reads at most "
                f"{limit:,}. Shorten it."
            )
        if len(prompt_ids) + max_tokens > limit:
            max_tokens = limit - len(prompt_ids)
            if report is not None:
                report.note(f"{loaded.facts.name} has room for {max_tokens:,} new tokens only.")
    sampling = SamplingSettings(
        config.temperature, config.top_p, config.top_k, config.repetition_penalty, config.seed
    )
    return Continuation(
        tuple(prompt_ids),
        sampled_and_greedy(config.temperature),
        max_tokens,
        sampling,
        config.positions,
        config.time_limit,
    )


def _limit(sae: SparseAutoencoder, median_norm: float | None) -> float:
    known = median_norm or sae.metadata.get(
        "median_norm_out" if sae.is_transcoder else "median_norm"
    )
    return NORM_CUT * float(known) if isinstance(known, (int, float)) and known > 0 else math.inf


def _metrics(
    steering: Steering,
    found: Generated,
    ids: Sequence[list[int]],
    texts: Sequence[str],
    measured: tuple[metrics.Divergence, metrics.Divergence] | None,
) -> dict[str, Any]:
    nothing = metrics.Divergence([], [], [])
    on_baseline, on_steered = measured or (nothing, nothing)
    before, after = on_baseline.perplexity, on_steered.perplexity
    ratio = metrics.mean(found.ratios)
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
        "first_divergence": metrics.first_divergence(ids[0], ids[1]),
        "identical": ids[0] == ids[1] and bool(ids[0]),
        "delta_ratio": ratio,
        "delta_ratio_max": max(found.ratios, default=None),
        "over_steered": bool(
            (ratio or 0.0) > OVER_STEERED or looping or (before and after and after > 2 * before)
        ),
        "acted": found.acted,
        "positions": found.positions,
        "features": list(steering.features),
        "values": steering.values_K.tolist(),
        "greedy_baseline": texts[2],
        "greedy_steered": texts[3],
        "greedy_first_divergence": metrics.first_divergence(ids[2], ids[3]),
        "stopped_early": next((r for r in found.reasons[:2] if r in ("time", "stopped")), None),
    }
