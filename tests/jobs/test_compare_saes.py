"""Evaluating and comparing SAEs as jobs and as commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mistudio.cli import main
from mistudio.core.comparison_configs import CompareSaesConfig
from mistudio.core.configs import (
    EvaluateConfig,
    ExportSaeConfig,
    HarvestConfig,
    ImportSaeConfig,
)
from mistudio.core.errors import StudioError
from mistudio.core.sae_figures import FIGURES
from mistudio.jobs import feature_matches, feature_pages, lookup
from mistudio.jobs.runner import Studio
from mistudio.store.tables import JOBS, SAES
from tests.helpers.studio import run, tiny_training


@pytest.fixture
def pair(trained: Studio) -> tuple[str, str]:
    """The trained SAE and another of the same hook, trained shorter."""
    first = lookup.sae(trained, "last").id
    result = run(trained, "train", tiny_training(seed=1, tokens=1280, name="short"))
    return first, str(result["sae"])


def test_every_figure_is_kept_with_the_sae(trained: Studio) -> None:
    result = run(trained, "evaluate", EvaluateConfig(tokens=2048))
    row = lookup.sae(trained, "last")
    kept = row.evaluation or {}
    missing = [
        figure.key for figure in FIGURES if not isinstance(kept.get(figure.key), (int, float))
    ]
    assert missing == []
    assert result["ev"] == kept["ev"]
    file = trained.paths.absolute(row.path) / "evaluation.json"
    assert json.loads(file.read_text("utf-8")) == kept
    assert kept["dead_bound"] == 3 / kept["n"]
    assert kept["documents"] > kept["ce_documents"] > 1 or kept["ce_n"] < kept["n"]
    for name in ("ev", "ev_legacy", "l0", "ce_loss_score", "ce_gap", "kl_div_score", "kl_div"):
        low, high = kept["intervals"][name]
        assert low <= kept[name] <= high, name


def test_two_saes_on_the_same_documents(trained: Studio, pair: tuple[str, str]) -> None:
    first, second = pair
    found = run(trained, "compare_saes", CompareSaesConfig(sae=first, other=second, tokens=2048))
    assert (found["a"]["id"], found["b"]["name"]) == (first, "short")
    alone = run(trained, "evaluate", EvaluateConfig(sae=first, tokens=2048))
    assert found["metrics"]["l0"]["a"] == pytest.approx(alone["l0"], rel=1e-6)
    assert found["metrics"]["ce_clean"]["difference"] == 0
    line = found["metrics"]["ev"]
    assert line["interval"][0] <= line["difference"] <= line["interval"][1]
    assert line["difference"] == pytest.approx(line["b"] - line["a"])
    assert found["overlap"]["latents_a"] > 0
    kept = JOBS.select(trained.db(), "kind = 'compare_saes'")[0]
    assert (kept.result or {})["metrics"]["ev"] == line
    back = run(trained, "compare_saes", CompareSaesConfig(sae=second, other=first, tokens=2048))
    assert back["metrics"]["ev"]["difference"] == pytest.approx(-line["difference"], abs=1e-12)
    assert back["overlap"]["pairs"] == found["overlap"]["pairs"]
    there, again = (
        feature_matches.load(trained.db(), result["matches"]) for result in (found, back)
    )
    assert there["read"] == "sample"
    assert there["tokens"] == found["n"]
    assert there["a"]["cosine_of"] == again["b"]["cosine_of"]
    assert there["a"]["correlation"] == pytest.approx(again["b"]["correlation"])
    assert sum(count > 0 for count in there["a"]["firings"]) == found["overlap"]["latents_a"]


def test_feature_sets_of_the_same_tokens_are_matched(
    trained: Studio, pair: tuple[str, str]
) -> None:
    first, second = pair
    run(trained, "harvest", HarvestConfig(sae=second, rows=64, context=32))
    config = CompareSaesConfig(sae=first, other=second, tokens=1024)
    kept = run(trained, "compare_saes", config)["matches"]
    assert kept["read"] == "stores"
    found = feature_matches.load(trained.db(), kept)
    stores = []
    for sae in pair:
        row = lookup.sae(trained, sae)
        stores.append(feature_pages.open_store(trained, feature_pages.feature_set(trained, row)))
    dense = []
    for store in stores:
        acts = np.zeros((store.n_features, store.summary["rows"] * store.row_length))
        for feature in range(store.n_features):
            tokens, values = store.entries(feature)
            acts[feature, tokens] = values
        mask = np.load(store.folder / "mask.npy").reshape(-1) == 0
        dense.append(acts[:, mask])
    assert found["tokens"] == dense[0].shape[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.corrcoef(dense[0], dense[1])[:64, 64:]
    for feature, row in enumerate(r):
        if np.isfinite(row).any():
            assert found["a"]["correlation"][feature] == pytest.approx(np.nanmax(row), abs=2e-6)
            assert found["a"]["correlation_of"][feature] == np.nanargmax(row)
        else:
            assert found["a"]["correlation_of"][feature] == -1
    run(trained, "harvest", HarvestConfig(sae=second, rows=63, context=32))
    assert run(trained, "compare_saes", config)["matches"]["read"] == "sample"


def test_what_cannot_be_compared_is_a_sentence(trained: Studio, tmp_path: Path) -> None:
    first = lookup.sae(trained, "last")
    with pytest.raises(StudioError, match="two different SAEs"):
        trained.submit("compare_saes", CompareSaesConfig(sae=first.id, other=first.id))
    with pytest.raises(StudioError, match="two different SAEs"):
        trained.submit("compare_saes", CompareSaesConfig(sae=first.id, other="last"))
    out = tmp_path / "out"
    run(trained, "export_sae", ExportSaeConfig(out=str(out)))
    other = str(run(trained, "import_sae", ImportSaeConfig(path=str(out), layer=2))["sae"])
    with pytest.raises(StudioError, match=r"reads layer 1 resid_post, .* layer 2 resid_post"):
        trained.submit("compare_saes", CompareSaesConfig(sae=first.id, other=other))
    SAES.update(trained.db(), other, layer=1, model_id=None)
    with pytest.raises(StudioError, match="compare SAEs of the same model"):
        trained.submit("compare_saes", CompareSaesConfig(sae=first.id, other=other))
    third = str(run(trained, "import_sae", ImportSaeConfig(path=str(out)))["sae"])
    found = run(trained, "compare_saes", CompareSaesConfig(sae=third, other=first.id, tokens=1024))
    assert found["metrics"]["ev"]["difference"] == 0  # the text is that of the one that has one
    SAES.update(trained.db(), first.id, training_id=None)
    with pytest.raises(StudioError, match="Choose a dataset"):
        trained.submit("compare_saes", CompareSaesConfig(sae=third, other=first.id))


def test_the_commands(
    trained: Studio, pair: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    home = ["--home", str(trained.paths.home)]
    trained.close()
    assert main(["sae", "eval", pair[0], "--tokens", "1024", "--json", *home]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["event"] == "result"
    assert {"ev", "ev_zero", "fve_centred", "intervals", "density_histogram"} <= result.keys()
    assert main(["sae", "compare", *pair, "--tokens", "1024", "--json", *home]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["metrics"]["ev"]["interval"][0] < result["metrics"]["ev"]["interval"][1]
    out = trained.paths.home / "m.csv"
    words = ["sae", "compare", *pair, "--tokens", "1024", "--matches", str(out)]
    assert main([*words, *home]) == 0
    said = capsys.readouterr().out
    assert "B is short" in said
    assert any(line.startswith("Explained variance  ") for line in said.splitlines())
    assert "pairs are each other's nearest" in said
    assert "matched pairs among" in said
    assert out.read_text("utf-8").startswith("kind,a,b,cosine,correlation,matched_by,")
    assert main(["sae", "eval", pair[0], "--tokens", "1024", *home]) == 0
    assert "held-out documents" in capsys.readouterr().out
    assert main(["sae", "compare", pair[0], pair[0], *home]) == 2
    assert "Name two different SAEs." in capsys.readouterr().err
