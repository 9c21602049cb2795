"""SAEs on what enters a block, and on its stream between attention and MLP, go the whole way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mistudio.core.analysis_configs import (
    AblateConfig,
    AttributeConfig,
    FeatureLensConfig,
    OwnTextConfig,
)
from mistudio.core.config import to_dict
from mistudio.core.configs import (
    EvaluateConfig,
    ExportSaeConfig,
    HarvestConfig,
    ImportSaeConfig,
    SteerConfig,
)
from mistudio.core.errors import StudioError
from mistudio.core.steering_study_configs import ControlsConfig
from mistudio.core.sweep_configs import SweepConfig
from mistudio.jobs.runner import Studio
from mistudio.jobs.sae_library import read_sae
from mistudio.ml.features.feature_store import KEPT, FeatureStore
from mistudio.store.tables import FEATURE_SETS, SAES
from tests.helpers.studio import run, tiny_training
from tests.helpers.tiny import tiny_loaded

TEXT = "Chapter 3. Once upon a time"
PLACE = {"layer": 0, "hook": "resid_pre"}


def test_the_whole_way(trained: Studio, tmp_path: Path) -> None:
    found = run(trained, "train", tiny_training(**PLACE, name="embedded", architecture="topk"))
    row = SAES.get(trained.db(), str(found["sae"]))
    assert (row.layer, row.hook_in, row.d_in) == (0, "resid_pre", 32)
    measured = run(trained, "evaluate", EvaluateConfig(sae=row.id, tokens=1024))
    assert measured["ev"] > 0.3
    stored = run(trained, "harvest", HarvestConfig(sae=row.id, rows=32, context=32))
    features = FEATURE_SETS.get(trained.db(), str(stored["feature_set"]))
    store = FeatureStore(trained.paths.absolute(features.path))
    embedding = tiny_loaded(tmp_path / "model").model.get_input_embeddings()
    ids = torch.from_numpy(store.token_row(0).astype(np.int64))
    kept = np.asarray(store.mask_row(0)) == KEPT
    f = read_sae(trained, row).encode(embedding(ids).detach()).numpy() * kept[:, None]
    feature = int(f.max(0).argmax())
    tokens, values = store.entries(feature)
    mine = np.zeros(len(ids))
    mine[tokens[tokens < len(ids)]] = values[tokens < len(ids)]
    np.testing.assert_allclose(mine, f[:, feature], rtol=2e-3)
    lens = run(trained, "feature_lens", FeatureLensConfig(sae=row.id, feature=feature))
    assert len(lens["positive"]) == 20
    read = run(trained, "own_text", OwnTextConfig(sae=row.id, text=TEXT, effects="every"))
    assert read["fired"] > 0
    why = run(trained, "attribute", AttributeConfig(sae=row.id, text=TEXT))
    assert (why["no_direct"], why["no_first_order"]) == ("", "")
    fired = why["features"][0]["feature"]
    steer = SteerConfig(
        sae=row.id, prompt=TEXT, feature=(f"{fired}=2:clamp",), unit="raw", max_tokens=8
    )
    steered = run(trained, "steer", steer)
    assert steered["acted"] > 0
    tested = run(trained, "steer_controls", ControlsConfig(run=steered["run"], max_tokens=8))
    assert tested["measures"]
    ablated = run(trained, "ablate", AblateConfig(sae=row.id, feature=fired, windows=4))
    assert ablated["windows"]
    for name in ("saelens", "dictionary_learning"):
        folder = tmp_path / name
        run(trained, "export_sae", ExportSaeConfig(sae=row.id, format=name, out=str(folder)))
        back = run(trained, "import_sae", ImportSaeConfig(path=str(folder), model="tiny"))
        assert (back["layer"], back["hook"]) == (0, "resid_pre"), name
    refused = ExportSaeConfig(sae=row.id, format="sparsify", out=str(tmp_path / "x"))
    with pytest.raises(StudioError, match="reads what a block does"):
        run(trained, "export_sae", refused)


def test_the_stream_between_attention_and_mlp(trained: Studio, tmp_path: Path) -> None:
    training = tiny_training(hook="resid_mid", name="between", architecture="topk")
    row = SAES.get(trained.db(), str(run(trained, "train", training)["sae"]))
    assert (row.layer, row.hook_in, row.d_in) == (1, "resid_mid", 32)
    measured = run(trained, "evaluate", EvaluateConfig(sae=row.id, tokens=1024))
    assert measured["ev"] > 0.3
    assert measured["ce_loss_score"] > 0.3  # its reconstruction reached what lies behind
    assert run(trained, "harvest", HarvestConfig(sae=row.id, rows=32, context=32))["live_features"]
    why = run(trained, "attribute", AttributeConfig(sae=row.id, text=TEXT))
    assert (why["no_direct"], why["no_first_order"]) == ("", "")
    fired = why["features"][0]["feature"]
    ablated = run(trained, "ablate", AblateConfig(sae=row.id, feature=fired, windows=4))
    assert ablated["windows"]
    steer = SteerConfig(
        sae=row.id, prompt=TEXT, feature=(f"{fired}=2:clamp",), unit="raw", max_tokens=8
    )
    assert run(trained, "steer", steer)["acted"] > 0
    for name in ("saelens", "dictionary_learning"):
        folder = tmp_path / name
        run(trained, "export_sae", ExportSaeConfig(sae=row.id, format=name, out=str(folder)))
        back = run(trained, "import_sae", ImportSaeConfig(path=str(folder), model="tiny"))
        assert (back["layer"], back["hook"]) == (1, "resid_mid"), name
    pair = tiny_training(encoder="transcoder", hook_in="resid_mid", hook_out="mlp_out")
    made = SAES.get(trained.db(), str(run(trained, "train", pair)["sae"]))
    assert (made.hook_in, made.hook_out) == ("resid_mid", "mlp_out")


def test_what_enters_a_block_is_what_the_one_before_gave(trained: Studio) -> None:
    settings = to_dict(tiny_training(tokens=1280))
    sweep = SweepConfig(**{**settings, "hooks": ("resid_post", "resid_pre"), "layers": "0,1"})
    run(trained, "sweep", sweep)
    rows = {(row.layer, row.hook_in): row for row in SAES.select(trained.db(), "name LIKE '%L%'")}
    after, before = (
        read_sae(trained, rows[place]) for place in ((0, "resid_post"), (1, "resid_pre"))
    )
    assert torch.equal(after.W_dec_FO, before.W_dec_FO)
    first = read_sae(trained, rows[0, "resid_pre"])
    assert not torch.equal(after.W_dec_FO, first.W_dec_FO)
