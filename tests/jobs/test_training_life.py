"""Pause, stop, kill and resume of a training."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from mistudio.core.control import JobControl
from mistudio.core.errors import InUse
from mistudio.core.events import SilentReporter
from mistudio.core.paths import Paths
from mistudio.jobs.runner import Studio
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
