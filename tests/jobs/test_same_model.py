"""A run goes on only with the model, in the format, that its checkpoint was trained with."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mistudio.cli import main
from mistudio.core.atomic import sha256_file
from mistudio.core.control import JobControl
from mistudio.core.errors import Mismatch
from mistudio.core.model_configs import CheckModelConfig, ImportActivationsConfig
from mistudio.core.model_weights import FILES, FORMAT, WEIGHTS, changed
from mistudio.core.training_configs import TrainConfig
from mistudio.jobs import training_starts
from mistudio.jobs.runner import Studio
from mistudio.ml.training import keeping
from mistudio.ml.training.checkpoint import load_checkpoint
from mistudio.ml.training.run_state import check_origin
from mistudio.store.records import TrainingRow
from mistudio.store.tables import JOBS, MODELS, TRAININGS
from tests.helpers.studio import run, tiny_studio, tiny_training
from tests.jobs.test_training_life import AtStep

CHANGED = "was trained with tiny in fp32, which is now bf16: set the format back, or start a new"


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    opened = tiny_studio(tmp_path)
    yield opened
    opened.close()


def paused(studio: Studio, config: TrainConfig | None = None) -> tuple[str, TrainingRow]:
    """Job and row of a run that is paused at its checkpoint of step 30."""
    control = JobControl()
    job = studio.submit("train", config or tiny_training(architecture="topk", tokens=64 * 60))
    assert studio.execute(job, AtStep(30, control.pause), control) == "paused"
    return job, TRAININGS.get(studio.db(), JOBS.get(studio.db(), job).target_id or "")


def set_format(studio: Studio, form: str) -> None:
    run(studio, "check_model", CheckModelConfig(model="tiny", format=form))


def weights(studio: Studio, training: TrainingRow) -> Any:
    newest = keeping.list_checkpoints(studio.paths.run(training.id))[-1]
    return keeping.read_values(newest)["origin"].get(WEIGHTS)


def rewrite_origin(checkpoint: Path, origin: dict[str, Any]) -> None:
    """Give a whole checkpoint another origin."""
    values = keeping.read_values(checkpoint)
    (checkpoint / keeping.STATE).write_text(json.dumps({**values, "origin": origin}))
    manifest = json.loads((checkpoint / keeping.MANIFEST).read_text())
    manifest["sha256"][keeping.STATE] = sha256_file(checkpoint / keeping.STATE)
    (checkpoint / keeping.MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize("status", ["paused", "interrupted", "failed"])
def test_another_format_is_refused_before_anything_changes(studio: Studio, status: str) -> None:
    job, training = paused(studio)
    assert weights(studio, training)["format"] == "fp32"
    if status != "paused":
        JOBS.update(studio.db(), job, status=status)
        TRAININGS.update(studio.db(), training.id, status=status)
    set_format(studio, "bf16")
    jobs = JOBS.select(studio.db())
    before = TRAININGS.get(studio.db(), training.id)
    with pytest.raises(Mismatch, match=CHANGED):
        studio.resume_training(training.id)
    if status != "failed":
        with pytest.raises(Mismatch, match=CHANGED):
            studio.request(job, "resume")
    assert TRAININGS.get(studio.db(), training.id) == before
    assert JOBS.select(studio.db()) == jobs
    set_format(studio, "fp32")
    assert studio.execute(studio.resume_training(training.id)) == "completed"


def test_a_change_after_it_was_queued_is_found_when_it_loads(studio: Studio) -> None:
    _, training = paused(studio)
    job = studio.resume_training(training.id)
    set_format(studio, "bf16")
    assert studio.execute(job) == "failed"
    assert CHANGED in (JOBS.get(studio.db(), job).error_message or "")
    after = TRAININGS.get(studio.db(), training.id)
    assert (after.status, after.config) == ("failed", training.config)
    assert CHANGED in (after.error_message or "")
    assert weights(studio, training)["format"] == "fp32"
    set_format(studio, "fp32")
    assert studio.execute(studio.resume_training(training.id)) == "completed"


def test_extending_is_refused_too(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    made = run(studio, "train", tiny_training(architecture="topk", tokens=64 * 40, name="done"))
    further = training_starts.continued(studio, str(made["training"]), tokens=64 * 60)
    queued = studio.submit("train", further)
    set_format(studio, "bf16")
    count = len(TRAININGS.select(studio.db()))
    with pytest.raises(Mismatch, match=CHANGED):
        training_starts.proposed(studio, str(made["training"]))
    with pytest.raises(Mismatch, match=CHANGED):
        studio.submit("train", further)
    assert len(TRAININGS.select(studio.db())) == count
    assert studio.execute(queued) == "failed", "one that was queued before is refused as well"
    assert CHANGED in (JOBS.get(studio.db(), queued).error_message or "")
    home = str(studio.paths.home)
    assert main(["train", "continue", "done", "--tokens", "3840", "--home", home]) == 1
    assert CHANGED in capsys.readouterr().err
    afresh = dataclasses.replace(further, continue_from="", init_from=str(made["sae"]))
    assert run(studio, "train", afresh)["outcome"] == "completed"


def test_other_files_are_refused_and_the_same_ones_are_not(studio: Studio) -> None:
    _, training = paused(studio)
    model = MODELS.named(studio.db(), "tiny")
    known = model.layer_map or {}
    MODELS.update(studio.db(), model.id, layer_map={**known, "fingerprint": "f" * 64})
    with pytest.raises(Mismatch, match=r"files of tiny are not those that .* was trained with"):
        studio.resume_training(training.id)
    studio.models.unload()
    set_format(studio, "fp32")  # reads the files again
    assert studio.execute(studio.resume_training(training.id)) == "completed"


def test_a_checkpoint_that_does_not_tell_goes_on(studio: Studio) -> None:
    _, training = paused(studio)
    for path in keeping.list_checkpoints(studio.paths.run(training.id)):
        origin = keeping.read_values(path)["origin"]
        rewrite_origin(path, {key: value for key, value in origin.items() if key != WEIGHTS})
    set_format(studio, "bf16")
    assert studio.execute(studio.resume_training(training.id)) == "completed"
    assert weights(studio, training)["format"] == "bf16", "from now on it tells"


def test_vectors_without_a_model_go_on(studio: Studio, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(4096, 24)).astype("f4"))
    run(studio, "import_activations", ImportActivationsConfig(str(tmp_path / "x.npy"), "vectors"))
    _, training = paused(
        studio, tiny_training(model="", dataset="", activations="vectors", architecture="topk")
    )
    assert weights(studio, training) is None
    assert studio.execute(studio.resume_training(training.id)) == "completed"


def test_what_counts_as_another_model() -> None:
    stored = {"format": "fp16", "asked": "nf4", "fingerprint": "a", "transformers": "5.1"}
    assert changed(stored, {**stored, "format": "nf4"}) == FORMAT
    assert changed(stored, stored) == ""
    row = {"asked": "nf4", "fingerprint": "a", "transformers": "5.1"}
    assert changed(stored, row) == "", "the device loads fp16 again where nf4 is asked for"
    assert changed(stored, {**row, "asked": "fp16"}) == ""
    assert changed(stored, {**row, "asked": "int8"}) == FORMAT
    assert changed(stored, {**row, "fingerprint": "b"}) == FILES
    other = {**row, "fingerprint": "b", "transformers": "5.2"}
    assert changed(stored, other) == "", "the words of another version of the library"
    assert changed({}, row) == ""


def test_a_checkpoint_itself_is_checked(studio: Studio) -> None:
    _, training = paused(studio)
    saved = load_checkpoint(keeping.list_checkpoints(studio.paths.run(training.id))[-1])
    origin = saved.values["origin"]
    check_origin(saved, origin, "before")
    other = {**origin, WEIGHTS: {**origin[WEIGHTS], "fingerprint": "f"}}
    with pytest.raises(Mismatch, match="differs in its files"):
        check_origin(saved, other, "before")
