"""The whole path on a tiny model: rows and files agree at every station."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mistudio.core.config import from_dict
from mistudio.core.configs import (
    EvaluateConfig,
    ExportSaeConfig,
    HarvestConfig,
    ImportSaeConfig,
    SteerConfig,
)
from mistudio.core.dataset_configs import ImportDatasetConfig, TokenizeConfig
from mistudio.core.errors import InvalidInput, Mismatch, NotFound, StudioError
from mistudio.core.events import RecordingReporter
from mistudio.core.steering_shown import read_run, title_of
from mistudio.core.training_configs import TrainConfig
from mistudio.jobs import feature_pages, lookup, sae_library, vector_library
from mistudio.jobs.runner import Studio
from mistudio.store import features, trainings
from mistudio.store.features import FeatureFilter
from mistudio.store.tables import (
    DATASETS,
    FEATURE_SETS,
    JOBS,
    MODELS,
    SAES,
    STEERING_RUNS,
    STEERING_VECTORS,
    TOKENIZATIONS,
    TRAININGS,
)
from tests.helpers.studio import new_studio, run, tiny_training


def test_a_training_leaves_rows_that_agree_with_its_files(trained: Studio) -> None:
    db = trained.db()
    training = TRAININGS.named(db, "last")
    assert (training.status, training.current_step, training.total_steps) == ("completed", 100, 100)
    assert training.tokens_seen == 6400
    steps = [row["step"] for row in trainings.metrics(db, training.id)]
    assert steps == list(range(10, 101, 10))
    kept = trainings.checkpoints(db, training.id)
    assert [row.step for row in kept] == [100, 80, 60, 40, 20]
    assert all(trained.paths.absolute(row.path).is_dir() for row in kept)
    assert sum(row.is_best for row in kept) == 1
    sae = SAES.get(db, training.sae_id or "")
    assert (sae.n_latents, sae.d_in, sae.layer, sae.hook_in) == (64, 32, 1, "resid_post")
    assert sae.architecture == "jumprelu", "a BatchTopK is used with its threshold"
    evaluation = sae.evaluation or {}
    assert evaluation["n"] >= 500
    assert evaluation["intervals"]["ev"][0] <= evaluation["ev"] <= evaluation["intervals"]["ev"][1]


def test_the_same_tokenisation_is_made_once(trained: Studio) -> None:
    before = TOKENIZATIONS.select(trained.db())
    result = run(trained, "tokenize", TokenizeConfig(dataset="stories", model="tiny", context=32))
    assert result["tokenization"] == before[0].id
    other = run(trained, "tokenize", TokenizeConfig(dataset="stories", model="tiny", context=16))
    assert other["context"] == 16
    assert len(TOKENIZATIONS.select(trained.db())) == len(before) + 1


def test_the_loss_is_measured_on_as_many_tokens_as_are_asked_for(trained: Studio) -> None:
    few = run(trained, "evaluate", EvaluateConfig(tokens=4096, loss_tokens=64))
    more = run(trained, "evaluate", EvaluateConfig(tokens=4096, loss_tokens=1024))
    assert few["n"] == more["n"]
    assert 0 < few["ce_n"] <= 64 < more["ce_n"] <= 1024


def test_evaluating_again_gives_the_same_figures(trained: Studio) -> None:
    first = lookup.sae(trained, "last").evaluation or {}
    again = run(trained, "evaluate", EvaluateConfig(tokens=1024))
    for name in ("ev", "l0", "ce_loss_score", "n"):
        assert again[name] == pytest.approx(first[name], abs=1e-12)


def test_an_exported_sae_comes_back_with_the_same_weights(trained: Studio, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(trained, "export_sae", ExportSaeConfig(out=str(out)))
    first = lookup.sae(trained, "last")
    result = run(trained, "import_sae", ImportSaeConfig(path=str(out)))
    second = SAES.get(trained.db(), str(result["sae"]))
    assert second.weights_hash == first.weights_hash
    assert (second.model_id, second.layer, second.hook_in) == (
        first.model_id,
        first.layer,
        first.hook_in,
    )
    figures = run(
        trained, "evaluate", EvaluateConfig(sae=second.id, dataset="stories", tokens=1024)
    )
    assert figures["ev"] == pytest.approx((first.evaluation or {})["ev"], abs=1e-9)


def test_the_feature_table_agrees_with_the_page(trained: Studio) -> None:
    sae = lookup.sae(trained, "last")
    found = features.newest_set(trained.db(), sae.id)
    assert found is not None
    rows = feature_pages.find(trained, sae, FeatureFilter(), sort="max")
    assert len(rows) == found.n_live
    page = feature_pages.page(trained, sae, rows[0].index)
    assert page.examples[0].value == pytest.approx(rows[0].max, rel=1e-3)
    peak = page.examples[0].pieces[page.examples[0].peak]
    assert peak.value == pytest.approx(page.examples[0].value, rel=1e-6)
    assert sum(page.activations.counts) == rows[0].count
    values = [example.value for example in page.examples]
    assert values == sorted(values, reverse=True)
    assert page.positive[0].logit > 0 > page.negative[0].logit


def test_the_table_names_the_nearest_decoder_row(trained: Studio) -> None:
    row = lookup.sae(trained, "last")
    found = features.newest_set(trained.db(), row.id)
    assert found is not None
    unit_FO = sae_library.read_sae(trained, row).W_dec_FO.double()
    unit_FO = unit_FO / unit_FO.norm(dim=1, keepdim=True)
    cosine_FF = (unit_FO @ unit_FO.T).fill_diagonal_(-2)
    stored = trained.db().execute(
        "SELECT feature_index, nearest, nearest_cosine, flags FROM feature_statistics "
        "WHERE feature_set_id = ?",
        [found.id],
    )
    lines = stored.fetchall()
    assert len(lines) == row.n_latents
    for index, nearest, cosine, flags in lines:
        assert cosine == pytest.approx(float(cosine_FF[index].max()), abs=1e-5)
        assert cosine_FF[index, nearest] == pytest.approx(cosine, abs=1e-5)
        assert ("duplicate" in flags) == (cosine > 0.9)


def test_examples_are_the_original_text(trained: Studio) -> None:
    sae = lookup.sae(trained, "last")
    dataset = DATASETS.named(trained.db(), "stories")
    from mistudio.ml.data.text import TextStore

    whole = "\n".join(TextStore(trained.paths.dataset(dataset.id)).texts(0, 240))
    rows = feature_pages.find(trained, sae, FeatureFilter(), limit=5)
    for row in rows:
        for example in feature_pages.page(trained, sae, row.index).examples[:3]:
            peak = example.pieces[example.peak].text
            assert peak in whole


def test_harvest_again_replaces_nothing_and_gives_the_same_hash(trained: Studio) -> None:
    first = FEATURE_SETS.select(trained.db())[0]
    again = run(trained, "harvest", HarvestConfig(rows=64, context=32))
    assert again["store_hash"] == first.store_hash
    assert again["feature_set"] != first.id


def test_steering_is_kept_with_all_that_repeats_it(trained: Studio) -> None:
    sae = lookup.sae(trained, "last")
    feature = feature_pages.find(trained, sae, FeatureFilter(), sort="max")[0].index
    config = SteerConfig(feature=(f"{feature}=4",), prompt="Once upon a time", max_tokens=8, seed=3)
    reporter = RecordingReporter()
    result = run(trained, "steer", config, reporter)
    assert result["kl"] > 0
    assert not result["identical"]
    streamed = [e.values["value"] for e in reporter.events if e.values.get("name") == "steered"]
    assert streamed[-1] == result["steered"]
    kept = STEERING_RUNS.get(trained.db(), str(result["run"]))
    again = run(trained, "steer", config)
    assert (again["baseline"], again["steered"]) == (result["baseline"], result["steered"])
    assert (kept.outputs or {})["steered"] == result["steered"]
    (shown,) = read_run(kept.prompt, kept.outputs, kept.metrics)
    (variant,) = shown.steered
    assert "".join(piece for piece, _ in variant.per_token) == result["steered"]
    assert np.mean([kl for _, kl in variant.per_token]) == pytest.approx(result["kl"])
    assert variant.metrics["similarity_by"] == "words"  # there is no encoder here
    words = [Counter(re.findall(r"\w+", result[n].lower())) for n in ("baseline", "steered")]
    dot = sum(n * words[1][word] for word, n in words[0].items())
    lengths = [math.sqrt(sum(n * n for n in count.values())) for count in words]
    assert variant.metrics["similarity"] == pytest.approx(dot / (lengths[0] * lengths[1]))


def test_a_vector_of_the_library_steers_as_the_feature_that_it_copies(trained: Studio) -> None:
    sae = lookup.sae(trained, "last")
    model = lookup.model_of(trained, sae)
    row_D = sae_library.read_sae(trained, sae).W_dec_FO[5].detach().numpy()
    new = vector_library.NewVector(row_D, "copy", sae.layer or 0, str(sae.hook_in), {})
    (vector,) = vector_library.add(trained, model, [new], "import")
    common = {"prompt": "Once upon a time", "max_tokens": 8, "seed": 3, "temperature": 0.0}
    by_feature = run(trained, "steer", SteerConfig(feature=("5=9raw",), **common))
    by_vector = run(trained, "steer", SteerConfig(edit=("@copy=9raw",), **common))
    assert by_vector["steered"] == by_feature["steered"]
    assert by_vector["kl"] == pytest.approx(by_feature["kl"], rel=1e-5)
    assert by_vector["kl"] > 0
    other = MODELS.insert(trained.db(), name="other", origin="folder", path="x", status="ready")
    STEERING_VECTORS.update(trained.db(), vector.id, model_id=other.id)
    with pytest.raises(Mismatch, match="belongs to another model"):
        trained.submit("steer", SteerConfig(sae=sae.id, edit=("@copy=9raw",), **common))
    with pytest.raises(NotFound, match="There is no vector 'nobody'"):
        trained.submit("steer", SteerConfig(edit=("@nobody=9raw",), **common))
    vector_library.delete(trained, vector.id)
    MODELS.delete(trained.db(), other.id)


def test_strength_zero_is_the_baseline(trained: Studio) -> None:
    config = SteerConfig(feature=("1=0", "2=0"), prompt="Once upon", max_tokens=8, unit="raw")
    result = run(trained, "steer", config)
    assert result["identical"]
    assert result["steered"] == result["baseline"]
    assert result["kl"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"layer": 4}, r"Layer 4 does not exist; 'tiny' has 4 blocks \(0 to 3\)"),
        ({"hook": "hook_z"}, "Hook must be one of resid_post, mlp_out, attn_out"),
        ({"width": 0}, "Latents must lie between 1 and"),
        ({"k": 65}, "k is 65 but the SAE has 64 latents"),
        ({"model": "nobody"}, "There is no model 'nobody'"),
        ({"dataset": "nobody"}, "There is no dataset 'nobody'"),
    ],
)
def test_wrong_settings_are_sentences_and_leave_nothing(
    trained: Studio, values: dict[str, object], sentence: str
) -> None:
    before = (len(JOBS.select(trained.db())), len(TRAININGS.select(trained.db())))
    with pytest.raises(StudioError, match=sentence):
        trained.submit("train", tiny_training(**values))
    assert (len(JOBS.select(trained.db())), len(TRAININGS.select(trained.db()))) == before


@pytest.mark.parametrize(
    ("feature", "unit", "sentence"),
    [
        ("64=1", "raw", r"Feature 64 does not exist; the SAE has 64 latents \(0 to 63\)"),
        ("1=x", "raw", "not of the form N=VALUE"),
    ],
)
def test_wrong_steering_is_a_sentence(
    trained: Studio, feature: str, unit: str, sentence: str
) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        trained.submit("steer", SteerConfig(feature=(feature,), prompt="x", unit=unit))


def test_a_failed_import_leaves_neither_row_nor_files(tmp_path: Path) -> None:
    studio = new_studio(tmp_path / "data")
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    numbers = tmp_path / "numbers.csv"
    numbers.write_text("id,score\n1,2\n3,4\n")
    binary = tmp_path / "binary.txt"
    binary.write_bytes(np.random.default_rng(0).bytes(4096))
    for path in (empty, numbers, binary):
        with pytest.raises(StudioError) as caught:
            run(studio, "import_dataset", ImportDatasetConfig(path=str(path)))
        assert caught.value.code != "bug"
    assert DATASETS.select(studio.db()) == []
    assert not list((tmp_path / "data").glob("datasets/*"))
    studio.close()


def test_features_are_asked_for_before_they_are_found(trained: Studio) -> None:
    for found in FEATURE_SETS.select(trained.db()):
        FEATURE_SETS.delete(trained.db(), found.id)
    with pytest.raises(NotFound, match=r"not found yet\. Find them first"):
        feature_pages.page(trained, lookup.sae(trained, "last"), 0)
    with pytest.raises(NotFound, match="Find its features first, or use the raw unit"):
        trained.submit("steer", SteerConfig(feature=("1=2",), prompt="x"))


def test_a_dataset_name_stands_for_its_newest_tokenisation(trained: Studio) -> None:
    config = tiny_training(context=0, tokens=128, checkpoint_every=0, eval_tokens=1024)
    assert isinstance(config, TrainConfig)
    result = run(trained, "train", config)
    used = trainings.tokenization_of(trained.db(), str(result["training"]))
    assert used == TOKENIZATIONS.select(trained.db())[0].id


def test_a_specification_file_is_kept_and_repeats_the_run(trained: Studio, tmp_path: Path) -> None:
    file = tmp_path / "spec.json"
    file.write_text(
        '{"unit": "percent", "norm": "keep", "positions": {"rule": "first", "count": 40},'
        ' "edits": [{"feature": 1, "value": 40}, {"feature": 2, "operator": "ablate"}]}'
    )
    config = SteerConfig(prompt="Once upon a time", spec=str(file), max_tokens=8, seed=3)
    result = run(trained, "steer", config)
    assert 0 < result["acted"] <= result["positions"]
    file.unlink()
    kept = STEERING_RUNS.get(trained.db(), str(result["run"]))
    assert kept.config["specification"]["edits"][0]["sae"] == kept.sae_id
    again = run(trained, "steer", from_dict(SteerConfig, kept.config))
    for name in ("baseline", "steered", "kl", "values", "acted"):
        assert again[name] == result[name]


def test_a_sweep_keeps_every_variant(trained: Studio) -> None:
    config = SteerConfig(
        feature=("1=3",), edit=("2=1raw:clamp",), prompt="Once upon", unit="raw", max_tokens=6,
        mode="sweep", strengths="0.5,2", samples=2, chat=False, stop=("zzz",),
    )  # fmt: skip
    result = run(trained, "steer", config)
    assert list(result["variants"]) == ["baseline", "×0.5", "×2"]
    kept = STEERING_RUNS.get(trained.db(), str(result["run"]))
    assert kept.mode == "sweep"
    told = (kept.outputs or {})["variants"]["×2"]
    assert len(told["samples"]) == 2
    assert told["values"] == [6.0, 2.0]
    sample = told["samples"][0]
    assert len(sample["acted_at"]) > 0.5 * sample["positions"]
    assert set((kept.metrics or {})["variants"]) == {"×0.5", "×2"}


def test_an_edit_acts_at_further_layers_with_their_norms_known(trained: Studio) -> None:
    own = lookup.sae(trained, "last").layer
    config = SteerConfig(feature=("1=3/0,2",), prompt="Once upon", unit="raw", max_tokens=3)
    reporter = RecordingReporter()
    result = run(trained, "steer", config, reporter)
    assert sorted(result["delta_ratios"]) == ["0.resid_post", f"{own}.resid_post", "2.resid_post"]
    notes = [str(event.values.get("sentence")) for event in reporter.events]
    assert sum("measured on 4,096 tokens" in note for note in notes) == 2
    again = RecordingReporter()
    assert run(trained, "steer", config, again)["kl"] == result["kl"]
    assert not any("measured on" in str(event.values.get("sentence")) for event in again.events)
    kept = STEERING_RUNS.get(trained.db(), str(result["run"]))
    assert kept.config["specification"]["edits"][0]["layers"] == [0, 2]
    with pytest.raises(InvalidInput, match="There is no layer 4; tiny has layers 0 to 3"):
        trained.submit("steer", replace(config, feature=("1=3/4",)))


def test_operators_side_by_side_are_kept_and_repeated(trained: Studio, tmp_path: Path) -> None:
    file = tmp_path / "spec.json"
    file.write_text('{"unit": "raw", "edits": [{"feature": 1, "value": 3}]}')
    config = SteerConfig(
        spec=str(file), prompt="Once upon", max_tokens=4, mode="operators",
        alternative=("1=1raw:clamp", "1=2raw:swap>5"),
    )  # fmt: skip
    result = run(trained, "steer", config)
    titles = [title_of(name) for name in result["variants"]]
    assert titles == ["Unsteered (baseline)", "#1 +3", "#1 = 1", "#1 ↔ #5"]
    file.unlink()
    kept = STEERING_RUNS.get(trained.db(), str(result["run"]))
    again = run(trained, "steer", from_dict(SteerConfig, kept.config))
    before, after = list(result["variants"].values()), list(again["variants"].values())
    assert [told["samples"] for told in before] == [told["samples"] for told in after]
    with pytest.raises(InvalidInput, match="does not exist"):
        trained.submit(
            "steer",
            replace(config, spec="", feature=("1=3",), alternative=("1=2raw:swap>5000",)),
        )


def test_a_norm_that_nobody_knows_is_measured_once(trained: Studio) -> None:
    row = lookup.sae(trained, "last")
    folder = trained.paths.absolute(row.path)
    config = SteerConfig(feature=("1=20",), prompt="Once upon", unit="percent", max_tokens=2)
    known = run(trained, "steer", config)["delta_ratio"]
    db = trained.db()
    db.execute("UPDATE feature_sets SET summary = '{}' WHERE sae_id = ?", [row.id])
    cfg = folder / "cfg.json"
    cfg.write_text(cfg.read_text().replace('"median_norm"', '"former_norm"'))
    reporter = RecordingReporter()
    measured = run(trained, "steer", config, reporter)["delta_ratio"]
    assert measured == pytest.approx(known, rel=0.3)
    notes = [str(event.values.get("sentence")) for event in reporter.events]
    assert sum("measured on 4,096 tokens" in note for note in notes) == 1
    assert (folder / "median_norm.json").is_file()
    again = RecordingReporter()
    assert run(trained, "steer", config, again)["delta_ratio"] == measured
    assert not any("measured on" in str(event.values.get("sentence")) for event in again.events)


def test_an_edit_of_the_runs_own_sae_by_its_id_is_the_same_edit(trained: Studio) -> None:
    row = lookup.sae(trained, "last")
    values: dict[str, Any] = {"prompt": "Once upon", "unit": "raw", "max_tokens": 6}
    short = run(trained, "steer", SteerConfig(feature=("1=3",), **values))
    named = run(trained, "steer", SteerConfig(edit=(f"{row.id}#1=3",), **values))
    assert named["steered"] == short["steered"]
    both = SteerConfig(feature=("1=3",), edit=(f"{row.id}#1=2",), **values)
    with pytest.raises(InvalidInput, match="named twice"):
        trained.submit("steer", both)
