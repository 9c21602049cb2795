"""Trainings of attention as jobs: their first directions, and runs that began without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mistudio.core.control import JobControl
from mistudio.core.events import SilentReporter
from mistudio.jobs import training_data
from mistudio.jobs.runner import Studio
from mistudio.ml.activations import statistics
from mistudio.ml.activations.statistics_file import load_statistics
from mistudio.ml.training import keeping
from mistudio.ml.training.checkpoint import load_checkpoint
from mistudio.store.tables import JOBS
from tests.helpers.studio import run, tiny_studio, tiny_training


class PauseAt(SilentReporter):
    """Asks for a pause when a step is told."""

    def __init__(self, step: int, control: JobControl) -> None:
        self._step, self._control = step, control

    def metric(self, name: str, values: Any) -> None:
        if name == "training" and values["step"] == self._step:
            self._control.pause()


def paused_and_gone_on(studio: Studio, config: Any, between: Any = None) -> tuple[str, Path]:
    """The weights' hash and the folder of a run that was paused after step 30."""
    job, control = studio.submit("train", config), JobControl()
    assert studio.execute(job, PauseAt(30, control), control) == "paused"
    training = JOBS.get(studio.db(), job).target_id or ""
    folder = studio.paths.run(training)
    if between is not None:
        between(folder)
    studio.resume_training(training)
    assert studio.execute(job) == "completed"
    return str((JOBS.get(studio.db(), job).result or {})["weights_hash"]), folder


def test_runs_of_attention_measure_their_directions_and_go_on(tmp_path: Path) -> None:
    studio = tiny_studio(tmp_path)
    config = tiny_training(tokens=64 * 60, hook="attn_out")
    quiet = run(studio, "train", config)
    folder = studio.paths.run(quiet["training"])
    assert "The features begin in " in (folder / "log.jsonl").read_text(encoding="utf-8")
    assert load_statistics(folder / "statistics.json").whitening is not None
    loud, folder = paused_and_gone_on(studio, config)
    assert loud == quiet["weights_hash"]
    log = (folder / "log.jsonl").read_text(encoding="utf-8")
    assert log.count("The features begin in ") == 1
    other = run(
        studio, "train", tiny_training(tokens=64 * 60, hook="attn_out", subspace_init="off")
    )
    assert other["weights_hash"] != quiet["weights_hash"]
    folder = studio.paths.run(other["training"])
    assert not (folder / "statistics.safetensors").exists()
    studio.close()


def test_a_run_that_began_without_goes_on_as_it_was(tmp_path: Path, monkeypatch: Any) -> None:
    """One of an earlier version: its settings do not tell, its statistics hold no directions."""
    studio = tiny_studio(tmp_path)
    off = tiny_training(tokens=64 * 60, hook="attn_out", subspace_init="off")
    whole = run(studio, "train", off)["weights_hash"]
    auto = tiny_training(tokens=64 * 60, hook="attn_out")
    # what an earlier version began with
    monkeypatch.setattr(training_data, "begins_in_subspace", lambda _config: False)

    def older(folder: Path) -> None:
        monkeypatch.undo()
        saved = keeping.list_checkpoints(folder)[-1]
        assert load_checkpoint(saved).values["config"]["subspace_init"] == "auto"
        kept = load_statistics(folder / "statistics.json")
        assert kept.whitening is None
        monkeypatch.setattr(statistics, "measure_hooks", None)  # nothing is measured again

    found, folder = paused_and_gone_on(studio, auto, older)
    assert found == whole
    assert load_statistics(folder / "statistics.json").whitening is None
    studio.close()
