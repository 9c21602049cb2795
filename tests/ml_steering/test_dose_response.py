"""Effect against strength: equal to independent passes, and strengths found for a wanted KL."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from mistudio.core.errors import InvalidInput
from mistudio.core.steering_positions import Positions
from mistudio.core.steering_spec import Edit, Feature, Spec
from mistudio.ml.loading import LoadedModel
from mistudio.ml.steering import dose_response
from mistudio.ml.steering.dose_response import calibration_text, dose, interpolate, strength_for_kl
from mistudio.ml.steering.prompts import Prompt
from mistudio.ml.steering.sources import Library, PlacedSae
from tests.ml_steering.conftest import LAYER, random_sae

PROMPT = Prompt((5, 6, 7, 8, 9))
SAE = random_sae()
LIBRARY = Library({"": PlacedSae(SAE, LAYER, "resid_post")})
TARGETS = {30, 31, 32}


def add(value: float, feature: int = 3) -> Spec:
    return Spec((Edit(Feature(feature), value, unit="raw"),))


def by_hand(loaded: LoadedModel, ids: list[int], value: float) -> np.ndarray:
    """Log-probabilities [S, V] with the direction added to the block's output, in NumPy."""

    def edit(_module: object, _inputs: object, output: object) -> object:
        several = isinstance(output, tuple)
        x = output[0] if several else output
        x = x + value * SAE.W_dec_FO[3]
        return (x, *output[1:]) if several else x

    handle = loaded.blocks.modules[LAYER].register_forward_hook(edit)
    try:
        with torch.inference_mode():
            logits = loaded.model(torch.tensor([ids]), use_cache=False).logits[0]
    finally:
        handle.remove()
    return log_softmax(logits.double().numpy(), axis=1)


def test_every_strength_is_as_in_a_pass_of_its_own(llama: LoadedModel) -> None:
    replay = calibration_text(llama, PROMPT, 24)
    strengths = np.geomspace(0.05, 20, 16).tolist()
    found = dose(replay, strengths, add, LIBRARY, TARGETS)
    base = by_hand(llama, replay.ids, 0.0)
    following = replay.ids[1:]
    rows = np.arange(len(following))
    base_ppl = np.exp(-base[rows, following].mean())
    assert found.tokens == len(replay.ids)
    assert found.perplexity == pytest.approx(base_ppl, rel=1e-4)
    mass = np.exp(base[:, sorted(TARGETS)]).sum(1).mean()
    assert found.target_probability == pytest.approx(mass, rel=1e-4)
    for point, strength in zip(found.points, strengths, strict=True):
        own = by_hand(llama, replay.ids, strength)
        kl = (np.exp(own) * (own - base)).sum(1).mean()
        reverse = (np.exp(base) * (base - own)).sum(1).mean()
        assert point.strength == strength
        assert point.kl == pytest.approx(kl, rel=1e-3, abs=1e-6)
        assert point.reverse == pytest.approx(reverse, rel=1e-3, abs=1e-6)
        ppl = np.exp(-own[rows, following].mean())
        assert point.perplexity == pytest.approx(ppl, rel=1e-4)
        assert point.perplexity_change == pytest.approx(ppl - base_ppl, rel=1e-3, abs=1e-3)
        mass = np.exp(own[:, sorted(TARGETS)]).sum(1).mean()
        assert point.target_probability == pytest.approx(mass, rel=1e-3)


def test_the_text_is_the_greedy_continuation(llama: LoadedModel) -> None:
    replay = calibration_text(llama, PROMPT, 20)
    ids = list(PROMPT.ids)
    while len(ids) < len(replay.ids):
        ids.append(int(by_hand(llama, ids, 0.0)[-1].argmax()))
    assert replay.ids == ids
    long = Prompt(tuple(range(2, 50)))
    assert calibration_text(llama, long, 20).ids == list(long.ids)


@pytest.mark.parametrize("target", [0.003, 0.1, 0.5])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_strength_found_gives_the_wanted_divergence(
    llama: LoadedModel, target: float, sign: int
) -> None:
    replay = calibration_text(llama, PROMPT, 24)
    found = strength_for_kl(replay, target, 20.0 * sign, add, LIBRARY)
    assert found.strength is not None
    assert found.strength * sign > 0
    base, own = (by_hand(llama, replay.ids, v) for v in (0.0, found.strength))
    kl = (np.exp(own) * (own - base)).sum(1).mean()
    assert found.measured == pytest.approx(kl, rel=1e-3)
    assert found.error == pytest.approx((kl - target) / target, abs=1e-3)
    assert found.within


def test_what_cannot_be_reached_is_said(llama: LoadedModel) -> None:
    replay = calibration_text(llama, PROMPT, 12)
    found = strength_for_kl(replay, 500.0, 1.0, add, LIBRARY)
    assert found.strength is found.measured is None
    assert "not reached" in found.problem
    assert not found.within
    for target, scale in ((0.0, 1.0), (0.1, 0.0), (0.1, float("inf"))):
        with pytest.raises(InvalidInput):
            strength_for_kl(replay, target, scale, add, LIBRARY)


def test_a_text_without_a_steered_token_is_refused(llama: LoadedModel) -> None:
    replay = calibration_text(llama, Prompt(tuple(range(2, 30))), 10)

    def generated(value: float) -> Spec:
        return Spec(add(value).edits, Positions("generated"))

    with pytest.raises(InvalidInput, match="No token was steered"):
        dose(replay, [1.0], generated, LIBRARY)


def test_interpolation_follows_a_power_law_exactly() -> None:
    sizes = np.geomspace(0.01, 10, 16)
    for power in (1.0, 2.0, 3.5):
        kl = 0.7 * sizes**power
        size, monotone = interpolate(sizes, kl, 0.2)
        assert size == pytest.approx((0.2 / 0.7) ** (1 / power), rel=1e-9)
        assert monotone
    size, monotone = interpolate(sizes, 0.7 * sizes**2, 1e-6)  # below all: the square law
    assert size == pytest.approx((1e-6 / 0.7) ** 0.5, rel=1e-9)
    assert monotone


def test_interpolation_reports_what_does_not_rise() -> None:
    sizes = np.array([1.0, 2.0, 4.0, 8.0])
    assert interpolate(sizes, np.array([0.1, 0.3, 0.2, 1.0]), 0.5)[1] is False
    assert interpolate(sizes, np.array([0.1, 0.3, 0.2, 1.0]), 0.2) == (
        pytest.approx(2 ** (np.log(2) / np.log(3))),
        True,
    )
    assert interpolate(sizes, np.array([0.1, 0.2, 0.2, 0.2]), 0.5) == (None, False)
    assert interpolate(sizes, np.array([1.0, 1.0, 1.0, 1.0]), 0.5) == (None, False)


def test_a_wrong_curve_fails_the_independent_pass(
    llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flattered(*values: object) -> tuple[float, bool]:
        size, monotone = interpolate(*values)
        return 2 * size, monotone

    monkeypatch.setattr(dose_response, "interpolate", flattered)
    replay = calibration_text(llama, PROMPT, 12)
    assert not strength_for_kl(replay, 0.01, 20.0, add, LIBRARY).within
