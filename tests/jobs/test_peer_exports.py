"""Neuronpedia's and SAEDashboard's layouts, read back against the store; explanations imported."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mistudio.core.errors import Damaged, NotFound, StudioError
from mistudio.core.feature_export_configs import ExportFeaturesConfig, ImportExplanationsConfig
from mistudio.jobs import feature_pages, import_explanations, lookup, sae_library
from mistudio.jobs.row_files import read_lines
from mistudio.jobs.runner import Studio
from mistudio.ml.formats import neuronpedia_upload, row_schema
from mistudio.store import feature_export, feature_marks
from mistudio.store.records import SaeRow
from tests.helpers.studio import run

TOP, CONTEXT = 3, 6


@pytest.fixture
def trained(trained: Studio) -> Studio:
    """Without the labels that finding the features gave."""
    with trained.db().atomic():
        trained.db().execute("DELETE FROM feature_labels")
        trained.db().execute("DELETE FROM features")
    return trained


def _export(studio: Studio, out: Path, kind: str, **values: Any) -> dict[str, Any]:
    config = {"which": "all", "examples": TOP, "context": CONTEXT, "set_name": "res-x", **values}
    return run(studio, "export_features", ExportFeaturesConfig(format=kind, out=str(out), **config))


def _rows(place: Path, part: str) -> list[dict[str, Any]]:
    files = sorted((place / part).glob("batch-*.jsonl.gz"), key=lambda f: int(f.name[6:-9]))
    return [row for file in files for row in read_lines(file)]


def _store(studio: Studio) -> tuple[SaeRow, Any]:
    sae = lookup.sae(studio, "last")
    return sae, feature_pages.open_store(studio, feature_pages.feature_set(studio, sae))


def _dense(store: Any, feature: int) -> np.ndarray:
    dense = np.zeros(store.summary["rows"] * store.row_length)
    tokens, values = store.entries(feature)
    dense[tokens] = values
    return dense.reshape(-1, store.row_length)


def test_bulk_rows_come_back_as_the_store_has_them(trained: Studio, tmp_path: Path) -> None:
    sae, store = _store(trained)
    feature_marks.set_label(trained.db(), sae.id, 2, "two", "user")
    found = _export(trained, tmp_path / "np", "neuronpedia", vectors=True, creator="me")
    place = tmp_path / "np" / "tiny" / "1-res-x"
    parts = {"features", "activations", "explanations"}
    heads = {f"{name}.jsonl" for name in ("release", "model", "sourceset", "source")}
    assert {p.name for p in place.iterdir()} == parts | heads
    W_dec_FO = sae_library.read_sae(trained, sae).W_dec_FO.numpy().astype(np.float64)
    unit_FO = W_dec_FO / np.linalg.norm(W_dec_FO, axis=1, keepdims=True)
    cosine_FF = unit_FO @ unit_FO.T
    np.fill_diagonal(cosine_FF, -2)
    rows = _rows(place, "features")
    assert [row["index"] for row in rows] == [str(i) for i in range(sae.n_latents)]
    mask = np.load(store.folder / "mask.npy")
    scanned = int((mask != 2).sum())
    for index, row in enumerate(rows):
        acts = _dense(store, index)
        assert row["frac_nonzero"] == pytest.approx((acts > 0).sum() / scanned)
        assert row["maxActApprox"] == acts.max()
        assert row["vector"] == W_dec_FO[index].astype(np.float32).tolist()
        entries = W_dec_FO[index]
        order = np.argsort(-entries)[:3]
        assert row["neuron_alignment_indices"] == order.tolist()
        assert row["neuron_alignment_l1"] == pytest.approx(
            np.abs(entries[order]) / np.abs(entries).sum(), rel=1e-5
        )
        assert row["topkCosSimValues"] == pytest.approx(
            np.sort(cosine_FF[index])[::-1][:10], abs=1e-5
        )
        assert [cosine_FF[index][j] for j in row["topkCosSimIndices"]] == pytest.approx(
            row["topkCosSimValues"], abs=1e-5
        )
        assert len(row["freq_hist_data_bar_values"]) == len(row["freq_hist_data_bar_heights"])
        assert sum(row["freq_hist_data_bar_heights"]) == (acts > 0).sum()
        lens = store.lens(index)
        assert row["pos_str"] == [token.text.replace("\0", " ") for token in lens.positive[:10]]
        assert row["pos_values"] == [token.weight for token in lens.positive[:10]]
        assert row["neg_values"] == [token.weight for token in lens.negative[:10]]
        assert row["hookName"] == "blocks.1.hook_resid_post"
    assert [r["description"] for r in _rows(place, "explanations")] == ["two"]
    source = next(iter(read_lines(place / "source.jsonl")))
    assert (source["id"], source["setName"], source["creatorId"]) == ("1-res-x", "res-x", "me")
    assert found["skipped"] == sum(not store.statistics[i]["count"] for i in range(sae.n_latents))


def test_activation_rows_are_windows_of_the_corpus(trained: Studio, tmp_path: Path) -> None:
    sae, store = _store(trained)
    _export(trained, tmp_path / "np", "neuronpedia")
    rows = _rows(tmp_path / "np" / "tiny" / "1-res-x", "activations")
    assert len({row["id"] for row in rows}) == len(rows)
    assert {len(row["id"]) for row in rows} == {25}
    ids = np.load(store.folder / "ids.npy").reshape(-1, store.row_length)
    mask = np.load(store.folder / "mask.npy").reshape(ids.shape)
    for index in range(sae.n_latents):
        acts = _dense(store, index)
        mine = [row for row in rows if row["index"] == str(index)]
        top = [row for row in mine if row["binContains"] == -1]
        best = np.sort(acts.max(1))[::-1][:TOP]
        expected = [value for value in best.tolist() if value > 0]
        assert [row["values"][row["qualifyingTokenIndex"]] for row in top] == expected
        for row in mine:
            length, at = len(row["tokens"]), row["qualifyingTokenIndex"]
            assert len(row["values"]) == length <= 2 * CONTEXT + 1
            assert row["maxValue"] == max(row["values"]) == row["values"][row["maxValueTokenIndex"]]
            assert row["minValue"] == min(row["values"])
            if row["binContains"] != -1:
                assert row["binMin"] < row["values"][at] <= row["binMax"]
            starts = [
                (r, p - at)
                for r, p in np.argwhere(acts == row["values"][at])
                if p - at >= 0 and p - at + length <= store.row_length
            ]
            assert any(
                np.array_equal(acts[r, s : s + length], row["values"])
                and [store.vocabulary.text(i).replace("\0", " ") for i in ids[r, s : s + length]]
                == row["tokens"]
                and (mask[r, s : s + length] != 2).all()
                for r, s in starts
            )
        bins = {(row["binMin"], row["binMax"]): row["binContains"] for row in mine}
        bins.pop((-1.0, acts.max()), None)
        for (low, high), share in bins.items():
            inside = ((acts > low) & (acts <= high)).sum()
            zeros = store.kept_tokens - (acts > 0).sum() if low == 0 else 0
            assert share == pytest.approx((inside + zeros) / store.kept_tokens)


def test_upload_batches_obey_every_limit(trained: Studio, tmp_path: Path) -> None:
    sae, store = _store(trained)
    feature_marks.set_label(trained.db(), sae.id, 2, "x" * 600)
    found = _export(trained, tmp_path / "up", "neuronpedia_upload")
    bodies = [json.loads(f.read_text("utf-8")) for f in sorted((tmp_path / "up").iterdir())]
    seen = [feature["index"] for body in bodies for feature in body["features"]]
    live = [i for i in range(sae.n_latents) if store.statistics[i]["count"]]
    assert seen == live
    assert found["features"] == len(live)
    for body in bodies:
        assert body.keys() == {"modelId", "source", "features"}
        assert 1 <= len(body["features"]) <= 128
        for feature in body["features"]:
            assert 0 <= feature["density"] <= 1
            assert len(feature["topLogits"]) <= 20 >= len(feature["bottomLogits"])
            assert all(1 <= len(e["text"]) <= 512 for e in feature["explanations"])
            assert feature["activations"]
            for activation in feature["activations"]:
                assert 1 <= len(activation["tokens"]) == len(activation["values"]) <= 1024
    with pytest.raises(StudioError, match="is there already"):
        _export(trained, tmp_path / "up", "neuronpedia_upload")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: f.update(density=1.5),
        lambda f: f.update(index=10**7 + 1),
        lambda f: f.update(activations=[]),
        lambda f: f["activations"][0].update(tokens=["x"] * 1025, values=[0.0] * 1025),
        lambda f: f["topLogits"].extend([{"token": "x", "value": 1.0}] * 21),
        lambda f: f["explanations"].append({"text": "", "methodName": None, "modelName": None}),
        lambda f: f["activations"][0]["values"].__setitem__(0, float("nan")),
        lambda f: f["activations"][0]["tokens"].__setitem__(0, "a\0b"),
        lambda f: f.update(more=1),
    ],
)
def test_the_schema_refuses_what_breaks_a_limit(spoil: Any) -> None:
    feature: dict[str, Any] = {
        "index": 1,
        "density": 0.5,
        "topLogits": [],
        "bottomLogits": [],
        "explanations": [],
        "activations": [
            {
                "tokens": ["a", "b"],
                "values": [0.0, 1],
                "quantileMin": None,
                "quantileMax": None,
                "quantileFraction": None,
            }
        ],
    }
    body = {"modelId": "m", "source": "1-x", "features": [feature]}
    row_schema.require(neuronpedia_upload.UPLOAD, body, "body")
    spoil(feature)
    with pytest.raises(Damaged):
        row_schema.require(neuronpedia_upload.UPLOAD, body, "body")


def test_saedashboard_files(trained: Studio, tmp_path: Path) -> None:
    sae, store = _store(trained)
    _export(trained, tmp_path / "sd", "saedashboard", features="0-9")
    batch = json.loads((tmp_path / "sd" / "batch-0.json").read_text("utf-8"))
    assert (batch["model_id"], batch["layer"], batch["sae_set"]) == ("tiny", 1, "res-x")
    live = [i for i in range(10) if store.statistics[i]["count"]]
    assert [feature["feature_index"] for feature in batch["features"]] == live
    for feature in batch["features"]:
        acts = _dense(store, feature["feature_index"])
        top = [a for a in feature["activations"] if a["bin_contains"] == -1]
        assert top[0]["values"][top[0]["qualifying_token_index"]] == acts.max() == top[0]["bin_max"]
        assert all(len(a["tokens"]) == len(a["values"]) for a in feature["activations"])
    skipped = json.loads((tmp_path / "sd" / "skipped_indexes.json").read_text("utf-8"))
    assert skipped["skipped_indexes"] == [i for i in range(sae.n_latents) if i not in live]
    settings = json.loads((tmp_path / "sd" / "run_settings.json").read_text("utf-8"))
    assert settings["n_tokens_in_prompt"] == store.row_length


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in rows).encode()))
    return path


def _explanation(index: Any, text: str, layer: str = "1-res-x") -> dict[str, Any]:
    return {
        "modelId": "tiny",
        "layer": layer,
        "index": index,
        "description": text,
        "typeName": "oai_token-act-pair",
        "explanationModelName": "some-model",
    }


def test_explanations_label_but_never_over_the_users(trained: Studio, tmp_path: Path) -> None:
    sae, db = lookup.sae(trained, "last"), trained.db()
    feature_marks.set_label(db, sae.id, 3, "mine")
    feature_marks.set_label(db, sae.id, 4, "by rule", "rule")
    rows = [
        _explanation("3", "theirs"),
        _explanation("4", "of  four\nwords"),
        _explanation(5, "five"),
        _explanation("5", "five again"),
        _explanation("64", "none such"),
        _explanation("6", "  "),
    ]
    _write(tmp_path / "b" / "explanations" / "batch-0.jsonl.gz", rows[:3])
    _write(tmp_path / "b" / "explanations" / "batch-1.jsonl.gz", rows[3:])
    _write(tmp_path / "b" / "features" / "batch-0.jsonl.gz", [{"index": "1"}])
    config = ImportExplanationsConfig(path=str(tmp_path / "b"))
    before = import_explanations.preview(db, sae, config)
    assert before[:6] == (2, 6, 3, 1, 1, 1)
    assert "1 of them keep your own label" in import_explanations.sentence(before)
    result = run(trained, "import_explanations", config)
    assert (result["shown"], result["beside"], result["repeated"]) == (2, 2, 0)
    told = feature_export.written_of(db, sae.id, [3, 4, 5, 6])
    assert (told[3].label, told[3].source) == ("mine", "user")
    assert (told[4].label, told[4].source) == ("of four words", "imported")
    assert told[5][:4] == ("five", "imported", "oai_token-act-pair", "some-model")
    assert 6 not in told
    every = feature_export.labels_of(db, sae.id, [3, 5])
    assert [label["text"] for label in every[3]] == ["mine", "theirs"]
    assert [label["text"] for label in every[5]] == ["five", "five again"]
    again = run(trained, "import_explanations", config)
    assert (again["shown"], again["beside"], again["repeated"]) == (0, 0, 4)


def test_our_own_export_is_imported_with_equal_labels(trained: Studio, tmp_path: Path) -> None:
    sae, db = lookup.sae(trained, "last"), trained.db()
    for index in (1, 2, 9):
        feature_marks.set_label(db, sae.id, index, f'label "{index}" é')
    _export(trained, tmp_path / "np", "neuronpedia")
    db.execute("DELETE FROM feature_labels")
    db.execute("UPDATE features SET label = NULL, label_id = NULL")
    run(trained, "import_explanations", ImportExplanationsConfig(path=str(tmp_path / "np")))
    told = feature_export.written_of(db, sae.id, [1, 2, 9])
    assert [told[i].label for i in (1, 2, 9)] == [f'label "{i}" é' for i in (1, 2, 9)]


def test_several_sources_and_broken_files_are_told(trained: Studio, tmp_path: Path) -> None:
    mixed = _write(
        tmp_path / "m.jsonl.gz", [_explanation("1", "a"), _explanation("2", "b", "2-res-x")]
    )
    with pytest.raises(StudioError, match="1-res-x, 2-res-x; name"):
        run(trained, "import_explanations", ImportExplanationsConfig(path=str(mixed)))
    config = ImportExplanationsConfig(path=str(mixed), layer="2-res-x")
    assert run(trained, "import_explanations", config)["shown"] == 1
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(mixed.read_bytes()[:-20])
    with pytest.raises(StudioError, match="damaged"):
        run(trained, "import_explanations", ImportExplanationsConfig(path=str(cut)))
    with pytest.raises(NotFound):
        trained.submit("import_explanations", ImportExplanationsConfig(path=str(tmp_path / "no")))


def test_rows_checked_together_name_the_row_that_is_wrong() -> None:
    schema = {
        "name": row_schema.text,
        "values": row_schema.many(row_schema.real, 1),
        "note": row_schema.maybe(row_schema.text),
    }
    good = {"name": "a", "values": [1.0, 2], "note": None}
    row_schema.require_all(schema, [good, {**good, "note": "b"}], "file")
    for field, value in (
        ("name", "a\0"),
        ("values", []),
        ("values", [float("nan")]),
        ("values", [True]),
        ("values", "no list"),
        ("note", 3),
    ):
        with pytest.raises(Damaged, match=f"file, row 12: {field} is"):
            row_schema.require_all(schema, [good, {**good, field: value}], "file", 11)
    with pytest.raises(Damaged, match="row 2 has other fields"):
        row_schema.require_all(schema, [good, {"name": "a"}], "file")
