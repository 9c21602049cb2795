"""The full lens of a feature: against NumPy, against what the feature set keeps, kept itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mistudio.core.analysis_configs import FeatureLensConfig
from mistudio.core.errors import NotFound
from mistudio.jobs import feature_lens, feature_pages, lookup, sae_library
from mistudio.jobs.runner import Studio
from tests.helpers.studio import run


def _logits(studio: Studio, feature: int) -> np.ndarray:
    """Decoder row times unembedding, by itself."""
    sae = lookup.sae(studio, "last")
    model = lookup.model_of(studio, sae)
    loaded = studio.models.get(model, studio.paths.absolute(model.path))
    weight_VD = loaded.blocks.unembedding.weight.detach().double().numpy()  # type: ignore[union-attr]
    row_D = sae_library.read_sae(studio, sae).W_dec_FO[feature].double().numpy()
    return weight_VD @ row_D


def test_the_raw_lens_is_the_product_and_z_its_standard_score(trained: Studio) -> None:
    expected_V = _logits(trained, 3)
    found: dict[str, Any] = run(trained, "feature_lens", FeatureLensConfig(feature=3, raw=True))
    order = np.argsort(-expected_V, kind="stable")
    logits = np.array([line[1] for line in found["positive"]])
    assert len(logits) == 20
    assert np.allclose(logits, expected_V[order[:20]], rtol=1e-4, atol=1e-5)
    lowest = np.array([line[1] for line in found["negative"]])
    assert np.allclose(lowest, np.sort(expected_V)[:20], rtol=1e-4, atol=1e-5)
    z_V = (expected_V - expected_V.mean()) / expected_V.std()
    assert np.allclose([line[2] for line in found["positive"]], z_V[order[:20]], atol=1e-4)
    assert found["skew"] == pytest.approx((z_V**3).mean(), abs=1e-4)
    assert found["kurtosis"] == pytest.approx((z_V**4).mean(), abs=1e-3)
    assert sum(found["counts"]) == expected_V.size
    assert (found["edges"][0], found["edges"][-1]) == pytest.approx(
        (expected_V.min(), expected_V.max()), abs=1e-5
    )
    assert "raw" in feature_lens.lines(found)[0]


def test_past_the_norm_it_is_what_the_feature_set_keeps(trained: Studio) -> None:
    sae = lookup.sae(trained, "last")
    store = feature_pages.open_store(trained, feature_pages.feature_set(trained, sae))
    kept = store.lens(3)
    assert kept is not None
    found: dict[str, Any] = run(trained, "feature_lens", FeatureLensConfig(feature=3))
    for side, stored in (("positive", kept.positive), ("negative", kept.negative)):
        assert [line[0] for line in found[side][: len(stored)]] == [t.text for t in stored]
        logits = [line[1] for line in found[side][: len(stored)]]
        assert np.allclose(logits, [t.weight for t in stored], atol=1e-4)
    assert found["skew"] == pytest.approx(kept.skew, abs=1e-3)
    assert found["mean"] == pytest.approx(0.0, abs=1e-5)


def test_a_lens_is_computed_once(trained: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    config = FeatureLensConfig(feature=5, raw=True)
    first = run(trained, "feature_lens", config)
    monkeypatch.setattr(sae_library, "read_sae", None)  # it would be needed to compute again
    assert run(trained, "feature_lens", config)["positive"] == first["positive"]
    with pytest.raises(NotFound):
        run(trained, "feature_lens", FeatureLensConfig(feature=100_000))
