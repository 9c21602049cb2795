"""A sweep that several processes train together, here as threads of one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mistudio.core.config import from_dict, to_dict
from mistudio.core.errors import TrainingBroke
from mistudio.core.events import SilentReporter
from mistudio.core.paths import Paths
from mistudio.core.sweep_configs import SweepConfig
from mistudio.jobs import crew as crews
from mistudio.jobs.crew import Crew
from mistudio.jobs.runner import Studio
from mistudio.ml.collective import Collective
from mistudio.ml.training.learner import Learner
from mistudio.store import trainings
from mistudio.store.records import TrainingRow
from mistudio.store.tables import JOBS, SAES
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


def by_two(studio: Studio, config: SweepConfig) -> list[TrainingRow]:
    """Train a sweep by two; all processes must end."""
    job = studio.submit("sweep", config)

    def work(collective: Collective) -> int:
        if collective.rank:
            order = collective.tell(None)
            crews._train_along(order, collective)
            return 0
        studio.crew = Threads(collective)
        try:
            assert studio.execute(job, SilentReporter()) == "completed"
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
