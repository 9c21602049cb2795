"""SAEs whose files hold something else than what is used of them: it is said, and kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mistudio.core.analysis_configs import (
    AblateConfig,
    AttributeConfig,
    FeatureLensConfig,
    OwnTextConfig,
)
from mistudio.core.comparison_configs import CompareSaesConfig, SurvivalConfig
from mistudio.core.configs import (
    EvaluateConfig,
    ExportSaeConfig,
    HarvestConfig,
    ImportSaeConfig,
    SteerConfig,
)
from mistudio.core.errors import StudioError
from mistudio.core.events import RecordingReporter
from mistudio.core.steering_spec import Feature
from mistudio.gui.tabs.training.import_preview import said_of
from mistudio.gui.tabs.training.sae_details import facts
from mistudio.gui.tabs.training.sae_forms import formats_for
from mistudio.jobs.runner import Studio
from mistudio.jobs.sae_library import read_sae
from mistudio.jobs.sae_preview import preview_sae
from mistudio.jobs.steering_cards import read_cards
from mistudio.ml.features.feature_store import FeatureStore
from mistudio.store.records import SaeRow
from mistudio.store.tables import FEATURE_SETS, SAES
from tests.helpers.studio import run, tiny_training
from tests.ml_formats.foreign_files import random, write_json

WIDTH, LATENTS, K = 32, 48, 3
UNSET = "Its threshold was never set; the k largest latents of each token stand in."


def imported(studio: Studio, folder: Path) -> tuple[SaeRow, list[str]]:
    """The SAE of a folder for the model `tiny`, and what was noted while it was imported."""
    reporter = RecordingReporter()
    config = ImportSaeConfig(path=str(folder), model="tiny")
    row = SAES.get(studio.db(), str(run(studio, "import_sae", config, reporter)["sae"]))
    return row, [str(event.values["sentence"]) for event in reporter.events if event.kind == "note"]


def without_threshold(folder: Path) -> Path:
    """A Matryoshka of dictionary_learning that was trained for a few steps."""
    W_dec = torch.nn.functional.normalize(random(LATENTS, WIDTH, seed=1), dim=1)
    state = {
        "W_enc": W_dec.T.contiguous(),
        "b_enc": torch.zeros(LATENTS),
        "W_dec": W_dec,
        "b_dec": torch.zeros(WIDTH),
        "k": torch.tensor(K, dtype=torch.int32),
        "threshold": torch.tensor(-1.0),
        "group_sizes": torch.tensor([16, 32]),
    }
    trainer = {
        "dict_class": "MatryoshkaBatchTopKSAE",
        "k": K,
        "submodule_name": "resid_post_layer_1",
    }
    write_json(folder / "config.json", {"trainer": trainer, "buffer": {"io": "out"}})
    torch.save(state, folder / "ae.pt")
    return folder


def test_a_batch_topk_without_a_threshold_keeps_k_and_says_so(
    trained: Studio, tmp_path: Path
) -> None:
    folder = without_threshold(tmp_path / "short")
    found = preview_sae(trained, str(folder))
    assert said_of(found) == UNSET
    row, notes = imported(trained, folder)
    assert (row.architecture, row.config) == ("topk", {"threshold_unset": True})
    assert UNSET in notes
    assert ["Read as", UNSET] in facts(row, "")
    measured = run(trained, "evaluate", EvaluateConfig(sae=row.id, dataset="stories", tokens=1024))
    assert 0 < measured["l0"] <= K
    out = tmp_path / "out"
    run(trained, "export_sae", ExportSaeConfig(sae=row.id, out=str(out)))
    again, notes = imported(trained, out)
    assert UNSET in notes
    assert again.config == row.config


def test_nothing_is_said_of_others(trained: Studio, tmp_path: Path) -> None:
    run(trained, "export_sae", ExportSaeConfig(out=str(tmp_path / "out")))
    assert preview_sae(trained, str(tmp_path / "out")).read_as == ""
    row, _ = imported(trained, tmp_path / "out")
    assert row.config is None
    assert "Read as" not in [name for name, _ in facts(row, "")]


CROSS = (
    "A transcoder across layers: what a latent writes into 3 layers is added up to one row, so "
    "that features are exact and no layer's output is reconstructed."
)
ADDS = "Adds here, at one layer, the sum of what the feature writes into 3 layers."


def across_layers(folder: Path) -> dict[str, torch.Tensor]:
    """Layer 1 of a transcoder across the four layers of the tiny model, and its tensors."""
    w_dec = random(LATENTS, 4, WIDTH, seed=2, scale=0.3)
    w_dec[:, 0] = 0
    tensors = {
        "w_enc": random(WIDTH, LATENTS, seed=3, scale=0.5),
        "b_enc": torch.zeros(LATENTS),
        "w_dec": w_dec,
        "b_dec": torch.zeros(WIDTH),
        "threshold": torch.full((LATENTS,), 0.5),
    }
    folder.mkdir()
    save_file(tensors, folder / "params_layer_1.safetensors")
    return tensors


@pytest.fixture
def cross(trained: Studio, tmp_path: Path) -> SaeRow:
    across_layers(tmp_path / "clt")
    return imported(trained, tmp_path / "clt")[0]


def test_a_transcoder_across_layers_says_what_it_is(trained: Studio, tmp_path: Path) -> None:
    tensors = across_layers(tmp_path / "clt")
    assert said_of(preview_sae(trained, str(tmp_path / "clt"))) == CROSS
    reporter = RecordingReporter()
    config = ImportSaeConfig(path=str(tmp_path / "clt"), model="tiny", measure=True)
    result = run(trained, "import_sae", config, reporter)
    assert "next" not in result, "there is nothing that it could be measured on"
    assert CROSS in [event.values.get("sentence") for event in reporter.events]
    row = SAES.get(trained.db(), str(result["sae"]))
    assert (row.encoder_type, row.architecture) == ("transcoder", "jumprelu")
    assert (row.layer, row.hook_in, row.hook_out) == (1, "mlp_in", "mlp_out")
    assert row.config == {"cross_layer": True, "output_layers": 3}
    assert ["Read as", CROSS] in facts(row, "")
    assert formats_for(row) == ["saelens"]
    summed = tensors["w_dec"].double().sum(1)
    kept = read_sae(trained, row).W_dec_FO.double()
    torch.testing.assert_close(kept, summed / summed.norm(dim=1, keepdim=True), rtol=0, atol=1e-6)
    run(trained, "export_sae", ExportSaeConfig(sae=row.id, out=str(tmp_path / "out")))
    again, notes = imported(trained, tmp_path / "out")
    assert again.config == row.config
    assert CROSS in notes


def test_its_features_are_found_and_steer(trained: Studio, cross: SaeRow) -> None:
    harvest = HarvestConfig(sae=cross.id, dataset="stories", rows=32, context=32)
    stored = run(trained, "harvest", harvest)
    found = FEATURE_SETS.get(trained.db(), str(stored["feature_set"]))
    assert (found.n_live or 0) > 5
    fit = (found.summary or {})["fit"]
    assert (fit["ev"], fit["warning"]) == (None, "")
    store = FeatureStore(trained.paths.absolute(found.path or ""))
    strongest = int(store.statistics["max"].argmax())
    lens = run(trained, "feature_lens", FeatureLensConfig(sae=cross.id, feature=strongest))
    assert len(lens["positive"]) == 20
    text = "Once upon a time there was a fox."
    assert run(trained, "own_text", OwnTextConfig(sae=cross.id, text=text))["fired"] > 0
    reporter = RecordingReporter()
    steer = SteerConfig(
        sae=cross.id, feature=(f"{strongest}=9",), prompt="Once", unit="raw", max_tokens=4
    )
    assert run(trained, "steer", steer, reporter)["acted"] > 0
    assert f"{cross.name}: {ADDS}" in [event.values.get("sentence") for event in reporter.events]
    (own,) = (row for row in SAES.select(trained.db()) if row.origin == "trained")
    cards = read_cards(trained, [Feature(strongest, cross.id), Feature(2, own.id)])
    assert [card.added for card in cards] == [ADDS, ""]


def test_what_a_sum_over_layers_has_no_meaning_for(
    trained: Studio, cross: SaeRow, tmp_path: Path
) -> None:
    sae, other, out = cross.id, imported(trained, tmp_path / "clt")[0].id, str(tmp_path / "ct")
    asked = {
        "evaluate": EvaluateConfig(sae=sae, dataset="stories"),
        "compare_saes": CompareSaesConfig(sae=sae, other=other, dataset="stories"),
        "survival": SurvivalConfig(sae=sae, dataset="stories", format="bf16"),
        "train": tiny_training(
            init_from=sae, encoder="transcoder", architecture="jumprelu", width=LATENTS
        ),
        "ablate": AblateConfig(sae=sae, feature=0),
        "attribute": AttributeConfig(sae=sae, text="Once upon a time"),
        "export_sae": ExportSaeConfig(sae=sae, format="circuit_tracer", out=out),
        "steer": SteerConfig(sae=sae, replace=True, prompt="Once", max_tokens=4),
    }
    for kind, config in asked.items():
        with pytest.raises(StudioError, match="with the sum of all it writes, so that") as error:
            run(trained, kind, config)
        assert error.value.code == "cross_layer", kind
    assert not Path(out).exists()
