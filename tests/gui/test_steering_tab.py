"""The Steering tab: cards, submitting, streaming, metrics, history."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from pytestqt.qtbot import QtBot

from mistudio.core.ids import now
from mistudio.core.steering_spec import MAX_EDITS, Edit, Feature, parse_edits
from mistudio.gui.reporting import Drained
from mistudio.gui.services import Services
from mistudio.gui.tabs.steering.card import CardState, FeatureCard
from mistudio.gui.tabs.steering.output import WARNING, Output
from mistudio.gui.tabs.steering.tab import SteeringTab
from mistudio.store import jobs
from mistudio.store.jobs import JobState
from mistudio.store.tables import JOBS, STEERING_RUNS
from tests.gui import feature_world

METRICS = {
    "kl": 0.0512,
    "perplexity_baseline": 4.0,
    "perplexity_steered": 9.5,
    "perplexity_delta": 5.5,
    "word_overlap": 0.25,
    "delta_ratio": 0.3,
    "acted": 46,
    "positions": 48,
    "over_steered": True,
    "loops_steered": False,
    "stopped_early": "stopped",
}


def shown_tab(services: Services, qtbot: QtBot) -> SteeringTab:
    tab = SteeringTab(services)
    qtbot.addWidget(tab)
    tab.resize(1240, 560)
    tab.show()
    settle(tab, qtbot)
    return tab


def settle(tab: SteeringTab, qtbot: QtBot) -> None:
    for _ in range(4):
        qtbot.waitUntil(tab.services.query.is_idle)
        qtbot.wait(1)


def card(index: int = 2, *states: Any, unit: str = "max") -> FeatureCard:
    row = feature_world_row(index)
    return FeatureCard(row, CardState(index, *states), unit)


def feature_world_row(index: int) -> Any:
    from mistudio.store.features import FeatureRow

    values = feature_world.statistics(index, 1000)
    return FeatureRow(
        index,
        None,
        None,
        None,
        False,
        False,
        values["count"],
        values["frequency"],
        7,
        values["max"],
        1.5,
        values["top_tokens"],
        "",
        "",
        "[]",
    )


def test_card_keeps_slider_and_number_together(styled: Any, qtbot: QtBot) -> None:
    made = card()
    qtbot.addWidget(made)
    assert made.value() == 0.0
    made.slider.setValue(15)
    assert made.value() == 1.5
    made.number.lineEdit().setText("7.25")  # beyond the slider
    assert made.slider.value() == 50
    assert made.edit() == Edit(Feature(2), 7.25, "add")
    made.number.lineEdit().setText("much")
    assert made.edit() is None
    assert made.number.property("invalid")


def test_clamp_starts_at_the_maximum_and_units_keep_the_push(styled: Any, qtbot: QtBot) -> None:
    made = card(2)  # its largest activation is 6
    qtbot.addWidget(made)
    made.operator.setCurrentIndex(1)
    assert made.edit() == Edit(Feature(2), 1.0, "clamp")
    made.set_unit("raw")
    assert made.edit() == Edit(Feature(2), 6.0, "clamp")
    assert made.slider_row.isHidden()
    made.number.set_number(9)
    made.set_unit("max")
    assert made.edit() == Edit(Feature(2), 1.5, "clamp")


def test_search_adds_cards_and_offers_them_once(services: Services, qtbot: QtBot) -> None:
    feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    search = tab.panel.search
    search.field.setText("whale")
    qtbot.keyClick(search.field, Qt.Key.Key_Return)
    settle(tab, qtbot)
    assert [found.index for found in search._shown()] == [1, 11, 21, 41, 51, 61]
    search.add_current()
    search.open_results()
    settle(tab, qtbot)
    assert search._shown()[0].index == 11
    assert tab.panel.written() == ("1=0.0:add",)
    assert tab.panel.count.text() == f"1 of {MAX_EDITS} features"
    tab.panel.cards[0].toggle.setChecked(False)
    assert tab.panel.written() == ()
    tab.panel.cards[0].removed.emit(1)
    assert tab.panel.states() == []


def test_at_most_twenty_cards(services: Services, qtbot: QtBot) -> None:
    world = feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    tab.panel.load(world.sae.id, [CardState(i) for i in range(MAX_EDITS)], "max")
    settle(tab, qtbot)
    tab.panel._on_added(feature_world_row(40))
    assert len(tab.panel.cards) == MAX_EDITS
    assert parse_edits(tab.panel.written()).problems == ()


def test_a_feature_sent_from_its_page_is_added(services: Services, qtbot: QtBot) -> None:
    world = feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    tab.select(sae=world.sae.id, feature=5)
    settle(tab, qtbot)
    tab.select(sae=world.sae.id, feature=9)
    tab.select(sae=world.sae.id, feature=9)
    settle(tab, qtbot)
    assert [state.feature for state in tab.panel.states()] == [5, 9]
    again = SteeringTab(services)  # as after a restart
    qtbot.addWidget(again)
    again.show()
    settle(again, qtbot)
    assert [state.feature for state in again.panel.states()] == [5, 9]


def test_without_features_a_latent_is_added_by_number(services: Services, qtbot: QtBot) -> None:
    feature_world.add_sae(services.studio.db(), 64)
    tab = shown_tab(services, qtbot)
    search = tab.panel.search
    for text, found in (("63", [63]), ("64", []), ("whale", [])):
        search.field.setText(text)
        qtbot.keyClick(search.field, Qt.Key.Key_Return)
        assert [row.index for row in search._shown()] == found


def ready_tab(services: Services, qtbot: QtBot) -> SteeringTab:
    world = feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    tab.panel.load(world.sae.id, [CardState(3, 2.0), CardState(12, 1.0, "clamp")], "max")
    settle(tab, qtbot)
    tab.prompt.setPlainText("The captain")
    return tab


def test_generate_needs_prompt_and_feature_then_queues_the_run(
    services: Services, qtbot: QtBot
) -> None:
    tab = ready_tab(services, qtbot)
    tab.prompt.setPlainText(" ")
    assert not tab.generate_button.isEnabled()
    assert tab.reason.text() == "Write a prompt."
    tab.prompt.setPlainText("The captain")
    tab.form.fields["max_tokens"].editor.set_value(12)
    tab.run_primary()
    settle(tab, qtbot)
    (job,) = JOBS.select(services.studio.db())
    assert job.kind == "steer"
    assert job.config["feature"] == ["3=2.0:add", "12=1.0:clamp"]
    assert (job.config["prompt"], job.config["max_tokens"]) == ("The captain", 12)
    assert not tab.generate_button.isEnabled()
    tab.stop()  # it still waits: it leaves the queue
    settle(tab, qtbot)
    assert JOBS.get(services.studio.db(), job.id).status == "cancelled"
    assert tab.generate_button.isEnabled()


def test_copy_as_command(services: Services, qtbot: QtBot) -> None:
    tab = ready_tab(services, qtbot)
    tab.copy_command()
    text = QGuiApplication.clipboard().text()
    assert text.startswith("mistudio steer --sae sae_")
    assert "--feature 3=2.0:add --feature 12=1.0:clamp --prompt 'The captain'" in text


def test_a_feature_that_never_fired_is_refused_with_a_sentence(
    services: Services, qtbot: QtBot
) -> None:
    world = feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    tab.panel.load(world.sae.id, [CardState(7, 1.0)], "max")
    settle(tab, qtbot)
    tab.prompt.setPlainText("The captain")
    tab.run_primary()
    assert "never fired" in tab.problem.text()
    assert JOBS.select(services.studio.db()) == []


def test_texts_stream_and_metrics_follow(services: Services, qtbot: QtBot) -> None:
    tab = ready_tab(services, qtbot)
    tab.run_primary()
    settle(tab, qtbot)
    job_id = tab.job_id
    told = Drained(partials=[("steered", "har"), ("baseline", "the"), ("steered", "harbour")])
    services.lanes.drained.emit(job_id, told)
    services.lanes.drained.emit("job_other", Drained(partials=[("steered", "no")]))
    assert tab.output.panes["steered"].text.toPlainText() == "harbour"
    assert tab.output.panes["baseline"].text.toPlainText() == "the"
    db = services.studio.db()
    jobs.claim(db, job_id, 1)
    JOBS.update(db, job_id, result={"baseline": "the sea", "steered": "harbours", **METRICS})
    jobs.move(db, job_id, JobState.RUNNING, JobState.COMPLETED)
    services.lanes.finished.emit(job_id, "completed")
    settle(tab, qtbot)
    assert tab.output.panes["steered"].text.toPlainText() == "harbours"
    assert tab.output.tiles["kl"].value() == "0.0512"
    assert tab.output.tiles["perplexity"].value() == "+5.50"
    assert tab.output.tiles["acted"].value() == "46 of 48"
    assert tab.output.warning_text.text().startswith(WARNING)
    assert "perplexity more than doubles" in tab.output.warning_text.text()
    assert tab.output.panes["baseline"].ending.text().startswith("Stopped")
    assert tab.generate_button.isEnabled()


def test_a_failed_run_says_why(services: Services, qtbot: QtBot) -> None:
    tab = ready_tab(services, qtbot)
    tab.run_primary()
    db, job_id = services.studio.db(), tab.job_id
    jobs.claim(db, job_id, 1)
    jobs.move(db, job_id, JobState.RUNNING, JobState.FAILED, error_message="The model is gone.")
    services.lanes.finished.emit(job_id, "failed")
    settle(tab, qtbot)
    assert tab.problem.text() == "The model is gone."


def test_history_brings_a_run_back(services: Services, qtbot: QtBot) -> None:
    world = feature_world.add_world(services.studio.db())
    config = {"sae": world.sae.id, "feature": ["4=1.5:add"], "unit": "raw", "temperature": 0.0}
    STEERING_RUNS.insert(
        services.studio.db(),
        mode="blended",
        prompt="Once",
        config={**config, "prompt": "Once"},
        sae_id=world.sae.id,
        outputs={"baseline": "upon a time", "steered": "upon a winter"},
        metrics=METRICS,
        created_at=now(),
        status="completed",
    )
    tab = shown_tab(services, qtbot)
    assert tab.history.model.rowCount() == 1
    tab.history.view.selectRow(0)
    qtbot.keyClick(tab.history.view, Qt.Key.Key_Return)
    settle(tab, qtbot)
    assert tab.panel.states() == [CardState(4, 1.5, "add", True)]
    assert tab.panel.unit() == "raw"
    assert tab.prompt.toPlainText() == "Once"
    assert tab.form.values().temperature == 0.0
    assert tab.output.panes["steered"].text.toPlainText() == "upon a winter"


def test_the_unmeasured_is_a_dash_and_identity_is_said(styled: Any, qtbot: QtBot) -> None:
    output = Output()
    qtbot.addWidget(output)
    output.show_run({"baseline": "a", "steered": "a"}, {"identical": True, "kl": None})
    assert output.tiles["kl"].value() == "—"
    assert not output.note.isHidden()
    assert output.warning.isHidden()
