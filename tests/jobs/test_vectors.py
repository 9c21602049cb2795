"""Raw directions from the command line: made, kept, taken from files, written for others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mistudio import cli
from mistudio.core.errors import InvalidInput, StudioError
from mistudio.core.vector_configs import (
    ContrastConfig,
    ExportVectorsConfig,
    FeatureMeanConfig,
    ImportVectorsConfig,
)
from mistudio.jobs import feature_pages, lookup, sae_library, vector_library
from mistudio.jobs.runner import Studio
from mistudio.ml.steering import feature_means
from mistudio.store.tables import STEERING_VECTORS
from tests.helpers.studio import run
from tests.helpers.tiny import STORIES

POSITIVE = tuple(STORIES[:13])
NEGATIVE = tuple(STORIES[40:53])


def held_model(studio: Studio) -> Any:
    row = lookup.model(studio, "tiny")
    return studio.models.get(row, studio.paths.absolute(row.path))


def test_a_contrast_is_kept_with_all_that_is_known_of_it(trained: Studio) -> None:
    config = ContrastConfig(model="tiny", layer=1, positive=POSITIVE, negative=NEGATIVE)
    result = run(trained, "contrast_vector", config)
    (row,) = STEERING_VECTORS.select(trained.db())
    assert (row.id, row.layer, row.hook, row.method) == (
        result["vector"], 1, "resid_post", "mean"
    )  # fmt: skip
    v = vector_library.read(trained, row)
    loaded = held_model(trained)
    last = {}
    for name, prompts in (("p", POSITIVE), ("n", NEGATIVE)):
        found = []
        for prompt in prompts:
            ids = torch.tensor([loaded.tokenizer(prompt)["input_ids"]])
            with torch.no_grad():
                states = loaded.model(input_ids=ids, output_hidden_states=True).hidden_states
            found.append(states[2][0, -1].double().numpy())
        last[name] = np.stack(found)
    expected = last["p"].mean(0) - last["n"].mean(0)
    np.testing.assert_allclose(v, expected, rtol=1e-3, atol=1e-5)
    assert row.norm == pytest.approx(np.linalg.norm(expected), rel=1e-4)
    pairs = [a @ expected > b @ expected for a in last["p"] for b in last["n"]]
    assert row.report is not None
    assert row.report["auroc"] == pytest.approx(np.mean(pairs), abs=1e-3)
    assert row.report["held_out"] == [3, 3]
    with safe_open(trained.paths.absolute(row.path), "np") as opened:
        told = opened.metadata()
    assert told["model_hash"] == row.model_hash == loaded.facts.fingerprint
    assert (told["layer"], told["hook"], told["method"]) == ("1", "resid_post", "mean")
    assert len(told["prompts_sha256"]) == 64
    sae = lookup.sae(trained, "last")
    W_dec = sae_library.read_sae(trained, sae).W_dec_FO.double().numpy()
    cosine = W_dec @ expected / np.linalg.norm(W_dec, axis=1) / np.linalg.norm(expected)
    near = row.report["nearest"]
    assert [one["feature"] for one in near] == np.argsort(-cosine)[:5].tolist()
    assert near[0]["cosine"] == pytest.approx(cosine.max(), abs=1e-4)


def test_a_features_mean_equals_brute_force(
    trained: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae = lookup.sae(trained, "last")
    store = feature_pages.open_store(trained, feature_pages.feature_set(trained, sae))
    feature = int(np.argmax(store.statistics["count"]))
    result = run(trained, "feature_mean", FeatureMeanConfig(feature=feature))
    loaded = held_model(trained)
    weights = sae_library.read_sae(trained, sae)
    active, rest, project = [], [], []
    for row in range(store.n_rows):
        ids = torch.from_numpy(np.array(store.token_row(row))).long()[None]
        with torch.no_grad():
            x = loaded.model(input_ids=ids, output_hidden_states=True).hidden_states[2][0]
        fires = weights.encode(x)[:, feature] > 0
        for place, kept in enumerate(store.mask_row(row) == 0):
            if kept:
                (active if fires[place] else rest).append(x[place].double().numpy())
    expected = np.mean(active, 0) - np.mean(rest, 0)
    assert (result["active"], result["rest"]) == (len(active), len(rest))
    assert result["whole_text"] is True
    row = STEERING_VECTORS.get(trained.db(), result["vector"])
    np.testing.assert_allclose(vector_library.read(trained, row), expected, rtol=1e-3, atol=1e-5)
    assert (row.sae_id, row.feature_index, row.layer) == (sae.id, feature, sae.layer)
    project = [np.array(part) @ expected for part in (active, rest)]
    higher = (project[0][:, None] > project[1][None]).mean()
    assert result["auroc"] == pytest.approx(higher, abs=1e-3)
    assert result["held_out"][0] > 0
    monkeypatch.setattr(feature_means, "PLAIN_ROWS", store.n_rows)  # so that every row is read
    other = int(np.argsort(store.statistics["count"])[-2])
    many = feature_means.feature_means(loaded, 1, "resid_post", store, [other, feature])
    np.testing.assert_allclose(many[feature].numpy(), expected, rtol=1e-3, atol=1e-5)
    assert not np.allclose(many[other].numpy(), expected, rtol=1e-3)
    part = run(trained, "feature_mean", FeatureMeanConfig(feature=feature, tokens=512))
    assert part["whole_text"] is False
    assert part["rows"] <= 16
    assert 0 < part["active"] < len(active)
    some = vector_library.read(trained, STEERING_VECTORS.get(trained.db(), part["vector"]))
    assert some @ expected / np.linalg.norm(some) / np.linalg.norm(expected) > 0.8
    with pytest.raises(StudioError, match="does not exist"):
        run(trained, "feature_mean", FeatureMeanConfig(feature=64))


def test_a_file_makes_one_row_per_layer_or_none(trained: Studio, tmp_path: Path) -> None:
    path = tmp_path / "two.safetensors"
    save_file({"direction.1": torch.ones(32), "direction.3": torch.ones(32) * 2}, path)
    told = run(trained, "import_vectors", ImportVectorsConfig(path=str(path), model="tiny"))
    assert told["layers"] == [1, 3]
    rows = vector_library.find(trained, "two")
    assert [(row.layer, row.method, row.name) for row in rows] == [
        (1, "import", "two"),
        (3, "import", "two"),
    ]
    with pytest.raises(InvalidInput, match="2 layers"):
        vector_library.find_one(trained, "two")
    files = sorted((trained.paths.home / "vectors").iterdir())
    for tensors, said in (
        ({"direction.1": torch.ones(32), "direction.9": torch.ones(32)}, "layers 0 to 3"),
        ({"direction.1": torch.ones(30)}, "30 numbers, but the stream of tiny is 32 wide"),
        ({"warm": torch.ones(32)}, "does not say which layer"),
        ({"direction.1": torch.ones(32) * torch.nan}, "not finite"),
        ({"direction.1": torch.ones(32, dtype=torch.int32)}, "int32"),
    ):
        save_file(tensors, path)
        with pytest.raises(StudioError, match=said):
            run(trained, "import_vectors", ImportVectorsConfig(path=str(path), model="tiny"))
    assert sorted((trained.paths.home / "vectors").iterdir()) == files
    assert len(STEERING_VECTORS.select(trained.db())) == 2


def test_a_broken_database_leaves_no_file(trained: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(STEERING_VECTORS, "insert", broken)
    new = vector_library.NewVector(np.ones(32), "x", 1, "resid_post", {})
    with pytest.raises(RuntimeError):
        vector_library.add(trained, lookup.model(trained, "tiny"), [new], "import")
    assert not list((trained.paths.home / "vectors").iterdir())


def test_exports_sum_vectors_and_features(trained: Studio, tmp_path: Path) -> None:
    model = lookup.model(trained, "tiny")
    news = [
        vector_library.NewVector(np.full(32, float(layer)), "pair", layer, "resid_post", {})
        for layer in (1, 2)
    ]
    vector_library.add(trained, model, news, "import")
    sae = lookup.sae(trained, "last")
    W_dec = sae_library.read_sae(trained, sae).W_dec_FO.numpy()
    config = ExportVectorsConfig(
        vectors=("pair=0.5",),
        sae=sae.id,
        feature=("3=2", "5=-1.5"),
        out=str(tmp_path / "blend"),
    )
    told = run(trained, "export_vectors", config)
    assert told["path"] == str(tmp_path / "blend.gguf")
    reader = gguf.GGUFReader(told["path"])
    assert reader.fields["controlvector.model_hint"].contents() == "llama"
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    assert list(found) == ["direction.1", "direction.2"]
    expected = 0.5 + 2.0 * W_dec[3] - 1.5 * W_dec[5]
    np.testing.assert_allclose(found["direction.1"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["direction.2"], 1.0)
    plain = ExportVectorsConfig(vectors=("pair",), format="safetensors")
    told = run(trained, "export_vectors", plain)
    assert Path(told["path"]).parent == trained.paths.exports
    again = ImportVectorsConfig(path=told["path"], model="tiny", name="again")
    run(trained, "import_vectors", again)
    copies = vector_library.find(trained, "again")
    assert [row.layer for row in copies] == [1, 2]
    np.testing.assert_array_equal(vector_library.read(trained, copies[1]), np.full(32, 2.0))


def test_what_a_control_vector_cannot_hold_is_refused(trained: Studio, tmp_path: Path) -> None:
    model = lookup.model(trained, "tiny")
    for name, layer, hook in (("first", 0, "resid_post"), ("attention", 2, "attn_out")):
        new = vector_library.NewVector(np.ones(32), name, layer, hook, {})
        vector_library.add(trained, model, [new], "import")
    out = str(tmp_path / "x.gguf")
    for config, said in (
        (ExportVectorsConfig(vectors=("first",), out=out), "at layer 0"),
        (ExportVectorsConfig(vectors=("attention",), out=out), "attn_out of layer 2"),
        (ExportVectorsConfig(sae="last", feature=("3=1:clamp",), out=out), "only adds: clamp"),
        (ExportVectorsConfig(sae="last", feature=("99=1",), out=out), "does not exist"),
        (ExportVectorsConfig(vectors=("nothing",), out=out), "There is no vector 'nothing'"),
        (ExportVectorsConfig(out=out), "at least one"),
    ):
        with pytest.raises(StudioError, match=said):
            run(trained, "export_vectors", config)
    assert not Path(out).exists()


def test_the_command_line(trained: Studio, tmp_path: Path, capsys: Any) -> None:
    home = str(trained.paths.home)
    trained.close()
    for name, prompts in (("p", POSITIVE), ("n", NEGATIVE)):
        (tmp_path / name).write_text("\n\n".join(prompts), encoding="utf-8")

    def shell(*words: str, status: int = 0) -> dict[str, Any]:
        assert cli.main(["vectors", *words, "--json", "--home", home]) == status
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    lists = ("--positive", str(tmp_path / "p"), "--negative", str(tmp_path / "n"))
    made = shell(
        "contrast", "--model", "tiny", "--layer", "2", *lists, "--method", "pca-centred",
        "--name", "warm",
    )  # fmt: skip
    assert made["positive"] == 13
    assert 0 < made["explained"] <= 1
    assert made["norm"] == pytest.approx(1, abs=1e-6)
    shell("rename", "warm", "warmer")
    shell("note", "warmer", "of stories")
    (listed,) = shell("list")["vectors"]
    assert (listed["name"], listed["notes"], listed["layer"]) == ("warmer", "of stories", 2)
    assert shell("show", "warmer")["method"] == "pca-centred"
    out = str(tmp_path / "w.gguf")
    assert shell("export", "warmer=3", "--format", "gguf", "--out", out)["directions"] == [
        "direction.2"
    ]
    assert shell("import", out, "--model", "tiny")["layers"] == [2]
    assert "--yes" in shell("delete", "warmer", status=2)["message"]
    shell("delete", "warmer", "w", "--yes")
    assert shell("list")["vectors"] == []
    assert not list((Path(home) / "vectors").iterdir())
    both = ("--positive", str(tmp_path / "p"), "--negative", str(tmp_path / "p"))
    said = shell("contrast", "--model", "tiny", *both, status=2)["message"]
    assert "is in both lists" in said
