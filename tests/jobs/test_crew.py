"""A sweep that several processes train together, here as threads of one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mistudio.core.config import from_dict, to_dict
from mistudio.core.control import JobControl
from mistudio.core.errors import TrainingBroke
from mistudio.core.events import SilentReporter
from mistudio.core.paths import Paths
from mistudio.core.sweep_configs import SweepConfig
from mistudio.jobs import crew as crews
from mistudio.jobs import training_plan
from mistudio.jobs.crew import Crew
from mistudio.jobs.lent_model import LentModel
from mistudio.jobs.runner import Studio
from mistudio.ml.collective import Collective
from mistudio.ml.training.learner import Learner
from mistudio.ml.training.plan_formulas import Room
from mistudio.store import trainings
from mistudio.store.records import TrainingRow
from mistudio.store.tables import JOBS, SAES, TRAININGS
from tests.helpers.processes import in_threads
from tests.helpers.studio import run, tiny_studio, tiny_training

STEPS = 30


class Threads(Crew):
    """The first of several threads, in the place of a crew of processes."""

    def __init__(self, collective: Collective) -> None:
        self.collective = collective
        self._waiting = True


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crew")
    tiny_studio(folder).close()
    return folder / "data"


@pytest.fixture
def studio(home: Path) -> Iterator[Studio]:
    opened = Studio(Paths.at(home))
    yield opened
    opened.close()


def sweep(**values: Any) -> SweepConfig:
    """Four SAEs of two layers, some of them whitened, whose batches end at different steps."""
    base = to_dict(tiny_training(tokens=66 * STEPS, batch=66, eval_every=7))
    vary = ["input_norm=constant,whitening"]
    return from_dict(SweepConfig, {**base, "layers": "0,1", "vary": vary, **values})


class PausesAt(SilentReporter):
    """Asks for a pause when the first SAE of layer 1 reaches a step."""

    def __init__(self, step: int, control: JobControl) -> None:
        self._step, self._control = step, control

    def progress(self, fraction: float, phase: str, **_rest: object) -> None:
        if phase.startswith(f"SAE 3 of 4: Training: step {self._step} "):
            self._control.pause()


def by_two(studio: Studio, config: SweepConfig, pause_at: int = 0) -> list[TrainingRow]:
    """Train a sweep by two, to the end or to a pause; all processes must end."""
    job = studio.submit("sweep", config)
    control = JobControl()
    report = PausesAt(pause_at, control) if pause_at else SilentReporter()

    def work(collective: Collective) -> int:
        if collective.rank:
            order = collective.tell(None)
            crews._train_along(order, collective)
            return 0
        studio.crew = Threads(collective)
        try:
            wanted = "paused" if pause_at else "completed"
            assert studio.execute(job, report, control) == wanted
        finally:
            studio.crew = None
        return 0

    assert in_threads(work) == [0, 0]
    return trainings.of_group(studio.db(), JOBS.get(studio.db(), job).target_id or "")


def close(found: float | None, wanted: float | None, share: float) -> bool:
    """Whether both are told and nearly alike, or neither is told."""
    if found is None or wanted is None:
        return found is wanted
    return found == pytest.approx(wanted, rel=share, abs=share / 10)


def test_a_sweep_has_the_curves_of_one_process(studio: Studio) -> None:
    group = run(studio, "sweep", sweep())["sweep"]
    alone = trainings.of_group(studio.db(), group)
    together = by_two(studio, sweep())
    assert [row.status for row in together] == ["completed"] * 4
    paused = by_two(studio, sweep(), pause_at=20)
    assert [row.status for row in paused] == ["paused"] * 4
    assert len({row.current_step for row in paused}) == 2, "some are a few steps ahead"
    studio.execute(studio.resume_training(paused[0].id))
    alike(studio, alone, together)
    alike(studio, alone, [TRAININGS.get(studio.db(), row.id) for row in paused])


def test_all_of_them_let_the_model_go_where_it_does_not_fit_beside_the_saes(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = sweep(width=1024)
    alone = trainings.of_group(studio.db(), run(studio, "sweep", config)["sweep"])
    total = training_plan.plan_training(studio, config.members(2)).total
    room = Room("cpu", total - 1, 24 * 10**9, 80 * 10**9)
    monkeypatch.setattr(training_plan, "room_of", lambda _: room)
    gone: set[int] = set()
    let_go = LentModel.let_go

    def noted(lent: LentModel) -> None:
        gone.add(threading.get_ident())
        let_go(lent)

    monkeypatch.setattr(LentModel, "let_go", noted)
    alike(studio, alone, by_two(studio, config))
    assert len(gone) == 2


def alike(studio: Studio, alone: list[TrainingRow], together: list[TrainingRow]) -> None:
    """The curves, the looks between and the final figures are nearly the same."""
    for one, two in zip(alone, together, strict=True):
        assert one.config["input_norm"] == two.config["input_norm"]
        rows = [trainings.metrics(studio.db(), row.id) for row in (one, two)]
        assert len(rows[0]) == len(rows[1]) == 7  # three of the curve, four looks beside
        for a, b in zip(*rows, strict=True):
            assert a["step"] == b["step"]
            for key in ("loss", "reconstruction", "l0", "grad_norm", "explained_variance"):
                assert close(b[key], a[key], 1e-4), (one.name, a["step"], key)
            assert close(b["heldout_ev"], a["heldout_ev"], 1e-3), (one.name, a["step"])
        figures = [SAES.get(studio.db(), row.sae_id or "").evaluation or {} for row in (one, two)]
        assert figures[1]["ev"] == pytest.approx(figures[0]["ev"], rel=1e-3)


def test_one_that_breaks_in_all_processes_does_not_end_the_others(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Learner.step

    def breaks(learner: Learner) -> None:
        if learner.run.config.layer == 0 and learner.run.step == 12:
            raise TrainingBroke("The loss was unusable.")
        step(learner)

    monkeypatch.setattr(Learner, "step", breaks)
    rows = by_two(studio, sweep(vary=[]))
    assert [row.status for row in rows] == ["failed", "completed"]
