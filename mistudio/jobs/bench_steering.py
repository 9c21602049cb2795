"""Measures what steering costs: slider, dose-response, batch, hook, and how well a KL is met.

Features are drawn at random among the live ones of an SAE; times are medians in milliseconds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from mistudio.core.control import JobControl
from mistudio.core.errors import InvalidInput
from mistudio.core.steering_spec import Edit, Feature, Spec
from mistudio.jobs import feature_pages, lookup, sae_library

if TYPE_CHECKING:
    from mistudio.jobs.runner import Studio
    from mistudio.ml.loading import LoadedModel
    from mistudio.ml.steering.dose_response import Calibration
    from mistudio.ml.steering.prompts import Prompt
    from mistudio.ml.steering.replay import Replay
    from mistudio.ml.steering.sources import Library

PARTS = ("slider", "dose", "batch", "overhead", "auto")
PROMPT_TOKENS = 64
NEW_TOKENS = 32
VARIANTS = 8
MODERATE = 0.1  # |Δ| over the median norm of what is steered while time is taken
WARM = 2  # unmeasured repetitions


class _Bench(NamedTuple):
    loaded: LoadedModel
    library: Library
    prompt: Prompt
    median: float
    features: list[int]
    norms: list[float]
    rounds: int

    def spec(self, number: int, share: float = MODERATE) -> Spec:
        """Feature `number` of those drawn, by this share of the median norm."""
        value = share * self.median / self.norms[number]
        return Spec((Edit(Feature(self.features[number]), value, unit="raw"),))

    def replay(self) -> Replay:
        from mistudio.ml.steering.dose_response import calibration_text

        return calibration_text(self.loaded, self.prompt, PROMPT_TOKENS)


def bench_steering(
    studio: Studio,
    *,
    sae: str = "last",
    only: tuple[str, ...] = (),
    features: int = 100,
    target_kl: float = 0.1,
    rounds: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure the named parts, or all; raises `InvalidInput` for a part that is none."""
    import torch

    wrong = set(only) - set(PARTS)
    if wrong:
        raise InvalidInput(f"There is no part {sorted(wrong)[0]!r}; use {', '.join(PARTS)}.")
    ready = _ready(studio, sae, max(features, VARIANTS), rounds, seed)
    found: dict[str, Any] = {
        "model": ready.loaded.facts.name,
        "device": str(ready.loaded.device),
        "format": ready.loaded.format,
        "threads": torch.get_num_threads(),
        "prompt_tokens": len(ready.prompt.ids),
    }
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "slider": lambda: _slider(ready),
        "dose": lambda: _dose(ready),
        "batch": lambda: _batch(ready),
        "overhead": lambda: _overhead(ready),
        "auto": lambda: _auto(ready, features, target_kl),
    }
    for name in only or PARTS:
        found |= parts[name]()
    return found


def _ready(studio: Studio, wanted: str, count: int, rounds: int, seed: int) -> _Bench:
    import numpy as np

    from mistudio.ml.features.sampling import hash_tokens
    from mistudio.ml.steering.compare import placed
    from mistudio.ml.steering.prompts import Prompt
    from mistudio.ml.steering.sources import Library

    if rounds < 1 or count < 1:
        raise InvalidInput("Rounds and features must be at least 1.")
    row = lookup.sae(studio, wanted)
    model = lookup.model_of(studio, row)
    kept = feature_pages.feature_set(studio, row)
    loaded = studio.models.get(model, studio.paths.absolute(model.path))
    store = feature_pages.open_store(studio, kept)
    live = np.flatnonzero(np.asarray(store.statistics["count"]) > 0)
    order = np.argsort(hash_tokens(seed, live.astype(np.uint32), 2), kind="stable")
    chosen = live[order[:count]].tolist()
    if len(chosen) < VARIANTS:
        raise InvalidInput(f"The measurement needs at least {VARIANTS} live features.")
    sae = sae_library.read_sae(studio, row).to(loaded.device)
    norm = "median_norm_out" if sae.is_transcoder else "median_norm"
    median = float((kept.summary or {}).get(norm) or 0.0)
    if not median:
        raise InvalidInput("The median norm of the stream is not known; find the features.")
    hook = row.hook_out or row.hook_in or ""
    place = placed(sae, row.layer or 0, hook, row.hook_in, {}, median)
    rows_CO = sae.W_dec_FO[chosen].float()
    norms = [float(norm) for norm in rows_CO.square().sum(1).sqrt()]
    ids = np.concatenate([store.token_row(r) for r in range(store.n_rows)][:64]).tolist()
    prompt = Prompt(tuple(int(i) for i in ids[:PROMPT_TOKENS]))
    return _Bench(loaded, Library({"": place}), prompt, median, chosen, norms, rounds)


