"""Training finds the features that activations were made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mistudio.core.training_configs import DENSE_FAMILY
from tests.helpers.planted import Planted, learn


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [("batch_topk", {}), ("gated", {}), ("jumprelu", {"jumprelu_penalty": "tanh"})],
)
def test_planted_directions_are_recovered(
    architecture: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    planted = Planted(64, 32, 3.0)
    sae = learn(planted, architecture, 500, tmp_path, batch=256, learning_rate=5e-3, **settings)
    assert planted.recovered(sae) >= 0.95
    assert planted.unused(sae) <= 0.01
    near = 0.25 if architecture in DENSE_FAMILY else 0.02  # a penalty needs more than 500 steps
    assert planted.l0(sae) == pytest.approx(3.0, rel=near)


def test_what_was_not_learnt_is_not_recovered(tmp_path: Path) -> None:
    planted = Planted(64, 32, 3.0)
    sae = learn(planted, "batch_topk", 5, tmp_path, batch=256)
    assert planted.recovered(sae) < 0.1
    rare = Planted(64, 32, 3.0)
    rare.rate_F = rare.rate_F * (torch.arange(64) < 40)  # 24 features never fire
    sae = learn(rare, "batch_topk", 500, tmp_path / "rare", batch=256, learning_rate=5e-3, k=2)
    assert rare.recovered(sae) < 0.8
