"""The sample project's preset, and the sample taken away with all that was made of it."""

from __future__ import annotations

import numpy as np
import pytest

from mistudio.cli import main
from mistudio.core.configs import SteerConfig
from mistudio.core.errors import InUse
from mistudio.jobs import (
    remove_sample,
    sample,
    sample_preset,
    steering_presets,
    templates,
    vector_library,
)
from mistudio.jobs.runner import Studio
from mistudio.store.records import SaeRow
from mistudio.store.tables import DATASETS, MODELS, SAES, STEERING_RUNS, STEERING_VECTORS


def add_sae(studio: Studio, model_id: str) -> SaeRow:
    return SAES.insert(
        studio.db(), name="sae", origin="trained", encoder_type="sae", architecture="topk",
        d_in=192, d_out=192, n_latents=8, layer=2, hook_in="resid_post", model_id=model_id,
        path="saes/x",
    )  # fmt: skip


def settings(sae: str, feature: int = 3) -> SteerConfig:
    return SteerConfig(sae=sae, feature=(f"{feature}=1.0",), prompt="And the king said unto")


@pytest.fixture
def sampled(studio: Studio) -> Studio:
    """The sample with an SAE, a run, a vector and its preset; and another model with its own."""
    model = sample.ensure_model(studio)
    DATASETS.insert(studio.db(), name="sample", source="sample", status="ready")
    sae = add_sae(studio, model.id)
    STEERING_RUNS.insert(
        studio.db(), model_id=model.id, sae_id=sae.id, mode="blended", prompt="p",
        status="completed",
    )  # fmt: skip
    new = vector_library.NewVector(np.ones(192), "v", 1, "resid_post", {})
    vector_library.add(studio, model, [new], "import")
    sample_preset.keep(studio, settings(sae.id), " king,  lord ")
    other = MODELS.insert(studio.db(), name="mine", origin="folder", path="x", status="ready")
    mine = add_sae(studio, other.id)
    steering_presets.save(studio, settings(mine.id), "my own")
    return studio


def test_the_preset_is_that_of_the_newest_run(sampled: Studio) -> None:
    (row,) = sample_preset.of_sample(sampled)
    assert row.name == "Sample: king, lord"
    found = steering_presets.named(sampled, row.id)
    assert found.is_available
    assert found.config == settings(found.saes[0].id)
    templates.rename(sampled, row.id, "renamed")
    sample_preset.keep(sampled, settings(found.saes[0].id, 5), "sword")
    assert [one.name for one in sample_preset.of_sample(sampled)] == ["Sample: sword"]


def test_the_sample_goes_and_the_rest_stays(
    sampled: Studio, capsys: pytest.CaptureFixture[str]
) -> None:
    db = sampled.db()
    found = remove_sample.parts(sampled)
    assert found.words == "1 preset, 1 steering run, 1 vector, 1 SAE, 1 dataset, 1 model"
    home = str(sampled.paths.home)
    assert main(["demo", "--remove", "--home", home]) != 0
    assert f"This would delete {found.words} for good." in capsys.readouterr().err
    assert remove_sample.parts(sampled) == found
    assert main(["demo", "--remove", "--yes", "--home", home]) == 0
    assert f"Deleted: {found.words}." in capsys.readouterr().out
    assert remove_sample.parts(sampled).is_empty
    assert [row.name for row in MODELS.select(db)] == ["mine"]
    assert len(SAES.select(db)) == 1
    assert not STEERING_RUNS.select(db)
    assert not STEERING_VECTORS.select(db)
    assert not list((sampled.paths.home / "vectors").iterdir())
    assert [preset.row.name for preset in steering_presets.presets(sampled)] == ["my own"]
    assert main(["demo", "--remove", "--home", home]) == 0
    assert "There is no sample here." in capsys.readouterr().out


def test_nothing_goes_while_a_job_needs_it(sampled: Studio) -> None:
    found = remove_sample.parts(sampled)
    config = SteerConfig(sae=found.saes[0], feature=("3=1",), unit="raw", prompt="p")
    sampled.submit("steer", config)
    with pytest.raises(InUse, match="is used by"):
        remove_sample.remove(sampled)
    assert remove_sample.parts(sampled) == found
