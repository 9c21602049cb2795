"""The survival report as a job and as a command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mistudio.cli import main
from mistudio.core.comparison_configs import SurvivalConfig
from mistudio.core.errors import InvalidInput, StudioError
from mistudio.core.model_configs import ImportModelConfig
from mistudio.jobs import lookup
from mistudio.jobs.runner import Studio
from mistudio.store.tables import JOBS, SAES
from tests.helpers.studio import run
from tests.helpers.tiny import save_tiny_llama


def test_int8_against_the_format_of_the_training(trained: Studio) -> None:
    found = run(trained, "survival", SurvivalConfig(format="int8", tokens=2048, min_firings=3))
    row = lookup.sae(trained, "last")
    assert (found["reference"], found["format"], found["file"]) == (
        "fp32",
        "int8",
        "survival-int8.json",
    )
    assert 0 < found["distance"] < 0.1
    high, low = found["survive"]
    assert 0 < high["share"] <= low["share"] <= 1
    kept = json.loads((trained.paths.absolute(row.path) / found["file"]).read_text("utf-8"))
    per_feature = kept.pop("per_feature")
    assert kept.items() <= found.items()
    assert len(per_feature["correlation"]) == row.n_latents
    assert list(trained.paths.tmp.iterdir()) == []
    assert JOBS.select(trained.db(), "kind = 'survival'")[0].title == "Survival report"


def test_the_same_network_as_another_model_of_the_library(trained: Studio, tmp_path: Path) -> None:
    copy = save_tiny_llama(tmp_path / "copy")
    run(trained, "import_model", ImportModelConfig(path=str(copy), name="copy"))
    found = run(trained, "survival", SurvivalConfig(other="copy", tokens=2048, min_firings=3))
    assert [line["share"] for line in found["survive"]] == [1, 1]
    assert (found["distance"], found["format"]) == (0, "fp32")
    assert found["file"] == f"survival-fp32-{found['other']}.json"
    narrow = save_tiny_llama(tmp_path / "narrow", hidden_size=64)
    run(trained, "import_model", ImportModelConfig(path=str(narrow), name="narrow"))
    with pytest.raises(StudioError, match="same network in another format"):
        trained.submit("survival", SurvivalConfig(other="narrow"))


def test_what_cannot_be_judged_is_a_sentence(trained: Studio) -> None:
    with pytest.raises(InvalidInput, match="Name the format to judge"):
        trained.submit("survival", SurvivalConfig())
    row = lookup.sae(trained, "last")
    SAES.update(trained.db(), row.id, training_id=None)
    with pytest.raises(StudioError, match="Choose a dataset"):
        trained.submit("survival", SurvivalConfig(format="int8"))
    SAES.update(trained.db(), row.id, model_id=None)
    with pytest.raises(StudioError, match=r"is not in the library\. Import"):
        trained.submit("survival", SurvivalConfig(format="int8"))


def test_the_command(trained: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    home = ["--home", str(trained.paths.home)]
    trained.close()
    asked = ["sae", "survival", "last", "--format", "nf4", "--tokens", "1024", *home]
    assert main([*asked, "--min-firings", "2"]) == 0
    said = capsys.readouterr().out
    assert "NF4 against FP32 on " in said
    assert "Features whose correlation is at least 0.9" in said
    assert "Explained variance in NF4" in said
    assert main([*asked, "--min-firings", "100000"]) != 0
    assert "No feature fires 100,000 times" in capsys.readouterr().err
