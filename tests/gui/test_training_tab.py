"""The Training tab: form, run cards, live curves, library."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PySide6.QtCore import QItemSelectionModel, QPoint, QPointF, Qt, QTimer
from PySide6.QtGui import QColor, QWheelEvent
from PySide6.QtWidgets import QApplication

from mistudio.core.comparison_configs import CompareSaesConfig, SurvivalConfig
from mistudio.core.configs import EvaluateConfig, HarvestConfig
from mistudio.core.dataset_configs import ImportDatasetConfig
from mistudio.core.errors import InvalidInput
from mistudio.core.model_configs import ImportModelConfig
from mistudio.core.training_configs import TrainConfig
from mistudio.gui.lanes import Lanes
from mistudio.gui.reporting import Drained, Note, Progress
from mistudio.gui.services import Services
from mistudio.gui.tabs.training import TrainingTab
from mistudio.gui.tabs.training.compare_dialog import CompareDialog
from mistudio.gui.tabs.training.metrics_pane import MetricsPane
from mistudio.gui.tabs.training.run_card import RunCard
from mistudio.gui.tabs.training.series import MetricSeries, smoothed
from mistudio.gui.tabs.training.training_form import FRESH
from mistudio.gui.theme import appearance
from mistudio.jobs.shipped_templates import fitted
from mistudio.store import trainings
from mistudio.store.jobs import add_job
from mistudio.store.tables import FEATURE_SETS, JOBS, MODELS, SAES, TRAININGS
from tests.gui.training_world import (
    EVALUATION,
    ScriptedSource,
    World,
    add_sae,
    add_training,
    add_world,
    metric_row,
)


class Desk:
    """The services of a window that is not there, what was asked of it, and a small library."""

    def __init__(self, services: Services, window: Any) -> None:
        self.services, self.window = services, window
        self.tabs: list[TrainingTab] = []
        services.query.failed.connect(window.banner)
        self.world: World = add_world(self.db)

    @property
    def db(self) -> Any:
        return self.services.studio.db()

    @property
    def opened(self) -> list[tuple[str, dict[str, Any]]]:
        return self.window.opened


@pytest.fixture
def desk(services: Services, window_stub: Any) -> Iterator[Desk]:
    made = Desk(services, window_stub)
    yield made
    made.tabs.clear()


def shown(qtbot: Any, desk: Desk) -> TrainingTab:
    tab = TrainingTab(desk.services)
    desk.tabs.append(tab)
    qtbot.addWidget(tab)
    tab.resize(1240, 640)
    tab.show()
    settle(qtbot, desk)
    return tab


def settle(qtbot: Any, desk: Desk) -> None:
    qtbot.waitUntil(desk.services.query.is_idle)
    assert desk.window.banners == []


def card_of(tab: TrainingTab, training_id: str) -> RunCard:
    return tab.runs.list.cards[training_id]


def visible(card: RunCard) -> set[str]:
    return {name for name, found in card.buttons.items() if not found.isHidden()}


# -- the form


def test_form_gives_the_config_it_shows(qtbot: Any, desk: Desk, monkeypatch: Any) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(
        desk.services.studio,
        "submit",
        lambda kind, config, title="": sent.append(config) or "job_1",
    )
    form = shown(qtbot, desk).runs.form
    assert form.model.value() == "gpt-tiny"  # the only one there is
    assert not form.start_button.isEnabled()
    assert form.reason.text() == "Choose a model and a dataset."
    form.dataset.set_value(desk.world.tokenization)
    form.layers.set_value(5)
    for name, value in (("width", 512), ("k", 16), ("tokens", 4096), ("context", 64)):
        form.form.fields[name].editor.set_value(value)
    assert form.start_button.isEnabled()
    assert "2 steps of 2,048 tokens" in form.summary.text()
    # 4 bytes × (2 × 512 × 64 weights + 64 + 2 × 512 others)
    assert "estimated SAE size 266.5 kB" in form.summary.text()
    form.start_button.click()
    assert sent == [
        TrainConfig(
            model="gpt-tiny",
            dataset=desk.world.tokenization,
            layer=5,
            width=512,
            k=16,
            tokens=4096,
            context=0,  # the tokenisation has its own
        )
    ]


def test_layers_are_those_of_the_model(qtbot: Any, desk: Desk) -> None:
    form = shown(qtbot, desk).runs.form
    form.layers.set_value(40)
    assert form.layers.value() == "11"
    assert form.layers.hint.text() == "0–11 · 100 % of the depth"
    form.model.set_value("")
    form.layers.set_value(40)
    assert form.layers.value() == "40"
    assert form.layers.hint.text() == "Choose a model to see its layers."


def test_latents_follow_the_width_of_the_hook(qtbot: Any, desk: Desk) -> None:
    MODELS.insert(
        desk.db, name="wide", origin="folder", path="/w", num_layers=30, hidden_dim=576,
        layer_map={"widths": {"attn_z": 1024, "resid_post": 576}}, status="ready",
    )  # fmt: skip
    form = shown(qtbot, desk).runs.form
    form.model.set_value("wide")
    assert form.form.width_editor.value() == "4608"
    form.form.hooks.set_value(["attn_z"])
    assert form.form.width_editor.value() == "8192"
    form.form.hooks.set_value(["attn_z", "resid_post"])  # of several widths: the model's
    assert form.form.width_editor.value() == "4608"


def test_layer_and_latents_follow_the_model_until_they_are_chosen(qtbot: Any, desk: Desk) -> None:
    MODELS.insert(
        desk.db, name="wide", origin="folder", path="/w", num_layers=30, hidden_dim=576,
        status="ready",
    )  # fmt: skip
    form = shown(qtbot, desk).runs.form
    assert (form.layers.value(), form.form.width_editor.value()) == ("0", "4096")
    form.model.set_value("gpt-tiny")
    assert (form.layers.value(), form.form.width_editor.value()) == ("5", "512")
    form.form.set_model(192, 5)
    assert form.form.width_editor.value() == "1536"
    assert fitted(FRESH, 192, 5)["layers"] == "2", "the middle one of five"
    form.model.set_value("wide")
    assert (form.layers.value(), form.form.width_editor.value()) == ("14", "4608")
    form.layers.grid.toggles[14].click()
    form.layers.grid.toggles[0].click()  # a choice
    form.model.set_value("gpt-tiny")
    assert (form.layers.value(), form.form.width_editor.value()) == ("0", "512")
    form.model.set_value("wide")
    assert (form.layers.value(), form.form.width_editor.value()) == ("0", "4608")
    form.form.reset()
    form.model.set_value("wide")
    assert (form.layers.value(), form.form.width_editor.value()) == ("14", "4608")
    form.form.set_values({"layer": 14, "width": 4608})  # as an earlier run had them
    form.model.set_value("gpt-tiny")
    assert (form.layers.value(), form.form.width_editor.value()) == ("11", "4608")


def test_only_fitting_texts_are_offered(qtbot: Any, desk: Desk) -> None:
    form = shown(qtbot, desk).runs.form
    offered = [form.dataset.combo.itemText(i) for i in range(form.dataset.combo.count())]
    assert sorted(offered) == [
        "Choose a dataset",
        "news · tokenised first",
        "tales · 128 tokens a row · 5.1k tokens",
        "tales · newest tokenisation",
    ]
    form.model.set_value("")
    assert form.dataset.combo.count() == 3


def test_wrong_values_are_named_beside_their_field(qtbot: Any, desk: Desk) -> None:
    form = shown(qtbot, desk).runs.form
    form.dataset.set_value("tales")
    form.form.fields["k"].editor.set_value(5000)
    assert form.form.fields["k"].problem.text() == "k is 5,000 but the SAE has 512 latents."
    assert not form.start_button.isEnabled()
    assert form.reason.text() == "Correct the fields marked in red."
    form.form.reset()
    assert form.form.fields["k"].problem.text() == ""


def test_a_refused_run_leaves_its_sentence(qtbot: Any, desk: Desk, monkeypatch: Any) -> None:
    def refuse(kind: str, config: Any, title: str = "") -> str:
        raise InvalidInput("Layer 3 does not exist.")

    monkeypatch.setattr(desk.services.studio, "submit", refuse)
    form = shown(qtbot, desk).runs.form
    form.dataset.set_value("tales")
    form.start_button.click()
    assert form.problem.text() == "Layer 3 does not exist."
    assert not form.problem.isHidden()


def test_copied_command_names_things(qtbot: Any, desk: Desk) -> None:
    form = shown(qtbot, desk).runs.form
    form.dataset.set_value("news")
    form.form.copy_command()
    assert QApplication.clipboard().text() == (
        "mistudio train --model gpt-tiny --dataset news --layer 5 --width 512"
    )


def test_form_comes_back_with_its_last_values(qtbot: Any, desk: Desk) -> None:
    form = shown(qtbot, desk).runs.form
    form.dataset.set_value("news")
    form.form.fields["width"].editor.set_value(777)
    form.start_button.click()
    settle(qtbot, desk)
    again = shown(qtbot, desk).runs.form
    assert again.dataset.value() == "news"
    assert again.form.values().width == 777


def test_empty_library_points_to_the_next_tab(qtbot: Any, desk: Desk) -> None:
    desk.db.execute("DELETE FROM models")
    form = shown(qtbot, desk).runs.form
    assert form.reason.text() == "There is no model yet."
    form.get_button.click()
    assert desk.opened == [("Models", {})]


# -- run cards


@pytest.mark.parametrize(
    ("status", "offered"),
    [
        ("queued", {"cancel"}),
        ("initializing", {"stop"}),
        ("training", {"pause", "save", "stop"}),
        ("stopping", set()),
        ("paused", {"resume", "stop"}),
        ("interrupted", {"resume", "stop", "delete"}),
        ("stopped", {"retry", "delete"}),
        ("failed", {"retry", "delete"}),
    ],
)
def test_buttons_by_state(qtbot: Any, desk: Desk, status: str, offered: set[str]) -> None:
    row, _ = add_training(desk.db, desk.world, status, error_message="The disk is full.")
    card = card_of(shown(qtbot, desk), row.id)
    assert visible(card) == offered
    assert card.pill.state() == status
    assert card.failure.isHidden() == (status != "failed")
    assert card.failure.text() == "The disk is full."


def test_completed_run_offers_its_sae(qtbot: Any, desk: Desk, monkeypatch: Any) -> None:
    db = desk.db
    sae = add_sae(db, desk.world, "one", evaluation=EVALUATION)
    row, _ = add_training(db, desk.world, "completed", sae_id=sae.id)
    sent: list[Any] = []
    monkeypatch.setattr(
        desk.services.studio,
        "submit",
        lambda kind, config, title="": sent.append((kind, config)) or "j",
    )
    card = card_of(shown(qtbot, desk), row.id)
    assert visible(card) == {"features", "steer", "retry", "delete"}
    card.buttons["features"].click()
    card.buttons["steer"].click()
    assert sent == [("harvest", HarvestConfig(sae=sae.id))]
    assert desk.opened == [("Features", {"sae": sae.id}), ("Steering", {"sae": sae.id})]


def test_requests_reach_the_job(qtbot: Any, desk: Desk, monkeypatch: Any) -> None:
    row, job = add_training(desk.db, desk.world, "training")
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(desk.services.studio, "request", lambda *given: asked.append(given))
    card = card_of(shown(qtbot, desk), row.id)
    for name in ("pause", "save", "stop"):
        card.buttons[name].click()
    assert asked == [(job.id, "pause"), (job.id, "save"), (job.id, "stop")]


def test_resume_queues_the_run_again(qtbot: Any, desk: Desk) -> None:
    row, job = add_training(desk.db, desk.world, "paused")
    tab = shown(qtbot, desk)
    tab.pause_resume()
    settle(qtbot, desk)
    qtbot.waitUntil(lambda: card_of(tab, row.id).pill.state() == "queued")
    assert JOBS.get(desk.db, job.id).status == "queued"


def test_delete_asks_and_removes(qtbot: Any, desk: Desk, monkeypatch: Any) -> None:
    db = desk.db
    row, _ = add_training(db, desk.world, "failed")
    folder = desk.services.studio.paths.checkpoints(row.id)
    folder.mkdir(parents=True)
    asked: list[str] = []
    monkeypatch.setattr(
        "mistudio.gui.tabs.library.deleting.confirm", lambda *given, **_: asked.append(given[1])
    )
    tab = shown(qtbot, desk)
    card_of(tab, row.id).buttons["delete"].click()
    qtbot.waitUntil(lambda: bool(asked))
    assert "run failed" in asked[0]
    assert folder.exists()  # the answer was no
    monkeypatch.setattr("mistudio.gui.tabs.library.deleting.confirm", lambda *_, **__: True)
    card_of(tab, row.id).buttons["delete"].click()
    qtbot.waitUntil(lambda: not tab.runs.list.cards)
    assert not folder.exists()
    assert TRAININGS.find(db, row.id) is None


def test_active_runs_come_first_and_filters_narrow(qtbot: Any, desk: Desk) -> None:
    db = desk.db
    ids = {s: add_training(db, desk.world, s)[0].id for s in ("training", "completed", "failed")}
    tab = shown(qtbot, desk)
    assert list(tab.runs.list.cards) == [ids["training"], ids["failed"], ids["completed"]]
    texts = [found.text() for found in tab.runs.list.filters.values()]
    assert texts == ["All (3)", "Active (1)", "Completed (1)", "Stopped (0)", "Failed (1)"]
    tab.runs.list.filters["Failed"].click()
    settle(qtbot, desk)
    assert list(tab.runs.list.cards) == [ids["failed"]]
    tab.runs.list.set_filter("All")
    tab.runs.list.search.setText("tales completed")
    tab.runs.list.refresh()
    settle(qtbot, desk)
    assert list(tab.runs.list.cards) == [ids["completed"]]


def test_refresh_keeps_cards_and_open_panes(qtbot: Any, desk: Desk) -> None:
    db = desk.db
    row, _ = add_training(db, desk.world, "training")
    tab = shown(qtbot, desk)
    card = card_of(tab, row.id)
    card.open_pane("settings")
    TRAININGS.update(db, row.id, latest_loss=0.25, latest_dead=64, current_step=500)
    desk.services.publisher.publish("trainings", row.id)
    settle(qtbot, desk)
    assert card_of(tab, row.id) is card
    assert card.open_panes() == ["settings"]
    assert card.tiles["loss"].value() == "0.2500"
    assert card.tiles["dead"].value() == "64 · 25.0 %"
    again = card_of(shown(qtbot, desk), row.id)
    assert again.open_panes() == ["settings"]


def test_live_figures_reach_card_log_and_tiles(qtbot: Any, desk: Desk) -> None:
    row, job = add_training(desk.db, desk.world, "training")
    tab = shown(qtbot, desk)
    card = card_of(tab, row.id)
    card.open_pane("log")
    settle(qtbot, desk)
    told = Drained(Progress(0.5, "Training", "2,000 tokens/s", 75.0))
    told.metrics.append(("training", metric_row(row.id, 500)))
    told.notes.append(Note("One batch was skipped.", "warning"))
    desk.services.lanes.drained.emit(job.id, told)
    assert card.tiles["loss"].value() == "0.1667"
    assert card.tiles["l0"].value() == "8.0"
    assert card.line.text() == "Step 500 / 1,000 · 2,000 tokens/s · 1 min 15 s left"
    assert card.bar.value() == 50.0
    assert "WARNING: One batch was skipped." in card.panes["log"].text.toPlainText()


def test_the_log_of_a_run_is_its_own(qtbot: Any, desk: Desk) -> None:
    """Also of one that another job trained, such as the sample's, or several in a sweep."""
    rows = [add_training(desk.db, desk.world, "training", group_id="s")[0] for _ in range(2)]
    paths = desk.services.studio.paths
    for job in JOBS.select(desk.db):
        JOBS.delete(desk.db, job.id)
    job = add_job(desk.db, "sweep", "gpu", "Train several", {}, target_id="s")
    JOBS.update(desk.db, job.id, status="running")
    add_note(paths.logs / "jobs" / f"{job.id}.jsonl", "SAE 1: 10 % are done.", "5 layers at once.")
    add_note(paths.logs / "jobs" / f"{job.id}.jsonl", "SAE 2: 10 % are done.", "It is hot.")
    add_note(paths.run(rows[1].id) / "log.jsonl", "10 % are done.", "It is hot.")
    card = card_of(shown(qtbot, desk), rows[1].id)
    card.open_pane("log")
    settle(qtbot, desk)
    text = card.panes["log"].text
    assert [line[8:].strip() for line in text.toPlainText().splitlines()] == [
        "10 % are done.",
        "It is hot.",
        "5 layers at once.",
    ]
    told = Drained()
    told.notes += [Note(f"SAE {n}: {n}0 % are done.", "info") for n in (1, 2)]
    told.notes.append(Note("The disk fills.", "info"))
    card.take([], told)
    assert [line[8:].strip() for line in text.toPlainText().splitlines()][3:] == [
        "20 % are done.",
        "The disk fills.",
    ]


