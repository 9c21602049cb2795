"""Pause, stop, kill and resume of a training."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mistudio.core.configs import DemoConfig
from mistudio.core.control import JobControl
from mistudio.core.errors import DiskFull, InUse
from mistudio.core.events import SilentReporter
from mistudio.core.paths import Paths
from mistudio.jobs import evaluate, train
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.registry import JOB_KINDS
from mistudio.jobs.runner import Studio
from mistudio.ml.training import learner as learning
from mistudio.store import trainings
from mistudio.store.tables import JOBS, SAES, TRAININGS
from tests.helpers.studio import tiny_studio, tiny_training


class AtStep(SilentReporter):
    """Does something when a training reaches a step."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        self._step = step
        self._act = act

    def metric(self, name: str, values: Mapping[str, float | int | str | None]) -> None:
        if name == "training" and values["step"] == self._step:
            self._act()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("life")
    tiny_studio(folder).close()
    return folder / "data"


@pytest.fixture
def studio(home: Path) -> Studio:
    return Studio(Paths.at(home))


@pytest.fixture(scope="module")
def undisturbed(home: Path) -> str:
    """Hash of the weights of a training that nothing interrupted."""
    studio = Studio(Paths.at(home))
    control = JobControl()
    result = studio.run_now("train", tiny_training(), SilentReporter(), control)
    studio.close()
    return str(result["weights_hash"])


def test_paused_and_resumed_equals_undisturbed(studio: Studio, undisturbed: str) -> None:
    control = JobControl()
    job = studio.submit("train", tiny_training())
    assert studio.execute(job, AtStep(30, control.pause), control) == "paused"
    training = TRAININGS.get(studio.db(), JOBS.get(studio.db(), job).target_id or "")
    assert training.status == "paused"
    assert training.current_step == 30
    assert studio.next_job("gpu") is None, "the lane is free and nothing waits"
    assert studio.resume_training(training.id) == job
    assert studio.execute(job) == "completed"
    result = JOBS.get(studio.db(), job).result or {}
    assert result["weights_hash"] == undisturbed
    steps = [row["step"] for row in trainings.metrics(studio.db(), training.id)]
    assert steps == list(range(10, 101, 10)), "no step is missing and none is there twice"
    with pytest.raises(InUse, match="already ended"):
        studio.resume_training(training.id)
    studio.close()


def test_a_stop_leaves_a_usable_sae(studio: Studio, undisturbed: str) -> None:
    control = JobControl()
    job = studio.submit("train", tiny_training())
    assert studio.execute(job, AtStep(20, control.stop), control) == "completed"
    training = TRAININGS.get(studio.db(), JOBS.get(studio.db(), job).target_id or "")
    assert training.status == "stopped"
    sae = SAES.get(studio.db(), training.sae_id or "")
    assert sae.checkpoint_step == 20
    assert sae.weights_hash != undisturbed
    studio.close()


def test_a_paused_training_can_be_stopped(studio: Studio) -> None:
    control = JobControl()
    job = studio.submit("train", tiny_training())
    studio.execute(job, AtStep(20, control.pause), control)
    studio.request(job, "stop")
    assert studio.execute(job) == "completed"
    training = TRAININGS.get(studio.db(), JOBS.get(studio.db(), job).target_id or "")
    assert (training.status, training.current_step) == ("stopped", 20)
    studio.close()


def test_a_run_that_goes_on_after_a_stop_makes_another_sae(
    studio: Studio, undisturbed: str
) -> None:
    """As after a process that ended between the SAE of a stop and the last state of the run."""
    control = JobControl()
    job = studio.submit("train", tiny_training())
    studio.execute(job, AtStep(20, control.stop), control)
    training = TRAININGS.get(studio.db(), JOBS.get(studio.db(), job).target_id or "")
    TRAININGS.update(studio.db(), training.id, status="interrupted")
    studio.execute(studio.resume_training(training.id))
    after = TRAININGS.get(studio.db(), training.id)
    assert (after.status, after.sae_id == training.sae_id) == ("completed", False)
    assert SAES.get(studio.db(), after.sae_id or "").weights_hash == undisturbed
    studio.close()


class AtPhase(SilentReporter):
    """Does something once when a job comes to a phase."""

    def __init__(self, phase: str, act: Callable[[], None]) -> None:
        self._phase, self._act = phase, act

    def progress(self, fraction: float, phase: str, **_rest: object) -> None:
        if self._phase in phase:
            self._phase = "none such"
            self._act()


