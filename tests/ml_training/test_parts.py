"""Schedule, optimiser, dead counters, threshold: each against a plain computation."""

from __future__ import annotations

import math

import pytest
import torch

from mistudio.core.errors import InvalidInput
from mistudio.core.training_configs import TrainConfig
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.training.dead import DeadTracker
from mistudio.ml.training.optimizer import BETAS, EPS, ClippedAdam
from mistudio.ml.training.schedule import default_rate, resolve
from mistudio.ml.training.threshold import ThresholdAverage, calibrate_threshold

CONFIG = TrainConfig(model="m", dataset="d")


def test_automatic_values_follow_the_recipe() -> None:
    schedule = resolve(TrainConfig(model="m", dataset="d", width=16384, tokens=20_480_000), 576)
    assert schedule.steps == 10_000
    assert schedule.learning_rate == pytest.approx(2e-4 * 1.5**0.5)
    assert schedule.warmup_steps == 1000
    assert schedule.decay_steps == 2000
    assert schedule.dead_window == 2_048_000
    assert schedule.aux_k == 256
    assert schedule.average_start == 1000
    short = resolve(TrainConfig(model="m", dataset="d", width=64, tokens=204_800), 64)
    assert (short.learning_rate, short.warmup_steps, short.average_start) == (2e-3, 10, 50)


def test_the_automatic_rate_falls_with_width_and_length_and_has_two_ceilings() -> None:
    assert default_rate(2**14, 15_000) == default_rate(2**14, 10**6) == pytest.approx(2e-4)
    assert default_rate(2**16, 10**6) == pytest.approx(1e-4)
    assert default_rate(64, 10**6) == pytest.approx(1e-3)
    assert default_rate(2**14, 3_750) == pytest.approx(4e-4)
    assert default_rate(4608, 529) == pytest.approx(2e-3, rel=0.01)
    assert default_rate(64, 100) == pytest.approx(2e-3)


def test_rate_rises_stays_and_falls_to_zero() -> None:
    schedule = resolve(TrainConfig(model="m", dataset="d", tokens=204_800, learning_rate=0.1), 64)
    rates = [schedule.rate_at(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[9:81] == pytest.approx([0.1] * 72)
    assert rates[90] == pytest.approx(0.05)
    assert rates[100] == 0


def test_k_comes_down_over_the_first_tenth() -> None:
    config = TrainConfig(model="m", dataset="d", tokens=204_800, k=10, k_anneal=4.0)
    schedule = resolve(config, 64)
    assert [schedule.k_at(step) for step in (0, 5, 10, 99)] == [40, 25, 10, 10]


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(InvalidInput, match="k is 65"):
        resolve(TrainConfig(model="m", dataset="d", width=64, k=65), 64)
    with pytest.raises(InvalidInput, match="Latents must lie between 1"):
        resolve(TrainConfig(model="m", dataset="d", width=0), 64)


def test_optimizer_equals_clip_then_adam() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(40, 8, generator=generator, dtype=torch.float64)
    ours, theirs = start.clone(), start.clone().requires_grad_()
    adam = torch.optim.Adam([theirs], lr=0.01, betas=BETAS, eps=EPS)
    mine = ClippedAdam({"w": ours}, clip_norm=2.0)
    for size in (0.01, 10.0, 1.0, 0.3):
        grad = size * torch.randn(40, 8, generator=generator, dtype=torch.float64)
        ours.grad, theirs.grad = grad.clone(), grad.clone()
        norm = mine.step(0.01)
        expected = torch.nn.utils.clip_grad_norm_([theirs], 2.0)
        adam.step()
        assert float(norm) == pytest.approx(float(expected), rel=1e-12)
    # clip_grad_norm_ divides by norm + 1e-6; single precision of the scale adds 1e-7
    assert (ours - theirs.detach()).abs().max() < 1e-7
    assert (ours - start).abs().max() > 0.01


def test_non_finite_gradients_change_nothing() -> None:
    w = torch.randn(4, 4)
    optimizer = ClippedAdam({"w": w}, 1.0)
    w.grad = torch.ones(4, 4)
    optimizer.step(0.1)
    before, moments = w.clone(), {k: v.clone() for k, v in optimizer.state().items()}
    w.grad = torch.full((4, 4), float("nan"))
    assert math.isnan(float(optimizer.step(0.1)))
    assert torch.equal(w, before)
    assert all(torch.equal(v, moments[k]) for k, v in optimizer.state().items())


def test_dead_flags_do_not_depend_on_the_batch_size() -> None:
    generator = torch.Generator().manual_seed(1)
    fired_TF = torch.rand(600, 50, generator=generator) < torch.linspace(0, 0.05, 50)
    states = []
    for batch in (1, 7, 50, 600):
        tracker = DeadTracker(50, 40, torch.device("cpu"))
        for part in fired_TF.split(batch):
            index = torch.arange(len(part))[:, None].expand_as(part)
            last = torch.where(part, index, -1).amax(0).clamp_min(0)
            tracker.update(part.sum(0), last, len(part))
        states.append((tracker.tokens_since_F, tracker.firings_F, tracker.dead()))
    for since, firings, dead in states[1:]:
        assert torch.equal(since, states[0][0])
        assert torch.equal(firings, states[0][1])
        assert torch.equal(dead, states[0][2])
    assert 0 in states[0][2].tolist()
    assert 0 < states[0][2].numel() < 50


def test_average_of_a_constant_is_that_constant() -> None:
    average = ThresholdAverage(start=3)
    for step in range(200):
        average.update(2.0 if step >= 3 else 9.0, step)
        assert average.value == (2.0 if step >= 3 else 9.0)


def test_calibrated_threshold_gives_exactly_k() -> None:
    generator = torch.Generator().manual_seed(0)
    W = torch.nn.functional.normalize(torch.randn(128, 16, generator=generator), dim=1)
    x = torch.randn(1000, 16, generator=generator)
    for guess in (0.01, 1.0, 50.0):
        sae = SparseAutoencoder(
            W.T.contiguous(),
            torch.zeros(128),
            W,
            torch.zeros(16),
            "jumprelu",
            threshold_F=torch.full((128,), guess),
        )
        theta = calibrate_threshold(sae, lambda: x.split(300), 7, 10_000)
        assert int(sae.with_threshold(theta).encode_sparse(x).l0.sum()) == 7000
