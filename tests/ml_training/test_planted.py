"""Training finds the features that activations were made of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mistudio.core.training_rules import DENSE_FAMILY
from tests.helpers.planted import Planted, learn


@pytest.mark.parametrize(
    ("architecture", "steps"), [("batch_topk", 400), ("gated", 700), ("jumprelu", 700)]
)
def test_planted_directions_are_recovered(architecture: str, steps: int, tmp_path: Path) -> None:
    planted = Planted(96, 64, 3.0)
    sae = learn(planted, architecture, steps, tmp_path, batch=256, learning_rate=5e-3)
    assert planted.recovered(sae) >= 0.95
    assert planted.dead(sae) <= 0.01
    near = 0.2 if architecture in DENSE_FAMILY else 0.02  # 0.1 after a few thousand steps
    assert planted.l0(sae) == pytest.approx(3.0, rel=near)


def test_what_was_not_learnt_is_not_recovered(tmp_path: Path) -> None:
    planted = Planted(96, 64, 3.0)
    sae = learn(planted, "batch_topk", 5, tmp_path, batch=256)
    assert planted.recovered(sae) < 0.1
    rare = Planted(96, 64, 3.0)
    rare.rate_F = rare.rate_F * (torch.arange(96) < 60)  # 36 features never fire
    sae = learn(rare, "batch_topk", 400, tmp_path / "rare", batch=256, learning_rate=5e-3)
    assert rare.recovered(sae) < 0.7