def _slider(ready: _Bench) -> dict[str, Any]:
    """A moved slider to the next token's distribution, KL and movers; the first one prepares."""
    from mistudio.ml.steering.preview import PreviewSession

    session = PreviewSession()
    took: list[float] = []
    for number in range(1 + WARM + 4 * ready.rounds):
        spec = ready.spec(0, 0.01 * (1 + number))
        begun = time.perf_counter()
        session.show(ready.loaded, ready.prompt, spec, ready.library)
        took.append(time.perf_counter() - begun)
    later = took[1 + WARM :]
    return {
        "slider_first_ms": _ms(took[0]),
        "slider_ms": _ms(statistics.median(later)),
        "slider_slowest_ms": _ms(max(later)),
    }


def _dose(ready: _Bench) -> dict[str, Any]:
    """Sixteen strengths on the prompt, read in one pass behind the steered layer."""
    from mistudio.ml.steering.dose_response import STRENGTHS, dose, independent_kl

    replay = ready.replay()
    shares = [0.02 * (n + 1) for n in range(STRENGTHS)]
    took: list[float] = []
    curve = dose(replay, shares, lambda share: ready.spec(0, share), ready.library)
    for _ in range(ready.rounds):
        begun = time.perf_counter()
        curve = dose(replay, shares, lambda share: ready.spec(0, share), ready.library)
        took.append(time.perf_counter() - begun)
    checked = independent_kl(replay, ready.spec(0, shares[-1]), ready.library)
    gap = abs(curve.points[-1].kl - checked) / checked if checked else 0.0
    return {"dose_ms": _ms(statistics.median(took)), "dose_largest_gap": round(gap, 6)}


def _batch(ready: _Bench) -> dict[str, Any]:
    """Baseline and eight strengths in one batch against one unsteered generation."""
    specs = {f"s{n}": ready.spec(0, 0.02 * (n + 1)) for n in range(VARIANTS)}
    alone, together = _interleaved(
        ready.rounds, lambda: _generate(ready, {}), lambda: _generate(ready, specs)
    )
    return {
        "alone_ms": _ms(alone),
        "batch_ms": _ms(together),
        "batch_ratio": round(together / alone, 2),
    }


def _overhead(ready: _Bench) -> dict[str, Any]:
    """One steered row against one unsteered row, per token."""
    spec = ready.spec(0, 0.02)
    plain, hooked = _interleaved(
        ready.rounds,
        lambda: _generate(ready, {}),
        lambda: _generate(ready, {"steered": spec}, with_baseline=False),
    )
    return {
        "plain_ms_per_token": round(1000 * plain / NEW_TOKENS, 2),
        "hooked_ms_per_token": round(1000 * hooked / NEW_TOKENS, 2),
        "overhead_percent": round(100 * (hooked / plain - 1), 1),
    }


def _auto(ready: _Bench, count: int, target_kl: float) -> dict[str, Any]:
    """For how many features an independent pass meets the target KL within 20 %."""
    from mistudio.ml.steering.dose_response import strength_for_kl

    replay = ready.replay()
    found: list[Calibration] = []
    begun = time.perf_counter()
    for number in range(min(count, len(ready.features))):
        norm = ready.norms[number]

        def make(length: float, number: int = number, norm: float = norm) -> Spec:
            edit = Edit(Feature(ready.features[number]), length / norm, unit="raw")
            return Spec((edit,))

        found.append(strength_for_kl(replay, target_kl, ready.median, make, ready.library))
    took = time.perf_counter() - begun
    errors = [abs(c.error) for c in found if c.error is not None]
    return {
        "auto_features": len(found),
        "auto_target_kl": target_kl,
        "auto_within": sum(c.within for c in found),
        "auto_unreached": sum(c.strength is None for c in found),
        "auto_not_monotone": sum(not c.monotone for c in found),
        "auto_median_error_percent": round(100 * statistics.median(errors), 2) if errors else None,
        "auto_largest_error_percent": round(100 * max(errors), 2) if errors else None,
        "auto_s_per_feature": round(took / len(found), 2),
    }


def _generate(ready: _Bench, specs: dict[str, Spec], *, with_baseline: bool = True) -> None:
    from mistudio.ml.steering.generate import Continuation, Row, generate
    from mistudio.ml.steering.operators import BASELINE
    from mistudio.ml.steering.sampling import SamplingSettings
    from mistudio.ml.steering.steered_model import SteeredModel

    names = [*([BASELINE] if with_baseline else []), *specs]
    request = Continuation(
        (ready.prompt,),
        tuple(Row(0, name, 0, True) for name in names),
        NEW_TOKENS,
        SamplingSettings(temperature=0.0),
    )
    with SteeredModel(ready.loaded, specs, ready.library) as model:
        generate(model, request, JobControl())


def _interleaved(
    rounds: int, first: Callable[[], None], second: Callable[[], None]
) -> tuple[float, float]:
    """Median seconds of two things measured in turn, after one unmeasured round."""
    took: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for ask, kept in zip((first, second), took, strict=True):
            begun = time.perf_counter()
            ask()
            if number:
                kept.append(time.perf_counter() - begun)
    return statistics.median(took[0]), statistics.median(took[1])


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 1)
