"""An SAE on attention heads that are wider than the stream goes the whole way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

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
from mistudio.core.model_configs import ExtractConfig, ImportModelConfig
from mistudio.core.run_configs import WriteSaeConfig
from mistudio.core.steering_study_configs import ControlsConfig
from mistudio.core.sweep_configs import SweepConfig
from mistudio.core.vector_configs import ExportVectorsConfig, ImportVectorsConfig
from mistudio.jobs import vector_library
from mistudio.jobs.extraction_plan import plan_extraction
from mistudio.jobs.runner import Studio
from mistudio.jobs.sae_library import read_sae
from mistudio.jobs.training_plan import plan_training
from mistudio.store.hook_width import hook_width
from mistudio.store.tables import MODELS, SAES, STEERING_VECTORS
from tests.helpers.studio import run, tiny_training
from tests.helpers.tiny import save_tiny_llama

WIDE = 64  # four heads of 16, where the stream is 32 wide


@pytest.fixture
def heads(trained: Studio, tmp_path: Path) -> Studio:
    """The trained studio with a model "wide"."""
    folder = save_tiny_llama(tmp_path / "wide", head_dim=16, seed=3)
    run(trained, "import_model", ImportModelConfig(path=str(folder), name="wide"))
    return trained


def test_widths_are_measured_or_those_of_the_configuration(heads: Studio) -> None:
    model = MODELS.named(heads.db(), "wide")
    hidden = model.hidden_dim
    assert hidden != WIDE
    assert hook_width(model, "attn_z") == WIDE
    assert {hook_width(model, hook) for hook in ("resid_post", "attn_out", "mlp_in", None)} == {
        hidden
    }
    known = {k: v for k, v in (model.layer_map or {}).items() if k != "widths"}
    MODELS.update(heads.db(), model.id, layer_map=known)
    older = MODELS.named(heads.db(), "wide")
    assert (hook_width(older, "attn_z"), hook_width(older, "mlp_out")) == (WIDE, hidden)
    asked = ExtractConfig("wide", "stories", "0,1", ("resid_post", "attn_z"), rows=10)
    planned = plan_extraction(heads, asked)
    one = plan_extraction(heads, ExtractConfig("wide", "stories", "0,1", ("attn_z",), rows=10))
    assert planned.bytes - one.bytes == planned.tokens * 2 * 2 * (hidden or 0)
    on_heads, on_stream = (
        plan_training(heads, [tiny_training(model="wide", hook=hook)])
        for hook in ("attn_z", "resid_post")
    )
    assert on_heads.window == on_stream.window * WIDE // (hidden or 1)


def test_the_whole_way(heads: Studio, tmp_path: Path) -> None:
    training = tiny_training(model="wide", hook="attn_z", name="on heads", architecture="topk")
    found = run(heads, "train", training)
    row = SAES.get(heads.db(), str(found["sae"]))
    assert (row.layer, row.hook_in, row.d_in, row.d_out) == (1, "attn_z", WIDE, WIDE)
    measured = run(heads, "evaluate", EvaluateConfig(sae=row.id, tokens=1024))
    assert measured["ev"] > 0.3
    assert measured["ce_loss_score"] is not None
    harvested = run(heads, "harvest", HarvestConfig(sae=row.id, rows=64, context=32))
    assert harvested["live_features"] > 0
    lens = run(heads, "feature_lens", FeatureLensConfig(sae=row.id, feature=0))
    assert len(lens["positive"]) == 20
    text = "Chapter 3. Once upon a time"
    read = run(heads, "own_text", OwnTextConfig(sae=row.id, text=text, effects="every"))
    assert read["no_effects"] == ""
    assert read["fired"] > 0
    why = run(heads, "attribute", AttributeConfig(sae=row.id, text=text))
    assert (why["no_direct"], why["no_first_order"]) == ("", "")
    fired = why["features"][0]["feature"]
    steered = run(
        heads,
        "steer",
        SteerConfig(sae=row.id, prompt=text, feature=(f"{fired}=6:clamp",), unit="raw",
                    max_tokens=8),
    )  # fmt: skip
    assert steered["acted"] > 0
    tested = run(heads, "steer_controls", ControlsConfig(run=steered["run"], max_tokens=8))
    assert tested["measures"]
    ablated = run(heads, "ablate", AblateConfig(sae=row.id, feature=fired, controls=2, windows=4))
    assert ablated["windows"]
    early = run(heads, "write_sae", WriteSaeConfig("on heads", step=20, name="early"))
    assert SAES.get(heads.db(), str(early["sae"])).hook_in == "attn_z"
    for name in ("saelens", "dictionary_learning"):
        folder = tmp_path / name
        run(heads, "export_sae", ExportSaeConfig(sae=row.id, format=name, out=str(folder)))
        back = run(heads, "import_sae", ImportSaeConfig(path=str(folder), model="wide"))
        assert (back["layer"], back["hook"]) == (1, "attn_z"), name
        again = read_sae(heads, SAES.get(heads.db(), str(back["sae"])))
        assert again.d_in == WIDE
    with pytest.raises(StudioError, match="read what a module gives"):
        run(heads, "export_sae",
            ExportSaeConfig(sae=row.id, format="sparsify", out=str(tmp_path / "sp")))  # fmt: skip
    tuned = tiny_training(model="wide", hook="attn_z", init_from=row.id)
    assert run(heads, "train", tuned)["sae"]
    with pytest.raises(StudioError, match=r"gives .* at resid_post"):
        run(heads, "train", tiny_training(model="wide", init_from=row.id))


def test_one_pass_serves_heads_and_stream(heads: Studio) -> None:
    settings = to_dict(tiny_training(model="wide", tokens=1280))
    sweep = SweepConfig(**{**settings, "hooks": ("attn_z", "resid_post"), "layers": "0,1"})
    run(heads, "sweep", sweep)
    places = {
        (row.layer, row.hook_in, row.d_in) for row in SAES.select(heads.db(), "model_name = 'wide'")
    }
    hidden = MODELS.named(heads.db(), "wide").hidden_dim
    assert places == {(layer, hook, width) for layer in (0, 1)
                      for hook, width in (("attn_z", WIDE), ("resid_post", hidden))}  # fmt: skip


def test_an_sae_of_the_streams_width_does_not_fit_the_heads(heads: Studio, tmp_path: Path) -> None:
    row = SAES.select(heads.db())[0]
    out = str(tmp_path / "out")
    run(heads, "export_sae", ExportSaeConfig(sae=row.id, out=out))
    with pytest.raises(StudioError, match=f"the model has {WIDE}"):
        run(heads, "import_sae", ImportSaeConfig(path=out, model="wide", layer=1, hook="attn_z"))


def test_vectors_of_heads_go_out_and_come_back(heads: Studio, tmp_path: Path) -> None:
    model = MODELS.named(heads.db(), "wide")
    hidden = model.hidden_dim or 0
    places = {"attn_z": np.arange(1.0, 1 + WIDE), "attn_out": np.arange(1.0, 1 + hidden)}
    for hook, v_D in places.items():
        new = vector_library.NewVector(v_D, hook, 1, hook, {})
        vector_library.add(heads, model, [new], "import")
    for chosen in (("attn_z",), ("attn_out", "attn_z")):
        out = tmp_path / f"{len(chosen)}.safetensors"
        asked = ExportVectorsConfig(vectors=chosen, format="safetensors", out=str(out))
        run(heads, "export_vectors", asked)
        back = run(heads, "import_vectors", ImportVectorsConfig(path=str(out), model="wide"))
        rows = [STEERING_VECTORS.get(heads.db(), one) for one in back["vectors"]]
        assert {(row.layer, row.hook, row.width) for row in rows} == {
            (1, hook, places[hook].size) for hook in chosen
        }
    elsewhere = ImportVectorsConfig(str(tmp_path / "1.safetensors"), "wide", hook="attn_out")
    with pytest.raises(StudioError, match=f"the stream of wide is {hidden} wide"):
        run(heads, "import_vectors", elsewhere)
    file = tmp_path / "neuronpedia.json"
    file.write_text(json.dumps({"vector": [1.0] * WIDE, "hookName": "blocks.0.attn.hook_z"}))
    back = run(heads, "import_vectors", ImportVectorsConfig(path=str(file), model="wide"))
    row = STEERING_VECTORS.get(heads.db(), back["vectors"][0])
    assert (row.layer, row.hook) == (0, "attn_z")
