"""The map of features against a singular value decomposition of the centred unit directions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mistudio.ml.features import direction_map as module
from mistudio.ml.features.direction_map import direction_map


def test_the_map_is_that_of_a_singular_value_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 7)
    W_dec_FO = torch.randn(40, 9, generator=torch.Generator().manual_seed(1)) * 3
    W_dec_FO[:, 2] *= 4
    kept_F = np.ones(40, bool)
    kept_F[[3, 17]] = False
    found = direction_map(W_dec_FO, kept_F)
    unit = W_dec_FO.numpy().astype(np.float64)[kept_F]
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    centred = unit - unit.mean(0)
    u, s, v = np.linalg.svd(centred, full_matrices=False)
    expected = u[:, :2] * s[:2]
    for axis in range(2):
        sign = np.sign(v[axis][np.abs(v[axis]).argmax()])
        assert found.places_F2[kept_F, axis] == pytest.approx(sign * expected[:, axis], abs=1e-9)
    assert found.shares_2 == pytest.approx((s**2 / (s**2).sum())[:2])
    assert np.isnan(found.places_F2[[3, 17]]).all()


def test_one_feature_has_a_place_and_no_variance() -> None:
    found = direction_map(torch.ones(3, 4), np.array([False, True, False]))
    assert found.places_F2[1].tolist() == [0.0, 0.0]
    assert found.shares_2.tolist() == [0.0, 0.0]
