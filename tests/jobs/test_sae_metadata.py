"""What the files of SAEs tell other programs, in the library and when they are exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mistudio.core.configs import SAE_HOOKS, ExportSaeConfig, ImportSaeConfig
from mistudio.core.model_configs import ImportActivationsConfig
from mistudio.core.run_configs import WriteSaeConfig
from mistudio.jobs import harvest_source, lookup, sae_metadata
from mistudio.jobs.runner import Studio
from mistudio.jobs.sae_library import read_sae
from mistudio.ml.formats.saelens import write_saelens
from mistudio.ml.formats.sparsify import write_sparsify
from mistudio.ml.hooks import place_metadata
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.store.records import SaeRow
from mistudio.store.tables import DATASETS, MODELS, SAES, TOKENIZATIONS
from tests.helpers.studio import run, tiny_training

D, M = 32, 64


def made(architecture: str = "standard") -> SparseAutoencoder:
    generator = torch.Generator().manual_seed(1)
    W_dec = torch.nn.functional.normalize(torch.randn(M, D, generator=generator), dim=1)
    bias = torch.zeros(M), torch.zeros(D)
    k = 4 if architecture == "topk" else None
    return SparseAutoencoder(W_dec.T.contiguous(), bias[0], W_dec, bias[1], architecture, k=k)


def imported(studio: Studio, path: Path, **place: Any) -> SaeRow:
    found = run(studio, "import_sae", ImportSaeConfig(path=str(path), measure=False, **place))
    return SAES.get(studio.db(), str(found["sae"]))


def exported(studio: Studio, row: SaeRow, out: Path) -> dict[str, Any]:
    """The metadata of the SAELens folder that an SAE becomes."""
    run(studio, "export_sae", ExportSaeConfig(sae=row.id, out=str(out)))
    return json.loads((out / "cfg.json").read_text())["metadata"]


def test_a_trained_sae_tells_all_that_its_text_can_be_made_again_by(trained: Studio) -> None:
    told = read_sae(trained, lookup.sae(trained, "last")).metadata
    text = TOKENIZATIONS.select(trained.db())[0].statistics or {}
    wanted = {
        "model_name": "tiny",
        "model_class_name": "AutoModelForCausalLM",
        "hook_name": "model.layers.1",
        "hf_hook_name": "model.layers.1",
        "tl_hook_name": "blocks.1.hook_resid_post",
        "tl_processing": "none",
        "context_size": 32,
        "prepend_bos": text["row_start_id"] is not None,
        "sequence_separator_token": "eos",
        "dataset_path": "stories",
        "seqpos_slice": [None],
        "model_from_pretrained_kwargs": {},
        "training_architecture": "batch_topk",
    }
    assert {name: told.get(name) for name in wanted} == wanted
    assert text["separator_id"] == text["eos_id"] is not None


def test_the_sae_of_a_checkpoint_tells_the_same(trained: Studio) -> None:
    own = read_sae(trained, lookup.sae(trained, "last")).metadata
    result = run(trained, "write_sae", WriteSaeConfig("last", step=20))
    told = read_sae(trained, SAES.get(trained.db(), str(result["sae"]))).metadata
    for unlike in ("trained_steps", "trained_tokens"):
        own, told = ({n: v for n, v in d.items() if n != unlike} for d in (own, told))
    assert told == own


def test_a_row_that_does_not_tell_the_modules_has_its_model_loaded(trained: Studio) -> None:
    row = MODELS.named(trained.db(), "tiny")
    MODELS.update(trained.db(), row.id, layer_map={"tokenizer": "x"})
    result = run(trained, "write_sae", WriteSaeConfig("last", step=20))
    told = read_sae(trained, SAES.get(trained.db(), str(result["sae"]))).metadata
    assert told["hook_name"] == told["hf_hook_name"] == "model.layers.1"
    MODELS.update(trained.db(), row.id, status="error")
    result = run(trained, "write_sae", WriteSaeConfig("last", step=40))
    told = read_sae(trained, SAES.get(trained.db(), str(result["sae"]))).metadata
    assert told["hook_name"] == told["tl_hook_name"] == "blocks.1.hook_resid_post"
    assert told["context_size"] == 32
    assert "model_class_name" not in told


def test_the_models_row_knows_the_same_places_as_the_model(trained: Studio) -> None:
    row = MODELS.named(trained.db(), "tiny")
    loaded = trained.models.get(row, trained.paths.absolute(row.path))
    for layer in (0, 3):
        for hook in SAE_HOOKS:
            assert sae_metadata.place_names(row, layer, hook) == place_metadata(loaded, layer, hook)
        two = (layer, "mlp_in", "mlp_out")
        assert sae_metadata.place_names(row, *two) == place_metadata(loaded, *two)
    assert sae_metadata.place_names(row, 1, "mlp_in")["hook_name"] == "model.layers.1.mlp.input"
    gone = sae_metadata.place_names(None, 1, "mlp_out")
    assert (gone["hook_name"], gone.get("hf_hook_name")) == ("blocks.1.hook_mlp_out", None)


def test_repositories_are_named_and_found_again(trained: Studio, tmp_path: Path) -> None:
    db, row = trained.db(), lookup.sae(trained, "last")
    model, text = MODELS.named(db, "tiny"), TOKENIZATIONS.select(db)[0]
    MODELS.update(db, model.id, repo_id="owner/Tiny-1M", name="my own")
    DATASETS.update(db, text.dataset_id, repo_id="owner/stories")
    told = exported(trained, row, tmp_path / "out")  # whose files are of before
    assert (told["model_name"], told["dataset_path"]) == ("owner/Tiny-1M", "owner/stories")
    again = imported(trained, tmp_path / "out")
    assert (again.model_id, again.model_name) == (model.id, "my own")
    told = exported(trained, again, tmp_path / "again")
    assert told["model_name"] == "owner/Tiny-1M"
    run(
        trained,
        "export_sae",
        ExportSaeConfig(sae=row.id, format="dictionary_learning", out=str(tmp_path / "dl")),
    )
    config = json.loads((tmp_path / "dl" / "config.json").read_text())
    assert config["trainer"]["lm_name"] == "owner/Tiny-1M"
    assert imported(trained, tmp_path / "dl").model_id == model.id
    result = run(trained, "write_sae", WriteSaeConfig("last", step=20))
    kept = read_sae(trained, SAES.get(db, str(result["sae"]))).metadata
    assert (kept["model_name"], kept["dataset_path"]) == ("owner/Tiny-1M", "owner/stories")


def test_what_an_older_version_left_out_is_exported(trained: Studio, tmp_path: Path) -> None:
    row = lookup.sae(trained, "last")
    file = trained.paths.absolute(row.path) / "cfg.json"
    config = json.loads(file.read_text())
    new = ("context_size", "prepend_bos", "model_class_name", "tl_processing", "hf_hook_name")
    before = {name: config["metadata"].pop(name) for name in new}
    file.write_text(json.dumps(config))
    told = exported(trained, row, tmp_path / "out")
    assert {name: told[name] for name in new} == before


def test_an_sae_of_sparsify_is_named_as_saelens_looks_for_it(
    trained: Studio, tmp_path: Path
) -> None:
    write_sparsify(tmp_path / "in", made("topk"), {"layer": 1, "hook": "resid_post"})
    row = imported(trained, tmp_path / "in", model="tiny")
    assert read_sae(trained, row).metadata["hook_name"] == "layers.1"
    told = exported(trained, row, tmp_path / "out")
    assert told["hook_name"] == told["hf_hook_name"] == "model.layers.1"
    assert told["tl_hook_name"] == "blocks.1.hook_resid_post"
    assert (told["model_name"], told["model_class_name"]) == ("tiny", "AutoModelForCausalLM")
    assert (told["layer"], told["hook"]) == (1, "resid_post")
    for unknown in ("context_size", "prepend_bos", "tl_processing"):
        assert unknown not in told
    moved = imported(trained, tmp_path / "in", model="tiny", layer=2, hook="mlp_out")
    told = exported(trained, moved, tmp_path / "moved")
    assert (told["hook_name"], told["layer"], told["hook"]) == ("model.layers.2.mlp", 2, "mlp_out")


THEIRS = {
    "sae_lens_version": "6.54.12",
    "model_name": "tiny-of-theirs",
    "model_class_name": "HookedTransformer",
    "hook_name": "blocks.2.hook_resid_pre",
    "hook_head_index": None,
    "context_size": 77,
    "prepend_bos": True,
    "dataset_path": "a/b",
    "sequence_separator_token": "sep",
    "seqpos_slice": [1, None],
    "model_from_pretrained_kwargs": {"center_writing_weights": False},
    "training_architecture": "standard",
    "note": {"of": ["theirs"]},
}


@pytest.mark.parametrize("named", [True, False])
def test_what_a_file_of_saelens_tells_is_kept(trained: Studio, tmp_path: Path, named: bool) -> None:
    write_saelens(tmp_path / "in", made(), THEIRS)
    row = imported(trained, tmp_path / "in", model="tiny" if named else "")
    assert (row.layer, row.hook_in, row.model_id is not None) == (1, "resid_post", named)
    told = exported(trained, row, tmp_path / "out")
    assert {name: told[name] for name in THEIRS} == THEIRS
    added = {"tl_hook_name": "blocks.1.hook_resid_post", "layer": 1, "hook": "resid_post"}
    added |= {"hf_hook_name": "model.layers.1"} if named else {}
    assert {name: value for name, value in told.items() if name not in THEIRS} == added


def test_a_place_that_was_named_takes_the_place_of_the_files(
    trained: Studio, tmp_path: Path
) -> None:
    write_saelens(tmp_path / "in", made(), THEIRS)
    row = imported(trained, tmp_path / "in", model="tiny", layer=3, hook="attn_out")
    told = exported(trained, row, tmp_path / "out")
    assert told["hook_name"] == told["hf_hook_name"] == "model.layers.3.self_attn"
    assert told["tl_hook_name"] == "blocks.3.hook_attn_out"
    assert (told["model_name"], told["model_class_name"]) == ("tiny", "AutoModelForCausalLM")
    assert (told["context_size"], told["note"]) == (77, THEIRS["note"])


@pytest.mark.parametrize("layer", [-1, 2])
def test_vectors_tell_where_they_are_from_or_nothing_of_it(
    trained: Studio, tmp_path: Path, layer: int
) -> None:
    x = np.random.default_rng(0).normal(size=(3000, D)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    place = {"layer": layer, "hook": "mlp_out", "model": "tiny"} if layer >= 0 else {}
    run(
        trained,
        "import_activations",
        ImportActivationsConfig(str(tmp_path / "x.npy"), "vectors", **place),  # type: ignore[arg-type]
    )
    config = tiny_training(
        model="", dataset="", activations="vectors", architecture="topk", tokens=2560, name="v",
        layer=max(0, layer), hook="mlp_out" if layer >= 0 else "resid_post",
    )  # fmt: skip
    own = SAES.get(trained.db(), str(run(trained, "train", config)["sae"]))
    result = run(trained, "write_sae", WriteSaeConfig("v", step=20))
    made = SAES.get(trained.db(), str(result["sae"]))
    for row in (own, made):
        told = read_sae(trained, row).metadata
        assert told["dataset_path"] == "vectors"
        if layer < 0:
            assert (row.layer, row.hook_in, row.model_id) == (None, None, None)
            assert told["hook_name"] == "vectors"
            assert "layer" not in told
        else:
            assert (row.layer, row.hook_in, row.model_name) == (2, "mlp_out", "tiny")
            assert told["hook_name"] == "model.layers.2.mlp"
            assert told["model_name"] == "tiny"


def test_the_name_of_a_models_repository_is_no_other_models(trained: Studio) -> None:
    row, model = lookup.sae(trained, "last"), MODELS.named(trained.db(), "tiny")
    MODELS.update(trained.db(), model.id, repo_id="owner/Tiny-1M")
    model = MODELS.get(trained.db(), model.id)
    for name, doubts in (("owner/Tiny-1M", 0), ("tiny", 0), ("owner/other", 1)):
        SAES.update(trained.db(), row.id, origin="imported", model_name=name)
        told = harvest_source.doubts(SAES.get(trained.db(), row.id), model, None)
        assert len(told) == doubts, name