def add_note(path: Path, *sentences: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        for text in sentences:
            line = {"time": "2026-01-01T00:00:00+00:00", "level": "info", "text": text}
            stream.write(json.dumps(line) + "\n")


def test_checkpoints_and_evaluation_of_a_run(qtbot: Any, desk: Desk, monkeypatch: Any) -> None:
    db = desk.db
    sae = add_sae(db, desk.world, "one", evaluation=EVALUATION)
    row, _ = add_training(db, desk.world, "completed", sae_id=sae.id)
    for step, best in ((100, True), (200, False)):
        trainings.record_checkpoint(
            db, row.id, step, f"s{step}", size_bytes=1234, loss=0.5, l0=8.0, is_best=best
        )
    card = card_of(shown(qtbot, desk), row.id)
    assert card.toggles["checkpoints"].text() == "Checkpoints (2)"
    card.toggles["checkpoints"].click()
    card.toggles["evaluation"].click()
    settle(qtbot, desk)
    texts = card.panes["checkpoints"].table.texts()
    assert [line[:5] for line in texts] == [
        ["200", "0.5000", "8.0", "—", "1.2 kB"],
        ["100", "0.5000", "8.0", "—", "1.2 kB"],
    ]
    assert [line[6] for line in texts] == ["newest", "best"]
    pane = card.panes["evaluation"]
    shown_rows = pane.table.texts()
    assert shown_rows[0] == ["Reconstruction", "", "", ""]
    assert shown_rows[1] == ["Explained variance", "0.8123", "0.8000 to 0.8200", "10,000"]
    assert "constant error" in pane.table.item(1, 0).toolTip()
    assert pane.table.columnSpan(0, 0) == 4
    heads = [line[0] for line in shown_rows if line[1] == ""]
    assert heads == ["Reconstruction", "Sparsity", "Cost to the language model", "Latents"]
    assert ["Never fired", "1.56 %", "—", "10,000"] in pane.table.texts()
    assert not any("KL" in line[0] for line in pane.table.texts())  # not a number: not shown
    sent: list[Any] = []
    monkeypatch.setattr(
        desk.services.studio,
        "submit",
        lambda kind, config, title="": sent.append((kind, config)) or "j",
    )
    pane.evaluate_button.click()
    assert sent == [("evaluate", EvaluateConfig(sae=sae.id))]


def test_a_selected_run_is_marked_and_revealed(qtbot: Any, desk: Desk) -> None:
    ids = [add_training(desk.db, desk.world, "failed")[0].id for _ in range(6)]
    tab = shown(qtbot, desk)
    tab.runs.list.set_filter("Active")
    settle(qtbot, desk)
    assert not tab.runs.list.cards
    tab.select(run=ids[0])
    qtbot.waitUntil(lambda: ids[0] in tab.runs.list.cards)
    card = card_of(tab, ids[0])
    assert card.property("active")
    qtbot.waitUntil(lambda: not card.visibleRegion().isEmpty())


def test_a_chart_leaves_the_wheel_to_the_page(qtbot: Any, desk: Desk) -> None:
    row, _ = add_training(desk.db, desk.world, "completed")
    tab = shown(qtbot, desk)
    card = card_of(tab, row.id)
    card.open_pane("metrics")
    settle(qtbot, desk)
    pane: MetricsPane = card.panes["metrics"]  # type: ignore[assignment]
    qtbot.waitUntil(lambda: "loss" in pane.plots)
    plot = pane.plots["loss"].plot
    plot.setXRange(0, 10)
    before, view = plot.viewRange(), plot.viewport()
    middle = QPointF(view.rect().center())
    event = QWheelEvent(
        middle,
        view.mapToGlobal(middle),
        QPoint(0, 0),
        QPoint(0, -240),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(view, event)
    assert not event.isAccepted()  # so that Qt passes a real one on to the scrolling page
    assert plot.viewRange() == before


def test_a_run_of_another_process_is_followed(qtbot: Any, desk: Desk) -> None:
    row, _ = add_training(desk.db, desk.world, "training")
    card = card_of(shown(qtbot, desk), row.id)
    card.open_pane("metrics")
    settle(qtbot, desk)
    trainings.add_metrics(desk.db, row, [metric_row(row.id, step) for step in range(10, 110, 10)])
    TRAININGS.update(desk.db, row.id, current_step=100, latest_loss=0.5)
    pane: MetricsPane = card.panes["metrics"]  # type: ignore[assignment]
    qtbot.waitUntil(lambda: pane.series.last_step() == 100, timeout=5000)
    assert card.tiles["loss"].value() == "0.5000"


# -- curves


def test_curves_show_the_stored_rows(qtbot: Any, desk: Desk) -> None:
    db = desk.db
    row, _ = add_training(db, desk.world, "completed")
    trainings.add_metrics(db, row, [metric_row(row.id, step) for step in range(10, 510, 10)])
    card = card_of(shown(qtbot, desk), row.id)
    card.open_pane("metrics")
    settle(qtbot, desk)
    pane: MetricsPane = card.panes["metrics"]  # type: ignore[assignment]
    qtbot.waitUntil(lambda: len(pane.plots) == 4)
    steps, losses = pane.plots["loss"].points("Loss")
    assert len(steps) == 50
    assert losses[-1] == pytest.approx(100 / 600)
    _, dead = pane.plots["dead"].points("Dead latents (%)")
    assert dead[0] == pytest.approx(100 * 3 / 256)
    pane.smooth_button.click()
    assert len(pane.plots["loss"].points("raw")[0]) == 50
    assert np.ptp(pane.plots["dead"].points("smoothed")[1]) < np.ptp(dead)


def test_rows_that_come_while_older_ones_are_read() -> None:
    series = MetricSeries()
    series.add([metric_row("t", 30), metric_row("t", 40)])
    series.insert([metric_row("t", 10), metric_row("t", 20), metric_row("t", 30)], after=-1)
    assert series.column("step").tolist() == [10, 20, 30, 40]
    series.insert([metric_row("t", 25)], after=20)
    assert series.column("step").tolist() == [10, 20, 25, 30, 40]
    assert series.add([metric_row("t", 40), {"step": 50}]) == 1
    assert np.isnan(series.column("loss")[-1])


def test_smoothing_is_a_centred_mean() -> None:
    line = np.arange(9.0)
    assert smoothed(line, 3)[1:-1] == pytest.approx(line[1:-1])
    assert smoothed(line, 3)[0] == pytest.approx(0.5)
    with_gap = np.array([1.0, np.nan, 3.0])
    assert np.isnan(smoothed(with_gap, 3)[1])
    assert smoothed(with_gap, 3)[0] == 1.0
    assert smoothed(np.array([2.0]))[0] == 2.0


def test_fast_metrics_leave_the_window_responsive(
    qtbot: Any, desk: Desk, qapp: QApplication
) -> None:
    row, job = add_training(desk.db, desk.world, "training")
    source = ScriptedSource(job.id, row.id, seconds=1.5, pause=0.0005)
    lanes = Lanes(source)
    object.__setattr__(desk.services, "lanes", lanes)
    tab = shown(qtbot, desk)
    card = card_of(tab, row.id)
    card.open_pane("metrics")
    settle(qtbot, desk)
    beats: list[float] = []
    heart = QTimer()
    heart.timeout.connect(lambda: beats.append(time.monotonic()))
    heart.start(5)
    lanes.start()
    try:
        pane: MetricsPane = card.panes["metrics"]  # type: ignore[assignment]
        qtbot.waitUntil(lambda: len(pane.plots) == 4, timeout=5000)
        qtbot.waitUntil(lambda: len(pane.plots["loss"].points("Loss")[0]) > 50, timeout=5000)
        with qtbot.waitSignal(lanes.finished, timeout=5000):
            card.toggles["metrics"].setChecked(False)
            hidden = len(pane.plots["loss"].points("Loss")[0])
        assert len(pane.plots["loss"].points("Loss")[0]) == hidden  # nothing drawn while hidden
        card.toggles["metrics"].setChecked(True)
        assert len(pane.plots["loss"].points("Loss")[0]) == source.steps > 500
    finally:
        heart.stop()
        lanes.join()
    gaps = np.diff(beats)
    assert float(np.quantile(gaps, 0.99)) < 0.1
    assert float(gaps.max()) < 0.3


# -- library


def test_library_lists_sorts_searches(qtbot: Any, desk: Desk) -> None:
    db = desk.db
    add_sae(db, desk.world, "alpha", evaluation={**EVALUATION, "kl_div_score": 0.9})
    add_sae(db, desk.world, "beta", evaluation={"ev": 0.9, "l0": 12.0})
    add_sae(db, desk.world, "gamma", origin="imported", model_id=None)
    tab = shown(qtbot, desk)
    tab.show_view(1)
    qtbot.waitUntil(lambda: texts(tab, 1) == ["gamma", "beta", "alpha"])
    column = [c.title for c in tab.library.model.columns].index("EV")
    tab.library.table.horizontalHeader().setSortIndicator(column, Qt.SortOrder.DescendingOrder)
    qtbot.waitUntil(lambda: texts(tab, 1) == ["beta", "alpha", "gamma"])
    assert texts(tab, column) == ["0.9000", "0.8123", "—"]
    tab.library.search.setText("imported gpt")
    tab.library.refresh()
    qtbot.waitUntil(lambda: texts(tab, 1) == ["gamma"])


def texts(tab: TrainingTab, column: int) -> list[str]:
    model = tab.library.model
    return [model.index(r, column).data() for r in range(model.rowCount())]


def test_library_actions_follow_the_selection(qtbot: Any, desk: Desk, monkeypatch: Any) -> None:
    db = desk.db
    orphan = add_sae(db, desk.world, "orphan", model_id=None)
    sae = add_sae(db, desk.world, "one")
    tab = shown(qtbot, desk)
    library = tab.library
    assert not any(found.isEnabled() for found in library.buttons.values())
    tab.select(sae=orphan.id)
    qtbot.waitUntil(lambda: library.buttons["rename"].isEnabled())
    assert not library.buttons["steer"].isEnabled()
    tab.select(sae=sae.id)
    qtbot.waitUntil(lambda: library.buttons["steer"].isEnabled())
    library.buttons["steer"].click()
    assert desk.opened == [("Steering", {"sae": sae.id})]
    module = "mistudio.gui.ask.text"
    monkeypatch.setattr(module, lambda *_: (" two ", True))
    library.buttons["rename"].click()
    qtbot.waitUntil(lambda: "two" in texts(tab, 1))
    assert SAES.get(db, sae.id).name == "two"
    assert library.current().id == sae.id  # the selection outlives the refresh


def test_dead_latents_are_red_only_where_they_are_many(qtbot: Any, desk: Desk) -> None:
    for name, dead in (("none", 0.0), ("few", 0.05), ("many", 0.0501), ("unmeasured", None)):
        figures = EVALUATION if dead is None else {**EVALUATION, "dead": dead}
        add_sae(desk.db, desk.world, name, evaluation=figures if dead is not None else None)
    tab = shown(qtbot, desk)
    tab.select(sae=SAES.select(desk.db)[0].id)
    model = tab.library.model
    qtbot.waitUntil(lambda: len(texts(tab, 1)) == 4 and "…" not in texts(tab, 1))
    column = [c.title for c in model.columns].index("Dead")
    at = [model.index(line, column) for line in range(4)]
    drawn = {
        name: model.data(place, Qt.ItemDataRole.ForegroundRole)
        for name, place in zip(texts(tab, 1), at, strict=True)
    }
    red = appearance().colors.role("red")
    assert {name for name, color in drawn.items() if color is not None} == {"many"}
    assert drawn["many"].name() == QColor(red).name()


def test_stars_and_feature_sets_of_the_library(
    qtbot: Any, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown_folders: list[str] = []
    module = "mistudio.gui.tabs.training.library_view.QDesktopServices.openUrl"
    monkeypatch.setattr(module, lambda url: shown_folders.append(url.toLocalFile()))
    plain, used = (add_sae(desk.db, desk.world, name) for name in ("plain", "used"))
    for _ in range(2):
        FEATURE_SETS.insert(desk.db, sae_id=used.id, status="ready")
    tab = shown(qtbot, desk)
    tab.select(sae=plain.id)
    library, columns = tab.library, [c.title for c in tab.library.model.columns]
    qtbot.waitUntil(lambda: set(texts(tab, 1)) == {"plain", "used"})
    counts = dict(zip(texts(tab, 1), texts(tab, columns.index("Sets")), strict=True))
    assert counts == {"plain": "0", "used": "2"}
    place = library.model.position(plain.id)
    library.table.clicked.emit(library.model.index(place, 1))  # a click beside the star
    library.table.clicked.emit(library.model.index(place, 0))
    qtbot.waitUntil(lambda: "★" in texts(tab, 0))
    assert SAES.get(desk.db, plain.id).is_favorite
    library.model.sort_requested.emit("star", True)
    qtbot.waitUntil(lambda: texts(tab, 1) == ["plain", "used"])
    assert texts(tab, 0) == ["★", "☆"]
    qtbot.waitUntil(lambda: library.buttons["star"].text() == "Unstar")
    library.buttons["star"].click()
    qtbot.waitUntil(lambda: texts(tab, 0) == ["☆", "☆"])
    assert not SAES.get(desk.db, plain.id).is_favorite
    library.buttons["folder"].click()
    assert shown_folders == [str(desk.services.studio.paths.absolute(plain.path))]


def test_forms_of_the_library_submit_their_jobs(qtbot: Any, desk: Desk, monkeypatch: Any) -> None:
    from mistudio.gui.tabs.training.import_dialog import ImportSaeDialog
    from mistudio.gui.tabs.training.sae_forms import evaluate_form, export_form

    sent: list[tuple[str, Any]] = []
    monkeypatch.setattr(
        desk.services.studio,
        "submit",
        lambda kind, config, title="": sent.append((kind, config)) or "j",
    )
    tab = shown(qtbot, desk)
    sae = add_sae(desk.db, desk.world, "one / two")
    evaluate = evaluate_form(desk.services, sae, tab)
    settle(qtbot, desk)
    evaluate.form.fields["dataset"].editor.set_value("news")
    evaluate.start()
    export = export_form(desk.services, sae, tab)
    formats = export.form.fields["format"].editor
    offered = [formats.combo.itemData(i) for i in range(formats.combo.count())]
    assert ("sparsify" in offered) == (sae.architecture == "topk")
    formats.set_value("dictionary_learning")
    export.start()
    incoming = ImportSaeDialog(desk.services, tab)
    incoming.start()
    assert [kind for kind, _ in sent] == ["evaluate", "export_sae"]
    assert sent[0][1] == EvaluateConfig(sae=sae.id, dataset="news")
    assert sent[1][1].format == "dictionary_learning"
    assert sent[1][1].out == str(desk.services.studio.paths.exports / "one_two")
    assert incoming.local.fields["path"].problem.text() == "Folder is missing."
    incoming.reject()


def test_details_of_an_sae(qtbot: Any, desk: Desk) -> None:
    from mistudio.gui.tabs.training.sae_details import SaeDetails

    sae = add_sae(desk.db, desk.world, "one", evaluation=EVALUATION)
    tab = shown(qtbot, desk)
    dialog = SaeDetails(desk.services, sae, tab)
    facts = dict(dialog.facts.texts())
    assert facts["Layer and hook"] == "L3.resid_post"
    assert facts["Latents"] == "256"
    assert facts["Folder"].endswith("saes/one")
    assert len(dialog.evaluation.table.texts()) == 9  # five figures in four groups
    dialog.close()


def test_a_survival_report_is_asked_for_and_shown(qtbot: Any, desk: Desk, monkeypatch: Any) -> None:
    from mistudio.gui.tabs.training.sae_details import SaeDetails
    from mistudio.gui.tabs.training.survival_dialog import SurvivalDialog

    sent: list[Any] = []
    monkeypatch.setattr(
        desk.services.studio,
        "submit",
        lambda kind, config, title="": sent.append((kind, config)) or "j",
    )
    sae = add_sae(desk.db, desk.world, "one")
    result = {
        "format": "nf4",
        "reference": "fp32",
        "n": 2000,
        "documents": 50,
        "features": 40,
        "latents": 256,
        "min_firings": 10,
        "undefined": 1,
        "survive": [{"bound": 0.9, "count": 30, "share": 0.75, "interval": [0.6, 0.875]}],
        "correlation_median": 0.95,
        "correlation_histogram": [10, 30],
        "correlation_histogram_edges": [-1.0, 0.0, 1.0],
        "jaccard": 0.8,
        "jaccard_median": 0.7,
        "distance": 0.05,
        "intervals": {"distance": [0.04, 0.06]},
        "metrics": {
            "ev": {"a": 0.8, "b": 0.7, "difference": -0.1, "interval": [-0.12, -0.08]},
            "l0": {"a": 32.0, "b": 31.0, "difference": -1.0, "interval": None},
        },
    }
    folder = desk.services.studio.paths.absolute(sae.path)
    folder.mkdir(parents=True)
    (folder / "survival-nf4.json").write_text(json.dumps(result), "utf-8")
    details = SaeDetails(desk.services, sae, shown(qtbot, desk))
    details.survival_button.click()
    dialog = details.findChild(SurvivalDialog)
    qtbot.waitUntil(lambda: bool(dialog.table.texts()), timeout=5000)
    rows = {row[0]: row[1:] for row in dialog.table.texts()}
    at_least = "Features whose correlation is at least 0.9"
    assert rows[at_least] == ["75.0 %", "60.0 % to 87.5 %"]
    assert rows["Explained variance, difference"] == ["-0.1000", "-0.1200 to -0.0800"]
    assert "NF4 against FP32 on 2,000 tokens of 50 held-out documents." in dialog.rests_on.text()
    dialog.form.fields["format"].editor.set_value("nf4")
    dialog.start()
    assert sent == [("survival", SurvivalConfig(sae=sae.id, format="nf4"))]
    assert not dialog.start_button.isEnabled()
    job = add_job(desk.db, "survival", "gpu", "Survival report", {})
    dialog.job.id = job.id
    dialog.job._watch.ended.emit(dataclasses.replace(job, status="failed", error_message="No."))
    assert (dialog.job.problem.text(), dialog.start_button.isEnabled()) == ("No.", True)
    result["survive"][0]["share"] = 0.5
    dialog.job._watch.ended.emit(dataclasses.replace(job, status="completed", result=result))
    assert [at_least, "50.0 %", "60.0 % to 87.5 %"] in dialog.table.texts()
    dialog.close()
    details.close()


def select_both(library: Any, *ids: str) -> None:
    """Click a row, then another with Ctrl held."""
    flags = QItemSelectionModel.SelectionFlag
    for sae_id in ids:
        index = library.model.index(library.model.position(sae_id), 0)
        mode = flags.ClearAndSelect if sae_id == ids[0] else flags.Select
        library.table.selectionModel().setCurrentIndex(index, mode | flags.Rows)


def test_two_chosen_saes_are_compared(qtbot: Any, desk: Desk) -> None:
    a = add_sae(desk.db, desk.world, "alpha")
    b = add_sae(desk.db, desk.world, "beta")
    other = add_sae(desk.db, desk.world, "gamma", layer=4)
    tab = shown(qtbot, desk)
    tab.show_view(1)
    library = tab.library
    qtbot.waitUntil(lambda: texts(tab, 1) == ["gamma", "beta", "alpha"])
    button = library.buttons["compare"]
    tab.select(sae=a.id)
    qtbot.waitUntil(lambda: library.buttons["details"].isEnabled())
    assert not button.isEnabled()
    assert "Select two" in button.toolTip()
    select_both(library, a.id, b.id)
    assert button.isEnabled()
    assert not any(library.buttons[name].isEnabled() for name in ("delete", "rename", "steer"))
    desk.services.publisher.publish("saes")
    settle(qtbot, desk)
    library.refresh()
    settle(qtbot, desk)
    qtbot.waitUntil(lambda: [sae.name for sae in library.chosen()] == ["beta", "alpha"])
    assert button.isEnabled()  # the selection outlives the refresh
    select_both(library, a.id, other.id)
    assert not button.isEnabled()
    assert "same layer and hook" in button.toolTip()
    select_both(library, b.id, a.id)
    button.click()
    dialog = library.findChild(CompareDialog)
    assert dialog.names.text() == "A: beta\nB: alpha"
    dialog.start()  # neither has a text of its own
    assert "Choose a dataset" in dialog.job.problem.text()
    dialog.close()
    select_both(library, b.id)
    assert library.current().id == b.id
    assert library.buttons["delete"].isEnabled()


def test_a_comparison_is_shown(qtbot: Any, desk: Desk, monkeypatch: Any) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(
        desk.services.studio,
        "submit",
        lambda kind, config, title="": sent.append((kind, config)) or "j",
    )
    a, b = (add_sae(desk.db, desk.world, name) for name in ("alpha", "beta"))
    tab = shown(qtbot, desk)
    dialog = CompareDialog(desk.services, a, b, tab)
    settle(qtbot, desk)
    dialog.show()
    dialog.form.fields["dataset"].editor.set_value("tales")
    dialog.start()
    config = CompareSaesConfig(sae=a.id, other=b.id, dataset="tales")
    assert sent == [("compare_saes", config)]
    assert not dialog.start_button.isEnabled()
    result = {
        "n": 1000,
        "documents": 50,
        "ce_n": 500,
        "ce_documents": 25,
        "metrics": {
            "ev": {"a": 0.8, "b": 0.7, "difference": -0.1, "interval": [-0.12, -0.08]},
            "dead": {"a": 0.0, "b": 0.1, "difference": 0.1, "interval": None},
        },
        "overlap": {
            "threshold": 0.7,
            "edges": [-1.0, 0.0, 1.0],
            "pairs": 3,
            **{f"latents_{x}": 4 for x in "ab"},
            **{f"mean_{x}": 0.5 for x in "ab"},
            **{f"shared_{x}": 0.75 for x in "ab"},
            **{f"histogram_{x}": [1, 3] for x in "ab"},
        },
    }
    job = add_job(desk.db, "compare_saes", "gpu", "Compare", {})
    JOBS.update(desk.db, job.id, status="completed", result=result)
    dialog.job.id = job.id
    dialog.job._watch.ended.emit(JOBS.get(desk.db, job.id))
    assert dialog.table.texts() == [
        ["Reconstruction", "", "", "", "", ""],
        ["Explained variance", "0.8000", "0.7000", "-0.1000", "-0.1200 to -0.0800", "●"],
        ["Latents", "", "", "", "", ""],
        ["Never fired", "0.00 %", "10.00 %", "+10.00 %", "—", ""],
    ]
    assert "1,000 tokens of 50 documents" in dialog.rests_on.text()
    assert "3 pairs are each other's nearest" in dialog.overlap.text()
    assert dialog.start_button.isEnabled()
    dialog.copy()
    assert "Explained variance\t0.8000" in QApplication.clipboard().text()
    dialog.job._watch.ended.emit(dataclasses.replace(job, status="failed", error_message="No."))
    assert dialog.job.problem.text() == "No."
    dialog.close()


# -- the real thing


def test_a_whole_training_in_the_tab(qtbot: Any, desk: Desk, tmp_path: Path) -> None:
    from tests.helpers import studio as helpers

    for table in ("tokenizations", "datasets", "models"):
        desk.db.execute(f"DELETE FROM {table}")
    folder = helpers.save_tiny_llama(tmp_path / "model")
    studio, lanes = desk.services.studio, desk.services.lanes
    helpers.run(studio, "import_model", ImportModelConfig(path=str(folder), name="tiny"))
    stories = helpers.stories_file(tmp_path)
    helpers.run(studio, "import_dataset", ImportDatasetConfig(path=str(stories)))
    tab = shown(qtbot, desk)
    form = tab.runs.form
    form.form.set_values(
        {"layer": 1, "width": 64, "k": 4, "tokens": 6_400, "batch": 64, "window": 2048}
        | {"context": 32, "checkpoint_every": 50, "eval_tokens": 1024}
    )
    assert (form.model.value(), form.dataset.value()) == ("tiny", "stories")
    lanes.start()
    try:
        form.start()
        qtbot.waitUntil(lambda: len(tab.runs.list.cards) == 1, timeout=5000)
        card = next(iter(tab.runs.list.cards.values()))
        card.open_pane("metrics")
        with qtbot.waitSignal(lanes.finished, timeout=60_000):
            pass
        qtbot.waitUntil(lambda: card.pill.state() == "completed", timeout=5000)
        settle(qtbot, desk)
    finally:
        lanes.join()
    pane: MetricsPane = card.panes["metrics"]  # type: ignore[assignment]
    assert pane.series.column("step").tolist() == list(range(10, 101, 10))
    losses = pane.series.column("loss")
    assert losses[-1] < losses[0]
    assert {"features", "steer"} <= visible(card)
    row = TRAININGS.get(desk.db, card.run.training.id)
    assert card.tiles["ev"].value() == f"{row.latest_ev:.4f}"
    desk.services.publisher.publish("saes")
    qtbot.waitUntil(lambda: len(texts(tab, 1)) == 1, timeout=5000)
