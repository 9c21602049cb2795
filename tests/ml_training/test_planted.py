"""Training finds the features that activations were made of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mistudio.core.training_rules import DENSE_FAMILY
from tests.helpers.planted import Planted, PlantedMap, learn


@pytest.mark.parametrize(
    ("architecture", "steps"), [("batch_topk", 400), ("gated", 700), ("jumprelu", 700)]
)
def test_planted_directions_are_recovered(architecture: str, steps: int, tmp_path: Path) -> None:
    planted = Planted(96, 64, 3.0)
    result = learn(planted, architecture, steps, tmp_path, batch=256, learning_rate=5e-3)
    assert result.sae is not None
    assert planted.recovered(result.sae) >= 0.95
    assert planted.dead(result) <= 0.01
    near = 0.2 if architecture in DENSE_FAMILY else 0.02  # 0.1 after a few thousand steps
    assert planted.l0(result.sae) == pytest.approx(3.0, rel=near)


def test_what_a_transcoder_is_to_write_is_recovered(tmp_path: Path) -> None:
    planted = PlantedMap(96, 64, 48, 3.0)
    options = {"encoder": "transcoder", "learning_rate": 5e-3}
    result = learn(planted, "batch_topk", 700, tmp_path, batch=256, **options)
    assert result.sae is not None
    assert planted.recovered(result.sae) >= 0.95
    assert planted.dead(result) <= 0.05  # 0.01 after twice as many steps
    assert planted.l0(result.sae) == pytest.approx(3.0, rel=0.02)


def test_what_was_not_learnt_is_not_recovered(tmp_path: Path) -> None:
    planted = Planted(96, 64, 3.0)
    result = learn(planted, "batch_topk", 5, tmp_path, batch=256)
    assert result.sae is not None
    assert planted.recovered(result.sae) < 0.1
    rare = Planted(96, 64, 3.0)
    rare.rate_F = rare.rate_F * (torch.arange(96) < 60)  # 36 features never fire
    result = learn(rare, "batch_topk", 400, tmp_path / "rare", batch=256, learning_rate=5e-3)
    assert result.sae is not None
    assert rare.recovered(result.sae) < 0.7
