"""The weight of a penalty over a run, and which latents count as rare."""

from __future__ import annotations

import pytest
import torch

from mistudio.core.training_configs import TrainConfig
from mistudio.ml.sae.trainable import Penalty
from mistudio.ml.training.run_state import RunState
from mistudio.ml.training.sparsity import FiringRates, SparsityControl


def control(steps: int = 1000, **values: object) -> SparsityControl:
    settings = {"architecture": "standard", "target_l0": 0.0, **values}
    return SparsityControl(TrainConfig(**settings), steps)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "weights"),
    [
        ({}, (1 / 50, 0.5, 1.0, 1.0)),
        ({"sparsity": 4.0}, (4 / 50, 2.0, 4.0, 4.0)),
        ({"architecture": "jumprelu"}, (5 / 1000, 0.125, 2.5, 5.0)),
        ({"architecture": "jumprelu", "target_l0": 8.0}, (0.5 / 50, 0.25, 0.5, 0.5)),
        ({"sparsity": 4.0, "target_l0": 8.0}, (4 / 50, 2.0, 4.0, 4.0)),
        ({"architecture": "jumprelu", "jumprelu_penalty": "step"}, (1 / 50, 0.5, 1.0, 1.0)),
    ],
)
def test_ramps(values: dict[str, object], weights: tuple[float, ...]) -> None:
    found = control(**values)
    assert [found.weight_at(step) for step in (0, 24, 499, 999)] == pytest.approx(weights)


def test_a_target_moves_the_weight_and_then_lets_it_be() -> None:
    """In a thousand steps, one and a half times as fast as in a long run."""
    found = control(target_l0=10.0)
    for step in range(50):
        found.update(40.0, step)
    assert found.weight_at(60) == pytest.approx(0.1), "not before the ramp is over"
    for step in range(50, 60):
        found.update(20.0, step)
    falling = found.weight_at(60)
    assert 0.1 < falling < 0.1 * 1.02**15, "L0 is falling already"
    for step in range(60, 400):
        found.update(20.0, step)
    level = found.weight_at(400)
    for step in range(400, 500):
        found.update(20.0, step)
    assert found.weight_at(500) == pytest.approx(level * 2 ** (0.015 * 1.5 * 100), rel=1e-2)
    for step in range(500, 800):
        found.update(20.0, step)
    frozen = found.weight_at(800)
    for step in range(800, 1000):
        found.update(4000.0, step)
    assert found.weight_at(999) == frozen


def test_too_few_active_latents_lower_the_weight_at_once() -> None:
    found = control(target_l0=10.0)
    for step in range(200):
        found.update(10.0, step)
    assert found.weight_at(200) == pytest.approx(0.1)
    for step in range(200, 215):
        found.update(2.0, step)
    assert found.weight_at(215) < 0.1 * 0.2
    for step in range(215, 600):
        found.update(10.0, step)
    assert 0.04 < found.weight_at(600) < 0.1, "most of it was the brake, which is off again"


def test_a_steered_run_reaches_its_target() -> None:
    """L0 that answers to λ late, as a dictionary does that has to learn first."""
    for gain in (0.02, 1.0, 50.0):
        found, l0 = control(target_l0=10.0, steps=3000), 300.0
        seen = []
        for step in range(3000):
            wanted = 300.0 / (1 + gain * 30 * found.weight_at(step))
            l0 *= (wanted / l0) ** 0.02
            found.update(l0, step)
            seen.append(l0)
        assert seen[-1] == pytest.approx(10, rel=0.05)
        assert min(seen) > 6


def test_the_weight_stays_in_its_range() -> None:
    low, high = control(target_l0=10.0, steps=100_000), control(target_l0=10.0, steps=100_000)
    for step in range(5000, 30_000):
        low.update(0.0, step)
        high.update(1e6, step)
    assert low.weight_at(30_000) < 1e-4 * 1.01
    assert low.state()["weight"] == pytest.approx(1e-4)
    assert high.weight_at(30_000) == pytest.approx(1e2)


def test_a_run_that_is_taken_up_again_goes_on_alike() -> None:
    whole, first = control(target_l0=10.0), control(target_l0=10.0)
    for step in range(300):
        whole.update(20.0 + step, step)
        if step < 150:
            first.update(20.0 + step, step)
    second = control(target_l0=10.0)
    second.restore(first.state())
    for step in range(150, 300):
        second.update(20.0 + step, step)
    assert second.state() == whole.state()


def test_rare_latents() -> None:
    rates = FiringRates(4, 1_000_000, torch.device("cpu"))
    counts = torch.tensor([0, 1, 3, 500])
    rates.update(counts, 400_001)
    assert rates.rare() is None, "too few tokens"
    rates.update(torch.zeros(4, dtype=torch.int64), 100_000)  # ends a half
    rates.update(torch.tensor([0, 1, 0, 0]), 499_999)
    found = rates.rare()
    assert found is not None
    # of 1,000,000 tokens: the first never fired, the second twice, the third three times
    assert found.tolist() == pytest.approx([1.0, 0.8, 0.7, 0.0])
    rates.update(torch.zeros(4, dtype=torch.int64), 1)
    later = rates.rare()
    assert later is not None
    assert later.tolist() == pytest.approx([1.0, 0.8, 1.0, 1.0]), "what fired long ago is forgotten"
    again = FiringRates(4, 1_000_000, torch.device("cpu"))
    again.restore(rates.state())
    assert torch.equal(again.rare(), later)  # type: ignore[arg-type]


@pytest.mark.parametrize("ghost", [True, False])
def test_a_run_hands_its_rare_latents_to_the_penalty(ghost: bool) -> None:
    config = TrainConfig(
        model="m",
        dataset="d",
        architecture="gated",
        width=4,
        tokens=10**7,
        target_l0=2.0,
        ghost=ghost,
    )
    run = RunState(config, torch.zeros(8), 1.0, 1.0, torch.device("cpu"))
    run.rates.update(torch.tensor([0, 10**6, 0, 5]), 1_000_000)
    found = run.extra()
    assert isinstance(found, Penalty)
    assert found.weight == run.sparsity.weight_at(0) > 0
    if ghost:
        assert found.rare_F is not None
        assert found.rare_F.tolist() == pytest.approx([1.0, 0.0, 1.0, 0.5])
        assert found.ghost == 3e-6
    else:
        assert found.rare_F is None
        assert found.ghost == 0