@pytest.mark.parametrize("phase", ["Finding the threshold", "evaluation"])
def test_a_pause_at_the_end_leaves_the_end_to_the_next_turn(
    studio: Studio, undisturbed: str, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = JobControl()
    measured = evaluate.measure_trained

    def measure(*what: Any) -> dict[str, Any]:
        if phase == "evaluation":
            control.pause()
        return measured(*what)

    job = studio.submit("train", tiny_training())
    with monkeypatch.context() as patched:
        patched.setattr(evaluate, "measure_trained", measure)
        assert studio.execute(job, AtPhase(phase, control.pause), control) == "paused"
    training = TRAININGS.get(studio.db(), JOBS.get(studio.db(), job).target_id or "")
    assert training.status == "paused"
    assert studio.execute(studio.resume_training(training.id)) == "completed"
    after = TRAININGS.get(studio.db(), training.id)
    sae = SAES.get(studio.db(), after.sae_id or "")
    assert sae.weights_hash == undisturbed
    assert sae.evaluation
    studio.close()


@pytest.mark.parametrize("phase", ["step 50", "Finding the threshold", "loading the model"])
def test_a_training_within_another_job_goes_on_by_itself_after_the_program_closed(
    studio: Studio, undisturbed: str, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = JobControl()
    made: list[str] = []

    def whole_path(ctx: JobContext, config: DemoConfig) -> Result:
        made.append(train.prepare(ctx.studio, tiny_training()))
        return train.run_training(ctx, made[0], ends_turn=False)

    known = JOB_KINDS["demo"]
    monkeypatch.setitem(JOB_KINDS, "demo", dataclasses.replace(known, run=whole_path))
    job = studio.submit("demo", DemoConfig())
    assert studio.execute(job, AtPhase(phase, control.leave), control) == "cancelled"
    training = TRAININGS.get(studio.db(), made[0])
    # closed before there is anything to keep, it begins anew
    assert training.status == ("interrupted" if "model" in phase else "paused")
    assert training.sae_id is None
    assert studio.execute(studio.resume_training(training.id)) == "completed"
    after = TRAININGS.get(studio.db(), training.id)
    assert SAES.get(studio.db(), after.sae_id or "").weights_hash == undisturbed
    studio.close()


def full_from(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """A disk that has no room for a checkpoint from a step on."""
    saved = learning.save_checkpoint

    def save(folder: Path, checkpoint: Any) -> Path:
        if checkpoint.step >= step:
            raise DiskFull("The disk is full.")
        return saved(folder, checkpoint)

    monkeypatch.setattr(learning, "save_checkpoint", save)


@pytest.mark.parametrize("room", [0, 25])
def test_a_stop_without_room_for_a_checkpoint_leaves_a_usable_sae(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    full_from(monkeypatch, room)
    control = JobControl()
    job = studio.submit("train", tiny_training())
    assert studio.execute(job, AtStep(30, control.stop), control) == "completed"
    training = TRAININGS.get(studio.db(), JOBS.get(studio.db(), job).target_id or "")
    assert training.status == "stopped"
    assert SAES.get(studio.db(), training.sae_id or "").checkpoint_step == 30
    studio.close()


def test_a_pause_without_room_goes_on_from_the_checkpoint_before(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, undisturbed: str
) -> None:
    control = JobControl()
    job = studio.submit("train", tiny_training())
    with monkeypatch.context() as patched:
        full_from(patched, 25)
        assert studio.execute(job, AtStep(30, control.pause), control) == "paused"
    training = JOBS.get(studio.db(), job).target_id or ""
    assert [row.step for row in trainings.checkpoints(studio.db(), training)] == [20]
    assert studio.execute(studio.resume_training(training)) == "completed"
    assert (JOBS.get(studio.db(), job).result or {})["weights_hash"] == undisturbed
    studio.close()


def test_a_checkpoint_can_be_asked_for(studio: Studio) -> None:
    control = JobControl()
    job = studio.submit("train", tiny_training(checkpoint_every=0))
    studio.execute(job, AtStep(30, control.save_now), control)
    kept = trainings.checkpoints(studio.db(), JOBS.get(studio.db(), job).target_id or "")
    assert [row.step for row in kept] == [100, 30]
    studio.close()


def test_a_cancelled_queued_training_leaves_nothing(studio: Studio) -> None:
    job = studio.submit("train", tiny_training())
    training = JOBS.get(studio.db(), job).target_id or ""
    studio.request(job, "cancel")
    assert TRAININGS.find(studio.db(), training) is None
    studio.close()


KILLED = """
import os, signal, sys
from mistudio.core.config import from_dict
from mistudio.core.configs import DemoConfig
from mistudio.core.control import JobControl
from mistudio.core.events import SilentReporter
from mistudio.core.paths import Paths
from mistudio.jobs.runner import Studio
from tests.helpers.studio import tiny_training

class Kill(SilentReporter):
    def metric(self, name, values):
        if name == "training" and values["step"] == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)

import torch
torch.set_num_threads(int(sys.argv[3]))
studio = Studio(Paths.at(sys.argv[1]))
studio.run_now("train", tiny_training(), Kill(), JobControl())
"""


def test_killed_and_resumed_equals_undisturbed(home: Path, undisturbed: str) -> None:
    import torch

    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(home), "70", str(torch.get_num_threads())],
        check=False,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    studio = Studio(Paths.at(home))
    assert len(studio.recover()) == 1
    interrupted = trainings.unfinished(studio.db())[0]
    assert interrupted.status == "interrupted"
    job = studio.resume_training(interrupted.id)
    result = studio.finish_now(job, SilentReporter(), JobControl())
    assert result["weights_hash"] == undisturbed
    sae = SAES.get(studio.db(), str(result["sae"]))
    file = studio.paths.absolute(sae.path) / "sae_weights.safetensors"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == undisturbed
    assert not list(studio.paths.run(interrupted.id).glob("checkpoints/.*"))
    studio.close()
