"""Every architecture finds a planted dictionary, by hand: `pytest -m heavy tests/heavy`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mistudio.core.training_configs import DENSE_FAMILY
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
def test_a_small_dictionary(
    architecture: str, settings: dict[str, Any], seed: int, tmp_path: Path
) -> None:
    planted = Planted(128, 64, 4.0, seed=seed)
    options = {"batch": 256, "learning_rate": 3e-3, "seed": seed, **settings}
    sae = learn(planted, architecture, 2000, tmp_path, **options)
    _holds(planted, sae, architecture, 4.0)


@pytest.mark.parametrize(("architecture", "settings"), CASES)
def test_a_large_dictionary_with_the_default_rate(
    architecture: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    """A thousand features in 256 dimensions, twelve at a time, from 1.3 million tokens."""
    planted = Planted(1024, 256, 12.0)
    sae = learn(planted, architecture, 2500, tmp_path, batch=512, **settings)
    _holds(planted, sae, architecture, 12.0)


def _holds(planted: Planted, sae: Any, architecture: str, active: float) -> None:
    assert planted.recovered(sae) >= 0.95
    assert planted.unused(sae) <= 0.01
    if architecture != "topk":  # at most k, fewer where fewer are positive
        near = 0.1 if architecture in DENSE_FAMILY else 0.02
        assert planted.l0(sae) == pytest.approx(active, rel=near)
