"""What a run card says of pace, GPU and what asks for attention; templates in the form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mistudio.core.events import RecordingReporter
from mistudio.gui.reporting import Drained, Progress
from mistudio.gui.services import Services
from mistudio.gui.tabs.training.new_training import NewTraining
from mistudio.gui.tabs.training.reads import read_run
from mistudio.gui.tabs.training.run_card import RunCard
from mistudio.jobs.training_reporter import TrainingReporter
from mistudio.store import trainings
from mistudio.store.tables import TRAININGS
from tests.gui.training_world import add_training, add_world, metric_row


def card_of(qtbot: Any, services: Services, status: str = "training") -> RunCard:
    db = services.studio.db()
    row, _ = add_training(db, add_world(db), status)
    run = read_run(db, row.id)
    assert run is not None
    card = RunCard(run, services)
    qtbot.addWidget(card)
    return card


def rows(steps: Sequence[int], **values: Any) -> list[dict[str, Any]]:
    return [{**metric_row("t", s), "train_seconds": 0.5 * s, "dead": 3, **values} for s in steps]


def color(card: RunCard, tile: str) -> str:
    return str(card.tiles[tile]._value.property("role"))


def test_pace_memory_and_gpu(qtbot: Any, services: Services) -> None:
    card = card_of(qtbot, services)
    assert card.tiles["gpu"].isHidden(), "nothing is known of a GPU"
    told = Drained()
    told.progress = Progress(0.2, "Training", "5,000 tokens/s", 9999.0)
    measured = rows(range(10, 210, 10), gpu_percent=97.0, memory_bytes=2_000_000_000)
    card.take(measured, told)
    # 1,000 steps in all, half a second each
    assert "Step 200 / 1,000 · 5,000 tokens/s · 6 min 40 s left · 2.0 GB memory" in card.line.text()
    assert not card.tiles["gpu"].isHidden()
    assert card.tiles["gpu"].value() == "97 %"
    assert color(card, "gpu") == "metric-red"
    card.take(rows([210], gpu_percent=50.0), Drained())
    assert color(card, "gpu") == "metric-purple"


def test_what_was_measured_on_held_out_text_stands_below(qtbot: Any, services: Services) -> None:
    card = card_of(qtbot, services)
    assert card.tiles["ev"]._detail.isHidden()
    held = {"step": 20, "tokens": 1280, "heldout_ev": 0.41237, "train_seconds": 10.0}
    card.take([*rows([10, 20]), held], Drained())
    assert card.tiles["ev"]._detail.text() == "held out 0.4124"
    assert card.tiles["loss"].value() == f"{100 / 120:.4f}", "the figures of the training stay"
    again = card.run.training
    trainings.add_metrics(services.studio.db(), again, [{**held, "heldout_n": 9}])
    stored = read_run(services.studio.db(), again.id)
    assert stored is not None
    assert stored.held_out["ev"] == 0.41237


def test_colours_ask_for_attention(qtbot: Any, services: Services) -> None:
    card = card_of(qtbot, services)
    card.take(rows(range(10, 410, 10)), Drained())
    assert (color(card, "loss"), color(card, "dead")) == ("metric-emerald", "metric-text")
    rising = [{**row, "loss": float(row["step"])} for row in rows(range(410, 910, 10), dead=13)]
    card.take(rising, Drained())
    assert card.tiles["dead"].value() == "13 · 5.1 %"
    assert (color(card, "loss"), color(card, "dead")) == ("metric-yellow", "metric-red")


def test_seconds_of_steps_done_twice_count_once(services: Services) -> None:
    db = services.studio.db()
    row, _ = add_training(db, add_world(db), "training")
    services.studio.paths.run(row.id).mkdir(parents=True)

    live = RecordingReporter()

    def told(steps: Sequence[int]) -> None:
        report = TrainingReporter(live, services.studio, row)
        for step in steps:
            report.metric("training", {**metric_row(row.id, step), "seconds": 2.0})
        report.flush()

    told([10, 20, 30])
    told([20, 30, 40])  # resumed from step 10
    found = trainings.metrics(db, row.id)
    assert [(r["step"], r["train_seconds"]) for r in found] == [
        (10, 2.0),
        (20, 4.0),
        (30, 6.0),
        (40, 8.0),
    ]
    shown = {event.values["step"]: event.values["memory_bytes"] for event in live.events[:3]}
    assert {r["step"]: r["memory_bytes"] for r in found[:3]} == shown, "as it was told live"
    assert all(isinstance(value, int) and value > 10_000_000 for value in shown.values())
    assert TRAININGS.get(db, row.id).current_step == 40


def test_a_template_fits_itself_to_the_model(qtbot: Any, services: Services) -> None:
    db = services.studio.db()
    add_world(db)
    form = NewTraining(services)
    qtbot.addWidget(form)
    qtbot.waitUntil(lambda: len(form.templates.lines) == 3 and services.query.is_idle())
    assert [line.row.name for line in form.templates.lines][2] == "Large Expansion"
    form.model.set_value("")
    chosen = next(line for line in form.templates.lines if line.row.name == "High Quality")
    chosen.load.click()
    assert "follow from the model" in form.note.text()
    form.model.set_value("gpt-tiny")
    form.form.changed.emit()
    config = form.form.values()
    assert (config.width, config.layer) == (8 * 64, 5)
    assert (config.learning_rate, config.batch, config.schedule) == (3e-4, 4096, "cosine")
    assert form.note.isHidden()
    form.form.set_values({"width": 300})
    assert form.form.values().width == 300, "it is the user's from then on"
    form.templates.name.setText("mine")
    form.templates.save_button.click()
    qtbot.waitUntil(lambda: len(form.templates.lines) == 4)
