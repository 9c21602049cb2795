"""A feature set as a delphi cache, and a delphi cache as a feature set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mistudio.core.errors import StudioError
from mistudio.core.feature_export_configs import ExportFeaturesConfig, ImportCacheConfig
from mistudio.jobs import feature_pages, lookup
from mistudio.jobs.runner import Studio
from mistudio.ml.data.given_rows import decode_row
from mistudio.ml.features.feature_store import PADDING
from mistudio.ml.formats import delphi
from mistudio.store.tables import DATASETS, FEATURE_SETS, TOKENIZATIONS
from tests.helpers.studio import run

PLACE = "layers.1"


def _store(studio: Studio) -> Any:
    sae = lookup.sae(studio, "last")
    return feature_pages.open_store(studio, feature_pages.feature_set(studio, sae))


def _export(studio: Studio, out: Path, **values: Any) -> dict[str, Any]:
    config = ExportFeaturesConfig(format="delphi", which="all", out=str(out), **values)
    return run(studio, "export_features", config)


def test_a_cache_holds_every_activation_in_delphis_order(trained: Studio, tmp_path: Path) -> None:
    store = _store(trained)
    told = _export(trained, tmp_path / "cache")
    place = tmp_path / "cache" / PLACE
    files = sorted(place.glob("*.safetensors"), key=lambda f: int(f.stem.split("_")[0]))
    assert len(files) == delphi.LEAST_SPLITS
    rows, length = store.summary["rows"], store.row_length
    dense = np.zeros((rows, length, store.n_features))
    before = -1
    for file in files:
        first, last = (int(part) for part in file.stem.split("_"))
        assert first == before + 1
        before = last
        found = load_file(file)
        where = found["locations"].astype(np.int64)
        assert found["locations"].dtype == np.uint16
        assert found["activations"].dtype == np.float16
        # as a list of the places of a dense array's entries: row by row
        keys = (where[:, 0] * length + where[:, 1]) * store.n_features + where[:, 2]
        assert (np.diff(keys) > 0).all()
        assert where[:, 2].max(initial=0) <= last - first
        dense[where[:, 0], where[:, 1], where[:, 2] + first] = found["activations"]
        assert found["tokens"].tolist() == [store.token_row(r).tolist() for r in range(rows)]
    assert before == store.n_features - 1
    for feature in range(store.n_features):
        tokens, values = store.entries(feature)
        mine = dense[:, :, feature].reshape(-1)
        assert np.flatnonzero(mine).tolist() == tokens.tolist()
        assert np.allclose(mine[tokens], values, rtol=1e-3)
    config = json.loads((place / "config.json").read_text("utf-8"))
    assert (config["ctx_len"], config["n_tokens"]) == (length, rows * length)
    assert config["model_name"] == "tiny"
    assert told["entries"] == np.count_nonzero(dense)


def test_only_the_chosen_features_are_written(trained: Studio, tmp_path: Path) -> None:
    store = _store(trained)
    live = np.flatnonzero(store.statistics["count"])[:3].tolist()
    _export(trained, tmp_path / "some", features=",".join(map(str, live)))
    cache = delphi.open_cache(tmp_path / "some")
    _, features, _ = cache.rows(0, len(cache.tokens_RS))
    assert set(features.tolist()) == set(live)


def test_a_cache_comes_back_as_the_same_feature_set(trained: Studio, tmp_path: Path) -> None:
    before = _store(trained)
    _export(trained, tmp_path / "cache")
    told = run(trained, "import_cache", ImportCacheConfig(path=str(tmp_path / "cache")))
    assert told["agreement"]["share"] > 0.99
    assert told["labelled"] > 0
    after = _store(trained)
    assert after.folder != before.folder
    kept = before.kept_tokens
    assert after.kept_tokens == kept
    for feature in range(before.n_features):
        tokens_a, values_a = before.entries(feature)
        tokens_b, values_b = after.entries(feature)
        assert tokens_a.tolist() == tokens_b.tolist()
        assert np.allclose(values_a, values_b, rtol=1e-3)
        texts = [
            [e.text for e in s.examples(feature, 3, before=4, after=4)] for s in (before, after)
        ]
        # documents that share a row are one text now, without the separator's place between them
        assert [t.strip() for t in texts[0]] == [t.strip() for t in texts[1]]
    dataset = DATASETS.get(trained.db(), told["dataset"])
    assert dataset.name == f"delphi {PLACE}"
    page = feature_pages.page(trained, lookup.sae(trained, "last"), int(tokens_a.size > 0))
    assert page.feature_set_id == told["feature_set"]


def test_a_cache_of_another_sae_is_doubted(trained: Studio, tmp_path: Path) -> None:
    _export(trained, tmp_path / "cache")
    for file in (tmp_path / "cache" / PLACE).glob("*.safetensors"):
        found = load_file(file)
        where = found["locations"]
        where[:, 2] = where[:, 2].max(initial=0) - where[:, 2]  # each feature is another one
        save_file(found, file)
    told = run(
        trained, "import_cache", ImportCacheConfig(path=str(tmp_path / "cache"), labels=False)
    )
    assert told["agreement"]["share"] < 0.5
    warning = FEATURE_SETS.get(trained.db(), told["feature_set"]).summary["fit"]["warning"]
    assert "another SAE" in warning


def test_what_does_not_belong_is_refused_and_leaves_nothing(
    trained: Studio, tmp_path: Path
) -> None:
    _export(trained, tmp_path / "cache")
    place = tmp_path / "cache" / PLACE
    first = next(iter(place.glob("0_*.safetensors")))
    whole = load_file(first)
    counts = [len(table.select(trained.db())) for table in (DATASETS, TOKENIZATIONS, FEATURE_SETS)]

    def refusal() -> str:
        with pytest.raises(StudioError) as caught:
            run(trained, "import_cache", ImportCacheConfig(path=str(tmp_path / "cache")))
        tables = (DATASETS, TOKENIZATIONS, FEATURE_SETS)
        assert [len(table.select(trained.db())) for table in tables] == counts
        return caught.value.sentence

    save_file({**whole, "activations": -whole["activations"]}, first)
    assert "negative" in refusal()
    save_file({**whole, "tokens": whole["tokens"] + 1_000_000}, first)
    assert "another vocabulary" in refusal()
    save_file({n: a for n, a in whole.items() if n != "tokens"}, first)
    assert "no tokens" in refusal()
    first.write_bytes(b"\x05")
    assert "cannot be read" in refusal()
    for file in place.glob("*.safetensors"):
        file.unlink()
    assert "no delphi cache" in refusal()
    assert sum(1 for _ in trained.paths.home.glob("datasets/*")) == counts[0]


def test_rows_are_decoded_with_the_place_of_each_token(trained: Studio) -> None:
    store = _store(trained)
    sae = lookup.sae(trained, "last")
    model = lookup.model_of(trained, sae)
    tokenizer = trained.models.get(model, trained.paths.absolute(model.path)).tokenizer
    special = frozenset(int(i) for i in tokenizer.all_special_ids)
    text = "tomatoes 👩‍👩‍👧 日本 é\n\tx"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    marker = sorted(special)[0]
    found = decode_row(tokenizer, np.array([marker, *ids, marker]), special, marker)
    assert found.text == tokenizer.decode(ids)
    assert found.mask_S[-1] == PADDING
    spans = found.spans_S2[1:-1].tolist()
    assert spans[0][0] == 0
    assert spans[-1][1] == len(found.text)
    reached = 0
    for low, high in spans:
        assert low in (reached, spans[0][0]) or low < reached == high or (low, high) in spans
        assert low <= reached <= high
        reached = max(reached, high)
    assert store.n_features
