"""Templates: saved and loaded field for field, starred, renamed, passed on as files."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mistudio.core.config import to_dict, violations
from mistudio.core.dataset_configs import TokenizeConfig
from mistudio.core.errors import InvalidInput, NotFound
from mistudio.core.model_configs import ExtractConfig
from mistudio.core.training_configs import TrainConfig
from mistudio.jobs import templates
from mistudio.jobs.runner import Studio
from mistudio.jobs.shipped_templates import Scaling, fitted
from mistudio.store.tables import MODELS, TEMPLATES
from tests.helpers.studio import new_studio

TRAINING = TrainConfig(model="tiny", dataset="sample", layer=3, learning_rate=5e-5, tokens=10_000)


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    studio = new_studio(tmp_path / "data")
    MODELS.insert(studio.db(), name="tiny", origin="folder", path="x")
    yield studio
    studio.close()


def test_a_template_comes_back_field_for_field(studio: Studio) -> None:
    for kind, config in (
        ("training", TRAINING),
        ("extraction", ExtractConfig(layers="0-3", hooks=("mlp_in", "attn_out"), rows=0)),
        ("tokenization", TokenizeConfig(context=64)),
    ):
        row = templates.save(studio, kind, config, "mine", "what for")
        loaded = templates.load(studio, row.id)
        assert (loaded.config, loaded.warnings) == (config, [])
        assert (row.name, row.description) == ("mine", "what for")


def test_what_a_template_names_and_is_gone_is_cleared(studio: Studio) -> None:
    row = templates.save(studio, "training", TrainConfig(model="lost", dataset="away"), "x")
    loaded = templates.load(studio, row.id)
    assert isinstance(loaded.config, TrainConfig)
    assert (loaded.config.model, loaded.config.dataset) == ("", "")
    assert loaded.warnings == [
        "The model 'lost' of this template is gone; choose another.",
        "The dataset 'away' of this template is gone; choose another.",
    ]


def test_names(studio: Studio) -> None:
    names = [templates.save(studio, "training", TRAINING, "a").name for _ in range(3)]
    assert names == ["a", "a_2", "a_3"]
    long = "n" * 255
    assert templates.save(studio, "training", TRAINING, long).name == long
    assert templates.save(studio, "training", TRAINING, long).name == long[:-2] + "_2"
    with pytest.raises(InvalidInput, match="1 to 255"):
        templates.save(studio, "training", TRAINING, "n" * 256)
    with pytest.raises(InvalidInput, match="at most 500"):
        templates.save(studio, "training", TRAINING, "b", "d" * 501)
    with pytest.raises(InvalidInput, match="no templates of 'cooking'"):
        templates.save(studio, "cooking", TRAINING)


def test_automatic_names() -> None:
    clock = r"_\d{4}$"
    for config, pattern in (
        (TRAINING, r"^\w+_\d+x_5steps" + clock),
        (ExtractConfig(layers="0-3,9", hooks=("mlp_in",), rows=5), "^mlp_in_layers0-9_5samples"),
        (ExtractConfig(layers="4", rows=0), "^resid_post_layer4_allsamples"),
    ):
        assert re.search(pattern, templates.automatic_name("x", config))


def test_order_star_rename_delete(studio: Studio) -> None:
    ids = [templates.save(studio, "extraction", ExtractConfig(), name).id for name in "abc"]
    templates.star(studio, ids[0], True)
    assert [row.name for row in templates.templates(studio, "extraction")] == [
        "a", "c", "b", "Full Analysis", "Quick Scan",
    ]  # fmt: skip
    assert templates.rename(studio, ids[1], "c") == "c_2"
    assert templates.rename(studio, ids[1], "c_2", "now with words") == "c_2"
    assert TEMPLATES.get(studio.db(), ids[1]).description == "now with words"
    templates.delete(studio, ids[2])
    assert TEMPLATES.find(studio.db(), ids[2]) is None
    with pytest.raises(NotFound):
        templates.star(studio, ids[2], True)


def test_shipped_templates_stay(studio: Studio) -> None:
    quick = next(r for r in templates.templates(studio) if r.name == "Quick Scan")
    loaded = templates.load(studio, quick.id).config
    assert isinstance(loaded, ExtractConfig)
    assert (loaded.layers, loaded.rows, loaded.top_k) == ("0,6,11", 5000, 50)
    assert loaded.hooks == ("resid_post",)
    for change in (templates.delete, lambda s, i: templates.rename(s, i, "x")):
        with pytest.raises(InvalidInput, match="comes with miStudio"):
            change(studio, quick.id)
    assert len(templates.templates(studio, "extraction")) == 2


def test_shipped_trainings_scale_with_the_model(studio: Studio) -> None:
    rows = {row.name: row for row in templates.templates(studio, "training")}
    starred = [name for name, row in rows.items() if row.is_favorite]
    assert sorted(starred) == ["Fast Prototyping", "High Quality"]
    told = {}
    for name, row in rows.items():
        loaded = templates.load(studio, row.id)
        config = loaded.config
        assert isinstance(config, TrainConfig)
        assert not violations(dataclasses.replace(config, model="m", dataset="d"))
        told[name] = (
            config.learning_rate,
            config.tokens // config.batch,
            config.batch,
            fitted(loaded.scaling, 576, 30),
        )
    assert told == {
        "Fast Prototyping": (5e-4, 5000, 1024, {"width": 2304, "layer": 14, "layers": "14"}),
        "High Quality": (3e-4, 50_000, 4096, {"width": 4608, "layer": 14, "layers": "7,14,22"}),
        "Large Expansion": (3e-4, 50_000, 4096, {"width": 9216, "layer": 11, "layers": "11"}),
    }
    assert rows["High Quality"].config["schedule"] == "cosine"
    assert fitted(Scaling(), 576, 30) == {}
    assert fitted(Scaling(4, (0.25, 0.5)), 64, 1) == {"width": 256, "layer": 0, "layers": "0"}


def test_export_and_import(studio: Studio, tmp_path: Path) -> None:
    templates.save(studio, "training", TRAINING, "first")
    starred = templates.save(studio, "extraction", ExtractConfig(layers="1"), "second", "words")
    templates.star(studio, starred.id, True)
    path = tmp_path / "out.json"
    assert templates.export(studio, path) == 2
    content = json.loads(path.read_text())
    assert content["version"] == "1.0"
    assert set(content) == {"version", "exported_at", *templates.FILE_KEYS.values()}
    content["training_templates"] += [
        {"name": "", "config": {"layer": 1}},
        {"name": "no settings"},
        "nonsense",
        {"name": "wrong", "config": {**to_dict(TRAINING), "learning_rate": 7}},
        {"name": "worse", "config": {**to_dict(TRAINING), "layer": "many"}},
    ]
    content["steering_presets"] = "none"
    path.write_text(json.dumps(content))
    found = templates.import_file(studio, path)
    assert [(r.kind, r.name, r.is_favorite, r.description) for r in found.added] == [
        ("training", "first_2", False, None),
        ("extraction", "second_2", True, "words"),
    ]
    assert found.added[1].config == to_dict(ExtractConfig(layers="1"))
    assert [sentence.partition(":")[0] for sentence in found.skipped] == [
        *(f"training_templates, entry {n}" for n in (2, 3, 4, 5, 6)),
        "steering_presets is no list.",
    ]
    assert "Learning rate must lie between" in found.skipped[3]


def test_files_that_are_no_export(studio: Studio, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(InvalidInput, match="no template to export"):
        templates.export(studio, path)
    with pytest.raises(NotFound):
        templates.import_file(studio, path)
    for text, sentence in (("{", "not valid JSON"), ("[1]", "no export"), ("{}", "no export")):
        path.write_text(text)
        with pytest.raises(InvalidInput, match=sentence):
            templates.import_file(studio, path)
