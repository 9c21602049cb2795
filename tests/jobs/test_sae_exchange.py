"""SAEs come into the library from other programs' files and leave it as such."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mistudio.core.configs import EvaluateConfig, ExportSaeConfig, ImportSaeConfig
from mistudio.core.errors import StudioError
from mistudio.core.events import RecordingReporter
from mistudio.jobs import lookup
from mistudio.jobs.runner import Studio
from mistudio.jobs.sae_library import read_sae
from mistudio.store.tables import SAES
from tests.helpers.studio import run


def test_an_sae_goes_to_dictionary_learning_and_comes_back(trained: Studio, tmp_path: Path) -> None:
    out = tmp_path / "dl"
    made = run(trained, "export_sae", ExportSaeConfig(format="dictionary_learning", out=str(out)))
    assert made["format"] == "dictionary_learning"
    first = lookup.sae(trained, "last")
    result = run(trained, "import_sae", ImportSaeConfig(path=str(out), name="back"))
    assert result["format"] == "dictionary_learning"
    row = SAES.get(trained.db(), str(result["sae"]))
    assert (row.layer, row.hook_in, row.source_format) == (1, "resid_post", "dictionary_learning")
    assert row.model_id == first.model_id
    figures = run(trained, "evaluate", EvaluateConfig(sae=row.id, dataset="stories", tokens=1024))
    assert figures["ev"] == pytest.approx((first.evaluation or {})["ev"], abs=1e-5)
    kept = read_sae(trained, row).metadata
    assert kept["source_config"]["trainer"]["dict_class"] == "JumpReluAutoEncoder"


def edit(folder: Path, **trainer: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "trainer": {**config["trainer"], **trainer}}))


def test_the_layer_is_read_from_the_submodule(trained: Studio, tmp_path: Path) -> None:
    out = tmp_path / "dl"
    run(trained, "export_sae", ExportSaeConfig(format="dictionary_learning", out=str(out)))
    edit(out, layer=3, submodule_name="resid_pre_layer_3")
    result = run(trained, "import_sae", ImportSaeConfig(path=str(out)))
    assert (result["layer"], result["hook"]) == (2, "resid_post")
    edit(out, layer=0, submodule_name="resid_pre_layer_0")
    with pytest.raises(StudioError, match="resid_pre of block 0"):
        run(trained, "import_sae", ImportSaeConfig(path=str(out)))


def test_an_sae_that_does_not_say_where_it_reads_is_kept_with_a_warning(
    trained: Studio, tmp_path: Path
) -> None:
    out = tmp_path / "dl"
    run(trained, "export_sae", ExportSaeConfig(format="dictionary_learning", out=str(out)))
    edit(out, submodule_name=None, layer=1)
    reporter = RecordingReporter()
    result = run(trained, "import_sae", ImportSaeConfig(path=str(out)), reporter)
    assert (result["layer"], result["hook"]) == (None, None)
    assert any("naming both" in str(event.values) for event in reporter.events)
    named = ImportSaeConfig(path=str(out), layer=1, hook="resid_post")
    result = run(trained, "import_sae", named)
    assert (result["layer"], result["hook"]) == (1, "resid_post")


def test_what_is_refused_leaves_neither_row_nor_files(trained: Studio, tmp_path: Path) -> None:
    rows = len(SAES.select(trained.db()))
    files = sorted(trained.paths.home.rglob("*.safetensors"))
    (tmp_path / "bad").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad" / "config.json").write_text('{"trainer": {"dict_class": "IdentityDict"}}')
    torch.save({}, tmp_path / "bad" / "ae.pt")
    for path, words in (("bad", "IdentityDict"), ("empty", "holds no SAE")):
        with pytest.raises(StudioError, match=words):
            run(trained, "import_sae", ImportSaeConfig(path=str(tmp_path / path)))
    assert len(SAES.select(trained.db())) == rows
    assert sorted(trained.paths.home.rglob("*.safetensors")) == files
