"""A temporal SAE goes the whole way; what needs single tokens says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mistudio.core.analysis_configs import (
    AblateConfig,
    AbsorptionConfig,
    AttributeConfig,
    FeatureLensConfig,
    OwnTextConfig,
)
from mistudio.core.comparison_configs import SurvivalConfig
from mistudio.core.configs import (
    EvaluateConfig,
    ExportSaeConfig,
    HarvestConfig,
    ImportSaeConfig,
    SteerConfig,
)
from mistudio.core.errors import StudioError
from mistudio.core.model_configs import ImportModelConfig
from mistudio.core.steering_study_configs import ControlsConfig
from mistudio.jobs.runner import Studio
from mistudio.ml.features.feature_store import KEPT, FeatureStore
from mistudio.ml.hooks import first_tensor
from mistudio.store.records import SaeRow
from mistudio.store.tables import FEATURE_SETS, SAES
from tests.helpers.studio import run, tiny_training
from tests.helpers.tiny import save_tiny_llama, tiny_loaded
from tests.ml_formats.foreign_files import K, temporal_by_hand, temporal_parts, written_temporal

TEXT = "Once upon a time there was a fox."
PARTS = temporal_parts(width=32)


@pytest.fixture
def temporal(trained: Studio, tmp_path: Path) -> SaeRow:
    """A temporal SAE in the library of the trained studio, which stands beside it."""
    described = {"sae_lens_version": "6.54.12", "hook_name": "blocks.1.hook_resid_post"}
    folder = written_temporal(tmp_path / "in", PARTS, d_in=32, metadata=described)
    found = run(trained, "import_sae", ImportSaeConfig(path=str(folder), model="tiny"))
    assert (found["architecture"], found["layer"]) == ("temporal", 1)
    return SAES.get(trained.db(), str(found["sae"]))


def test_the_whole_way(trained: Studio, temporal: SaeRow, tmp_path: Path) -> None:
    sae = temporal.id
    measured = run(trained, "evaluate", EvaluateConfig(sae=sae, dataset="stories", tokens=1024))
    assert 0 < measured["l0"] <= K
    assert measured["ce_loss_score"] is not None
    harvest = HarvestConfig(sae=sae, dataset="stories", rows=32, context=32)
    stored = run(trained, "harvest", harvest)
    features = FEATURE_SETS.get(trained.db(), str(stored["feature_set"]))
    assert (features.n_live or 0) > 5
    store = FeatureStore(trained.paths.absolute(features.path))
    model = tiny_loaded(tmp_path / "model")
    seen: list[torch.Tensor] = []
    handle = model.blocks.modules[1].register_forward_hook(
        lambda _module, _inputs, output: seen.append(first_tensor(output))
    )
    ids = np.stack([store.token_row(row) for row in range(8)]).astype(np.int64)
    with torch.inference_mode():
        model.model(input_ids=torch.from_numpy(ids))
    handle.remove()
    f, _ = temporal_by_hand(seen[0].double() - PARTS["b_dec"].double(), PARTS, k=K)
    keep = np.stack([store.mask_row(row) for row in range(8)]) == KEPT
    f = (f * torch.from_numpy(keep)[..., None]).flatten(0, 1).numpy()
    strongest = np.argsort(-f.max(0))[:10]
    assert f[:, strongest].max() > 0
    for feature in strongest.tolist():
        tokens, values = store.entries(feature)
        here = tokens < len(f)
        row = np.zeros(len(f))
        row[tokens[here]] = values[here]
        # a store keeps values in 16 bits
        np.testing.assert_allclose(row, f[:, feature], atol=2e-3 * f[:, feature].max())
    lens = run(trained, "feature_lens", FeatureLensConfig(sae=sae, feature=0))
    assert len(lens["positive"]) == 20
    read = run(trained, "own_text", OwnTextConfig(sae=sae, text=TEXT, effects="every"))
    assert read["fired"] > 0
    why = run(trained, "attribute", AttributeConfig(sae=sae, text=TEXT))
    fired = int(why["features"][0]["feature"])
    ablated = run(trained, "ablate", AblateConfig(sae=sae, feature=fired, controls=2, windows=4))
    assert ablated["windows"]
    steer = SteerConfig(sae=sae, feature=(f"{fired}=6",), prompt=TEXT, unit="raw", max_tokens=8)
    steered = run(trained, "steer", steer)
    assert steered["acted"] > 0
    controls = run(trained, "steer_controls", ControlsConfig(run=steered["run"], max_tokens=8))
    assert controls["measures"]
    same = run(trained, "survival", SurvivalConfig(
        sae=sae, dataset="stories", other=copied(trained, tmp_path), tokens=1024, min_firings=2
    ))  # fmt: skip
    assert same["distance"] == 0
    assert [line["share"] for line in same["survive"]] == [1, 1]
    assert same["metrics"]["ev"]["a"] == same["metrics"]["ev"]["b"]
    words = ("fox", "dog", "cat", "hen")
    asked = AbsorptionConfig(
        sae=sae,
        feature=2,
        positive=tuple(f"Once upon a {word}" for word in words),
        negative=tuple(f"There was a {word}" for word in words),
    )
    with pytest.raises(StudioError, match="single tokens cannot be read"):
        run(trained, "absorption", asked)
    run(trained, "export_sae", ExportSaeConfig(sae=sae, out=str(tmp_path / "again")))
    config = json.loads((tmp_path / "again" / "cfg.json").read_text())
    assert (config["architecture"], config["kval_topk"]) == ("temporal", K)


def copied(studio: Studio, folder: Path) -> str:
    """The name of the same network as another model of the library."""
    copy = save_tiny_llama(folder / "copy")
    run(studio, "import_model", ImportModelConfig(path=str(copy), name="copy"))
    return "copy"


def test_what_needs_single_tokens_says_so(
    trained: Studio, temporal: SaeRow, tmp_path: Path
) -> None:
    sae = temporal.id
    clamp = SteerConfig(sae=sae, feature=("2=30:clamp",), prompt="Once", unit="raw", max_tokens=4)
    with pytest.raises(StudioError, match="cannot be read while a text is written; add them"):
        run(trained, "steer", clamp)
    with pytest.raises(StudioError, match="no training here that a temporal SAE fits"):
        run(trained, "train", tiny_training(init_from=sae))
