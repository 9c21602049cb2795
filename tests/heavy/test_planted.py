"""Every architecture finds a planted dictionary, by hand: `pytest -m heavy tests/heavy`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mistudio.core.training_rules import DENSE_FAMILY
from tests.helpers.planted import Planted, learn

pytestmark = pytest.mark.heavy

CASES = [
    ("topk", {}),
    ("batch_topk", {}),
    ("matryoshka_batch_topk", {}),
    ("standard", {}),
    ("gated", {}),
    ("jumprelu", {"jumprelu_penalty": "tanh"}),
    ("jumprelu", {"jumprelu_penalty": "step"}),
    ("jumprelu", {"jumprelu_penalty": "quadratic"}),
]


@pytest.mark.parametrize(("architecture", "settings"), CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_planted_dictionary_is_found(
    architecture: str, settings: dict[str, Any], seed: int, tmp_path: Path
) -> None:
    planted = Planted(128, 64, 4.0, seed=seed)
    options = {"batch": 256, "learning_rate": 3e-3, "seed": seed, **settings}
    sae = learn(planted, architecture, 2500, tmp_path, **options)
    _holds(planted, sae, architecture, settings, 4.0)


def _holds(
    planted: Planted, sae: Any, architecture: str, settings: dict[str, Any], active: float
) -> None:
    found, dead, l0 = planted.recovered(sae), planted.dead(sae), planted.l0(sae)
    assert found >= 0.95
    assert dead <= 0.01
    if architecture != "topk":  # at most k, fewer where fewer are positive
        near = 0.1 if architecture in DENSE_FAMILY else 0.02
        if settings.get("jumprelu_penalty") == "quadratic":  # its weight is not steered
            near = 0.25
        assert l0 == pytest.approx(active, rel=near)
