"""The checkpoints of a run in the window: marks, pins, deletion, retention, continuing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtWidgets import QApplication

from mistudio.core.run_configs import WriteSaeConfig
from mistudio.core.training_configs import TrainConfig
from mistudio.gui.services import Services
from mistudio.gui.tabs.training import checkpoints_pane, retention_row
from mistudio.gui.tabs.training.checkpoints_pane import CheckpointsPane
from mistudio.gui.tabs.training.continue_dialog import ContinueDialog
from mistudio.gui.tabs.training.reads import read_run
from mistudio.jobs import checkpoints
from mistudio.store import trainings
from tests.gui.training_world import add_training, add_world


def write(folder: Path, step: int, loss: float) -> None:
    """A checkpoint folder as the list and the rule see it, with a true manifest."""
    import hashlib

    path = folder / "checkpoints" / f"step_{step:08d}"
    path.mkdir(parents=True)
    files = {
        "model.safetensors": b"weights",
        "optimizer.safetensors": b"moments",
        "state.safetensors": b"counters",
        "state.json": json.dumps({"step": step, "loss": loss, "l0": 8.0}).encode(),
    }
    for name, content in files.items():
        (path / name).write_bytes(content)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    (path / "manifest.json").write_text(json.dumps({"step": step, "sha256": hashes}))


def pane_of(
    qtbot: Any, services: Services, steps: list[int], status: str = "completed"
) -> CheckpointsPane:
    db = services.studio.db()
    row, _ = add_training(db, add_world(db), status, current_step=max(steps))
    for step in steps:
        write(services.studio.paths.run(row.id), step, loss=0.1 if step == steps[1] else 1.0)
    checkpoints.mirror(services.studio, row.id)
    run = read_run(db, row.id)
    assert run is not None
    pane = CheckpointsPane(run, services)
    qtbot.addWidget(pane)
    pane.show()
    qtbot.waitUntil(lambda: pane.table.rowCount() == len(steps) and services.query.is_idle())
    return pane


def steps_of(services: Services, pane: CheckpointsPane) -> list[int]:
    rows = trainings.checkpoints(services.studio.db(), pane._run.training.id)
    return [row.step for row in rows]


def idle(qtbot: Any, services: Services) -> None:
    qtbot.waitUntil(services.query.is_idle)


def test_marks_pins_and_deletion(
    qtbot: Any, services: Services, window_stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pane = pane_of(qtbot, services, [10, 20, 30])
    assert [(line[0], line[2], line[6]) for line in pane.table.texts()] == [
        ("30", "8.0", "newest"),
        ("20", "8.0", "best"),
        ("10", "8.0", ""),
    ]
    assert pane.save_button.isHidden()
    pane.table.selectRow(2)
    pane.actions_by_name["pin"].click()
    idle(qtbot, services)
    assert pane.table.texts()[2][6] == "pinned"
    assert pane.actions_by_name["pin"].text() == "Unpin"
    assert not pane.actions_by_name["delete"].isEnabled()
    pane.actions_by_name["pin"].click()
    idle(qtbot, services)
    asked: list[str] = []
    monkeypatch.setattr(
        checkpoints_pane, "confirm", lambda _, title, sentence: asked.append(title) or True
    )
    pane.actions_by_name["delete"].click()
    idle(qtbot, services)
    assert asked == ["Delete the checkpoint of step 10?"]
    assert steps_of(services, pane) == [30, 20]
    (said,) = window_stub.banners
    assert said.startswith("The checkpoint of step 10 is deleted.")
    for work in window_stub.undone[said]:
        work()
    idle(qtbot, services)
    idle(qtbot, services)
    assert steps_of(services, pane) == [30, 20, 10]


def test_held_out_figures_stand_with_their_checkpoint_and_tell_the_best(
    qtbot: Any, services: Services
) -> None:
    pane = pane_of(qtbot, services, [10, 20, 30])
    assert [line[3] for line in pane.table.texts()] == ["—", "—", "—"]
    training = pane._run.training
    figures = {"heldout_l0": 7.5, "heldout_dead": 0.125, "heldout_n": 32_768}
    measured = ((10, 0.7), (20, 0.5), (30, 0.6))
    rows = [{"step": step, "heldout_ev": ev, **figures} for step, ev in measured]
    trainings.add_metrics(services.studio.db(), training, rows)
    checkpoints.mirror(services.studio, training.id)
    pane.read()
    idle(qtbot, services)
    assert [(line[0], line[3], line[6]) for line in pane.table.texts()] == [
        ("30", "0.6000", "newest"),
        ("20", "0.5000", ""),  # the lowest loss
        ("10", "0.7000", "best"),
    ]
    item = pane.table.item(0, 3)
    assert item is not None
    assert "On 32,768 tokens held out: explained variance 0.6000, L0 7.5, 12.5 %" in item.toolTip()


def test_the_newest_of_an_unfinished_run_cannot_go(qtbot: Any, services: Services) -> None:
    pane = pane_of(qtbot, services, [10, 20], status="training")
    pane.table.selectRow(0)
    assert not pane.actions_by_name["delete"].isEnabled()
    assert "newest" in pane.actions_by_name["delete"].toolTip()
    pane.table.selectRow(1)
    assert pane.actions_by_name["delete"].isEnabled()
    assert not pane.save_button.isHidden()
    pane.save_button.click()
    job = pane._run.job
    assert job is not None
    from mistudio.store.tables import JOBS

    assert JOBS.get(services.studio.db(), job.id).request == "save"


def test_preview_then_apply(
    qtbot: Any, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    pane = pane_of(qtbot, services, [1000 * i for i in range(1, 9)])
    row = pane.retention
    assert row.preview.text() == "The rule keeps all of them."
    assert not row.apply_button.isEnabled()
    row.cap.setValue(4)
    idle(qtbot, services)
    assert row.preview.text().startswith("Would delete steps 3,000, 4,000, 5,000, 6,000 (")
    assert len(steps_of(services, pane)) == 8
    monkeypatch.setattr(retention_row, "confirm", lambda *_: True)
    row.apply_button.click()
    qtbot.waitUntil(lambda: pane.table.rowCount() == 4)
    idle(qtbot, services)
    assert steps_of(services, pane) == [8000, 7000, 2000, 1000]
    assert checkpoints.decisions(services.studio, pane._run.training.id).cap == 4
    assert row.every.isHidden(), "it has ended"


def test_the_interval_of_a_run_that_trains(qtbot: Any, services: Services) -> None:
    pane = pane_of(qtbot, services, [10, 20], status="training")
    row = pane.retention
    assert row.auto.isChecked()
    assert row.every.value() == 1000
    row.every.setValue(200)
    row.every.editingFinished.emit()
    idle(qtbot, services)
    training = pane._run.training.id
    assert checkpoints.decisions(services.studio, training).every == 200
    row.auto.click()
    idle(qtbot, services)
    assert checkpoints.decisions(services.studio, training).every == 0


def test_continue_and_write_sae(
    qtbot: Any, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    pane = pane_of(qtbot, services, [10, 20])
    sent: list[Any] = []
    monkeypatch.setattr(
        services.studio, "submit", lambda kind, config, title="": sent.append((kind, config)) or "j"
    )
    training = pane._run.training
    pane.table.selectRow(1)
    pane.actions_by_name["write"].click()
    pane.actions_by_name["continue"].click()

    def dialogs() -> list[ContinueDialog]:
        found = QApplication.topLevelWidgets()
        return [w for w in found if isinstance(w, ContinueDialog) and w.isVisible()]

    qtbot.waitUntil(lambda: len(dialogs()) == 1)
    dialog = dialogs()[0]
    dialog.form.set_values({"tokens": 4_000_000, "k": 16})
    dialog.start_button.click()
    assert sent[0] == ("write_sae", WriteSaeConfig(training.id, 10))
    kind, config = sent[1]
    assert kind == "train"
    assert isinstance(config, TrainConfig)
    assert config.continue_from == f"{training.id}@10"
    assert (config.tokens, config.k, config.width, config.layer) == (4_000_000, 16, 256, 3)
