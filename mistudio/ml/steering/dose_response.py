"""Effect against strength: one text, many strengths, read in one batch.

The text is a prompt and its greedy unsteered continuation, 64 tokens in all. Every strength reads
the same tokens, so that the curves are smooth and a strength can be found for a wanted KL.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from mistudio.core.errors import InvalidInput
from mistudio.core.steering_operators import Reads
from mistudio.core.steering_spec import Edit, Spec
from mistudio.ml.loading import LoadedModel
from mistudio.ml.steering import metrics
from mistudio.ml.steering.forward import FedRow, Stepper
from mistudio.ml.steering.prompts import Prompt
from mistudio.ml.steering.replay import Replay
from mistudio.ml.steering.sources import Library, find
from mistudio.ml.steering.steered_model import SteeredModel

CALIBRATION_TOKENS = 64
STRENGTHS = 16
WEAKEST, STRONGEST = 0.005, 2.5  # of the median norm: |Δ| of the ends of a calibration's strengths
TOLERANCE = 0.2  # of the wanted KL
NOISE = 1e-7  # nats; a KL below is rounding

Make = Callable[[float], Spec]


class DosePoint(NamedTuple):
    """What one strength does, as means over the scored tokens.

    `kl` is KL(p_s || p_b), `reverse` KL(p_b || p_s). `perplexity` is that of the text as the
    steered model reads it, `perplexity_change` the difference to the unsteered one.
    `target_probability`: that the next token is one of the target's; None without a target.
    `ratio`: mean |Δ| / |x| over changed tokens.
    """

    strength: float
    kl: float
    reverse: float
    perplexity: float | None
    perplexity_change: float | None
    target_probability: float | None
    ratio: float | None


class Dose(NamedTuple):
    """A curve, the weakest strength first, and the unsteered model's figures on the same tokens.

    `tokens` are scored: those from the first on that may be steered.
    """

    points: tuple[DosePoint, ...]
    tokens: int
    perplexity: float | None
    target_probability: float | None


class Calibration(NamedTuple):
    """The strength for a target KL, and what a pass of its own says of it.

    `strength` is None if the target is not reached; `problem` then says why. `measured` is the KL
    of an independent pass over the whole model, `error` (measured - target) / target. `monotone`:
    whether the KL rose with every strength up to the target; if not, `problem` says so.
    """

    target: float
    strength: float | None
    measured: float | None
    error: float | None
    monotone: bool
    problem: str
    dose: Dose

    @property
    def within(self) -> bool:
        """Whether the independent pass came within 20 % of the target."""
        return self.error is not None and abs(self.error) <= TOLERANCE


@torch.inference_mode()
def calibration_text(
    loaded: LoadedModel, prompt: Prompt, tokens: int = CALIBRATION_TOKENS
) -> Replay:
    """A prompt and its greedy unsteered continuation, `tokens` in all; a longer prompt alone."""
    following: list[int] = []
    if len(prompt.ids) < tokens:
        with SteeredModel(loaded, {}, Library()) as model:
            stepper = Stepper(model, [FedRow(prompt)])
            logits_1V = stepper.prompt()
            ends = loaded.model.generation_config.eos_token_id
            end_ids = {ends} if isinstance(ends, int) else set(ends or ())
            while len(prompt.ids) + len(following) < tokens:
                following.append(int(logits_1V.argmax()))
                if following[-1] in end_ids:
                    break
                logits_1V = stepper(torch.tensor([[following[-1]]]))
    return Replay(loaded, prompt, following)


def dose(
    replay: Replay,
    strengths: Sequence[float],
    make: Make,
    library: Library,
    targets: Collection[int] = (),
    check: Callable[[], None] = lambda: None,
) -> Dose:
    """Read the text at every strength; `make` gives the specification of one.

    Raises `InvalidInput` if no token may be steered.
    """
    values = sorted(strengths)
    specs = {str(number): make(value) for number, value in enumerate(values)}
    first = replay.first_acted(list(specs.values()))
    count = len(replay.ids) - first
    if not count:
        raise InvalidInput("No token was steered: the rule names none of this text.")
    target_T = torch.tensor(replay.ids[first + 1 :], device=replay.loaded.device)
    points: list[DosePoint] = []
    before = after = chance = None
    for value, (_, told) in zip(
        values, replay.read(specs, library, last=count, check=check), strict=True
    ):
        if not points:
            before = metrics.perplexity(told.base_TV[:-1], target_T)
            chance = _chance(told.base_TV, targets)
        found = metrics.divergences(told.base_TV, told.logits_TV)
        after = metrics.perplexity(told.logits_TV[:-1], target_T)
        changed_S = told.ratio_S[told.ratio_S != 0]
        points.append(
            DosePoint(
                value,
                float(found.kl_T.mean()),
                float(found.reverse_T.mean()),
                after,
                metrics.perplexity_change(before, after),
                _chance(told.logits_TV, targets),
                float(changed_S.mean()) if len(changed_S) else None,
            )
        )
    return Dose(tuple(points), count, before, chance)


def strength_for_kl(
    replay: Replay,
    target: float,
    scale: float,
    make: Make,
    library: Library,
    check: Callable[[], None] = lambda: None,
    *,
    targets: Collection[int] = (),
    strengths: int = STRENGTHS,
) -> Calibration:
    """The strength whose mean KL over the text is `target` nats.

    `scale` is the strength at which |Δ| is about the median norm; its sign is the direction that
    is searched. So many `strengths` are read, and log KL is interpolated over log strength.
    """
    if not (target > 0 and math.isfinite(target)):
        raise InvalidInput("The target KL must be above 0.")
    if not (scale and math.isfinite(scale)):
        raise InvalidInput("The scale of the strengths must be a number other than 0.")
    sizes = np.geomspace(WEAKEST, STRONGEST, strengths) * abs(scale)
    sign = math.copysign(1.0, scale)

    def signed(size: float) -> Spec:
        return make(sign * size)

    curve = dose(replay, sizes.tolist(), signed, library, targets, check)
    size, monotone = interpolate(sizes, np.array([p.kl for p in curve.points]), target)
    curve = curve._replace(
        points=tuple(p._replace(strength=sign * p.strength) for p in curve.points)
    )
    if size is None:
        most = max(p.kl for p in curve.points)
        why = (
            f"A KL of {target:g} is not reached: the strengths tried go from "
            f"{curve.points[0].kl:.3g} to {most:.3g} nats."
        )
        return Calibration(target, None, None, None, monotone, why, curve)
    check()
    measured = independent_kl(replay, signed(size), library)
    why = "" if monotone else "The KL does not rise steadily with the strength here."
    error = (measured - target) / target
    return Calibration(target, sign * size, measured, error, monotone, why, curve)


def factor_for_kl(
    replay: Replay,
    target: float,
    spec: Spec,
    library: Library,
    median_norm: float,
    check: Callable[[], None] = lambda: None,
    *,
    targets: Collection[int] = (),
) -> Calibration:
    """How many times as strong a whole specification must be; its strengths are factors.

    Raises `InvalidInput` if the specification changes nothing on this text.
    """
    ((_, told),) = replay.read({"as it is": spec}, library, last=1)
    if not told.delta_norm:
        raise InvalidInput("The specification changes nothing on this text; give it a strength.")
    scale = median_norm / told.delta_norm
    return strength_for_kl(replay, target, scale, spec.scaled, library, check, targets=targets)


def resolve_kl(
    replay: Replay,
    spec: Spec,
    library: Library,
    check: Callable[[], None] = lambda: None,
) -> tuple[Spec, list[Calibration]]:
    """Find the value of every edit that is given as a target KL, each as if it were alone.

    The specification comes back with these values in `resolved`. Raises `InvalidInput` for an edit
    that does not reach its target, or whose place has no known median norm.
    """
    edits: list[Edit] = []
    found: list[Calibration] = []
    width, device = replay.loaded.hidden_dim, replay.loaded.device
    for edit in spec.edits:
        if (edit.unit or spec.unit) != "kl":
            edits.append(edit)
            continue
        source = find(library, edit.source, width, device)
        if not source.median_norm:
            raise InvalidInput(
                f"The median norm at the place of {edit.source.words} is not known, so that no "
                "strength can be found for a KL; use another unit."
            )
        is_unit = edit.rule.reads is Reads.COORDINATE
        length = 1.0 if is_unit else float(source.direction_D.norm())

        def alone(value: float, edit: Edit = edit) -> Spec:
            return replace(spec, edits=(replace(edit, value=value, unit="raw"),))

        scale = source.median_norm / length
        calibration = strength_for_kl(replay, edit.value, scale, alone, library, check)
        if calibration.strength is None:
            raise InvalidInput(f"{edit.source.words}: {calibration.problem}")
        edits.append(replace(edit, resolved=calibration.strength))
        found.append(calibration)
    return replace(spec, edits=tuple(edits)), found


def interpolate(sizes_N: np.ndarray, kl_N: np.ndarray, target: float) -> tuple[float | None, bool]:
    """The first size at which KL crosses the target, and whether KL rose all the way to it.

    Log KL is linear in log size between two sizes; below the first one KL goes with its square.
    None if the target is never reached, or already passed at a KL that does not fall towards 0.
    """
    above = np.flatnonzero(kl_N >= target)
    end = int(above[0]) if len(above) else len(kl_N) - 1
    heard = kl_N[: end + 1][kl_N[: end + 1] > NOISE]
    monotone = bool((np.diff(heard) > 0).all())
    if not len(above):
        return None, monotone
    if end == 0:
        grows = len(kl_N) > 1 and kl_N[1] > 1.5 * kl_N[0]
        return (float(sizes_N[0] * math.sqrt(target / kl_N[0])) if grows else None), grows
    low, high = max(float(kl_N[end - 1]), NOISE), float(kl_N[end])
    share = (math.log(target) - math.log(low)) / (math.log(high) - math.log(low))
    x, y = math.log(float(sizes_N[end - 1])), math.log(float(sizes_N[end]))
    return math.exp(x + share * (y - x)), monotone


@torch.inference_mode()
def independent_kl(replay: Replay, spec: Spec, library: Library) -> float:
    """Mean KL(p_s || p_b) over the scored tokens from whole passes, nothing taken over."""
    first = replay.first_acted([spec])
    ids_1S = torch.tensor([replay.ids])
    logits: list[torch.Tensor] = []
    for variants in ({}, {"steered": spec}):
        with SteeredModel(replay.loaded, variants, library) as model:
            stepper = Stepper(model, [FedRow(replay.prompt, *variants)], cached=False)
            logits.append(stepper(ids_1S, all_logits=True)[0, first:])
    return float(metrics.divergences(*logits).kl_T.mean())


def _chance(logits_TV: torch.Tensor, targets: Collection[int]) -> float | None:
    return metrics.mean(metrics.concept_probability(logits_TV, targets)) if targets else None
