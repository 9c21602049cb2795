"""A training that is followed on held-out tokens learns what it would have, to the byte."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mistudio.core import held_out_looks
from mistudio.core.atomic import sha256_file
from mistudio.core.control import JobControl
from mistudio.core.errors import DiskFull, OutOfMemory
from mistudio.core.events import RecordingReporter
from mistudio.core.retention import Kept, best_of
from mistudio.core.training_configs import TrainConfig
from mistudio.ml.evaluation.held_out import HeldBatch, measure_held
from mistudio.ml.training import follower, keeping
from mistudio.ml.training.checkpoint import newest_checkpoint
from mistudio.ml.training.loop import TrainResult, sae_from_checkpoint, train
from tests.helpers.activations import FakeStream, batch_at, statistics_of

D, BATCH, STEPS = 16, 64, 60
CONFIG = TrainConfig(
    model="m",
    dataset="d",
    architecture="batch_topk",
    width=48,
    k=4,
    tokens=BATCH * STEPS,
    batch=BATCH,
    learning_rate=3e-3,
    checkpoint_every=15,
    eval_every=24,
)
LOOKS = [15, 24, 30, 45, 48, 60]


class Rows:
    """Three batches of held-out tokens; `ask` is told each time that one is handed out."""

    def __init__(self, ask: Any = None) -> None:
        self.handed, self._ask = 0, ask

    def __call__(self) -> Iterator[HeldBatch]:
        for number in range(3):
            self.handed += 1
            if self._ask is not None:
                self._ask(self.handed)
            x_TD = batch_at(-50 - number, batch=100, d=D)
            yield HeldBatch(x_TD, x_TD, np.arange(100) // 8, np.arange(100) // 25 + 4 * number)


def run(folder: Path, **options: Any) -> tuple[TrainResult, RecordingReporter]:
    report = RecordingReporter()
    config = options.pop("config", CONFIG)
    control = options.pop("control", None) or JobControl()
    stream, statistics = FakeStream(BATCH, D), statistics_of(D)
    return train(config, stream, statistics, folder, report, control, **options), report


def looks(*reports: RecordingReporter) -> list[dict[str, Any]]:
    events = [event for report in reports for event in report.events if event.kind == "metric"]
    return [dict(e.values) for e in events if e.values["name"] == "held_out"]


def notes(report: RecordingReporter) -> str:
    return "\n".join(str(e.values["sentence"]) for e in report.events if e.kind == "note")


def bytes_of(folder: Path, step: int = STEPS) -> dict[str, str]:
    path = folder / "checkpoints" / f"step_{step:08d}"
    return {file.name: sha256_file(file) for file in path.glob("*.safetensors")}


def test_looks_come_with_checkpoints_between_them_and_at_the_end(tmp_path: Path) -> None:
    _, report = run(tmp_path, held_out=Rows())
    told = looks(report)
    assert [row["step"] for row in told] == LOOKS
    x = torch.cat([batch.x_TD for batch in Rows()()])
    for row in told:
        path = tmp_path / "checkpoints" / f"step_{row['step']:08d}"
        if row["step"] in (24, 48):
            assert not path.exists()
            continue
        # the SAE as the checkpoint gives it, in plain dense float64
        sae = sae_from_checkpoint(path)
        f = sae.encode(x).double()
        error = x.double() - f @ sae.W_dec_FO.double() - sae.b_dec_O.double()
        ev = 1 - error.square().sum() / (x.double() - x.double().mean(0)).square().sum()
        assert row["heldout_ev"] == pytest.approx(float(ev), rel=1e-5)
        assert row["heldout_l0"] == float((f != 0).sum(1).double().mean())
        assert row["heldout_dead"] == float((~(f != 0).any(0)).double().mean())
        assert row["heldout_n"] == 300
        assert row["heldout_documents"] == 12
        assert row["heldout_ev_low"] < row["heldout_ev"] < row["heldout_ev_high"]
        told = held_out_looks.figures_of(row)
        assert held_out_looks.sentence(row["step"], told) in notes(report)
        kept = keeping.read_values(path)
        assert kept["held_out"].items() <= told.items(), "the same, of which this tells the edges"
        assert kept["owed"] == []


def test_0_looks_at_checkpoints_and_at_the_end_only(tmp_path: Path) -> None:
    _, report = run(tmp_path, config=replace(CONFIG, eval_every=0), held_out=Rows())
    assert [row["step"] for row in looks(report)] == [15, 30, 45, 60]
    config = replace(CONFIG, checkpoint_every=0, eval_every=0)
    _, report = run(tmp_path / "last", config=config, held_out=Rows())
    assert [row["step"] for row in looks(report)] == [60]


@pytest.mark.parametrize("architecture", ["batch_topk", "gated"])
def test_nothing_of_what_is_learnt_changes(tmp_path: Path, architecture: str) -> None:
    config = replace(CONFIG, architecture=architecture, target_l0=4.0)
    blind, _ = run(tmp_path / "blind", config=config)
    followed, report = run(tmp_path / "followed", config=config, held_out=Rows())
    assert len(looks(report)) == len(LOOKS)
    # weights, moments, counters and the state of every random generator
    assert bytes_of(tmp_path / "followed") == bytes_of(tmp_path / "blind")
    assert followed.last["loss"] == blind.last["loss"]


@pytest.mark.parametrize("at", [2, 5, 9, 16])  # in the look at steps 15, 24, 30, 60
def test_a_look_that_a_pause_interrupts_is_made_up_for(tmp_path: Path, at: int) -> None:
    _, quiet = run(tmp_path / "quiet", held_out=Rows())
    control = JobControl()
    rows = Rows(lambda handed: control.pause() if handed == at else None)
    paused, first = run(tmp_path / "loud", held_out=rows, control=control)
    assert paused.outcome == "paused"
    step = LOOKS[(at - 1) // 3]
    assert paused.step == step, "no step is made before what is owed of the last"
    assert keeping.read_values(paused.checkpoint)["owed"]  # type: ignore[arg-type]
    newest = newest_checkpoint(tmp_path / "loud")
    ended, second = run(tmp_path / "loud", held_out=Rows(), resume_from=newest)
    assert ended.outcome == "completed"
    assert looks(first, second) == looks(quiet), "each once, and the same"
    assert bytes_of(tmp_path / "loud") == bytes_of(tmp_path / "quiet")
    kept = keeping.read_values(tmp_path / "loud" / "checkpoints" / f"step_{step:08d}")
    if step != 24:
        assert kept["held_out"]["n"] == 300
        assert kept["owed"] == []


def test_a_pause_just_after_a_look_loses_none_of_it(tmp_path: Path) -> None:
    """What goes on and is paused before its first step writes the same checkpoint again."""
    run(tmp_path, held_out=Rows())
    path = tmp_path / "checkpoints" / "step_00000045"
    before = keeping.read_values(path)
    control = JobControl()
    control.pause()
    _, report = run(tmp_path, held_out=Rows(), control=control, resume_from=path)
    after = keeping.read_values(path)
    assert after["held_out"] == before["held_out"]
    assert looks(report) == []


def test_a_stop_in_the_last_look_does_not_make_the_user_wait(tmp_path: Path) -> None:
    control = JobControl()
    rows = Rows(lambda handed: control.stop() if handed == 16 else None)
    result, report = run(tmp_path, held_out=rows, control=control)
    assert result.outcome == "completed"
    assert "was not measured on held-out text" in notes(report)
    assert [row["step"] for row in looks(report)] == LOOKS[:-1]
    assert bytes_of(tmp_path), "its checkpoint is there all the same"


def test_without_held_out_text_a_training_goes_on(tmp_path: Path) -> None:
    result, report = run(tmp_path, held_out=lambda: iter(()))
    assert (result.outcome, looks(report)) == ("completed", [])
    assert "held-out" not in notes(report)


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (DiskFull("The disk is full."), "The disk is full."),
        (OutOfMemory("The model does not fit."), "The model does not fit."),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "Memory ran out."),
    ],
)
def test_a_look_without_room_is_left_out(tmp_path: Path, failure: Exception, said: str) -> None:
    def broken(handed: int) -> None:
        if handed == 1:
            raise failure

    result, report = run(tmp_path, held_out=Rows(broken))
    assert result.outcome == "completed"
    assert f"Step 15 was not measured on held-out text: {said}" in notes(report)
    assert [row["step"] for row in looks(report)] == LOOKS[1:]


def test_a_mistake_in_a_look_is_not_hidden(tmp_path: Path) -> None:
    def broken(_handed: int) -> None:
        raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        run(tmp_path, held_out=Rows(broken))


def test_the_best_explains_held_out_text_best() -> None:
    found = [Kept(1000 * i, loss=1.0 / i, ev=None) for i in range(1, 6)]
    assert best_of(found) == 5000, "by loss while nothing is measured"
    measured = [kept._replace(ev=ev) for kept, ev in zip(found, [0.2, 0.7, 0.5, 0.7], strict=False)]
    assert best_of([*measured, found[4]]) == 2000, "the earlier of two equal ones"
    assert best_of([Kept(5), Kept(7)]) is None


def test_the_best_stays_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is neither the first nor the last nor that of the lowest loss."""
    looked: list[float] = []
    followed = measure_held(run(tmp_path / "other")[0].sae, Rows()(), lambda: None)  # type: ignore[arg-type]
    assert followed is not None

    def measured(*_: Any) -> dict[str, Any]:
        looked.append(0.9 if len(looked) == 5 else 0.5)  # the sixth is that of step 24
        return {**followed, "ev": looked[-1]}

    monkeypatch.setattr(follower, "measure_held", measured)
    run(tmp_path, config=replace(CONFIG, checkpoint_every=4, eval_every=0), held_out=Rows())
    assert len(looked) == 15
    steps = [keeping.step_of(found) for found in keeping.list_checkpoints(tmp_path)]
    assert {4, 24, 60} <= set(steps)
    assert 20 not in steps
    assert 28 not in steps


@pytest.mark.parametrize(("every", "steps"), [(25, [25, 50, 60]), (10, [10, 20, 30, 40, 50, 60])])
def test_the_curves_have_a_point_every_so_many_steps(
    tmp_path: Path, every: int, steps: list[int]
) -> None:
    _, report = run(tmp_path, config=replace(CONFIG, metrics_every=every))
    told = [event.values for event in report.events if event.kind == "metric"]
    assert [row["step"] for row in told if row["name"] == "training"] == steps
