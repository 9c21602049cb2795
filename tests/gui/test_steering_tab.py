"""The Steering tab: cards, submitting, streaming, figures, history."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QLabel
from pytestqt.qtbot import QtBot

from mistudio.core.ids import now
from mistudio.core.steering_spec import MAX_EDITS, Condition, Direction, Edit, Feature, parse_edits
from mistudio.gui.reporting import Drained
from mistudio.gui.services import Services
from mistudio.gui.tabs.steering import history as history_module
from mistudio.gui.tabs.steering import panel as panel_module
from mistudio.gui.tabs.steering.card import CardState, FeatureCard
from mistudio.gui.tabs.steering.output import WARNING, Output
from mistudio.gui.tabs.steering.page import NARROW
from mistudio.gui.tabs.steering.tab import SteeringTab
from mistudio.gui.theme import appearance
from mistudio.jobs import steering_presets
from mistudio.jobs.steering_cards import CardFacts
from mistudio.store import jobs
from mistudio.store.features import FeatureRow
from mistudio.store.jobs import JobState
from mistudio.store.records import SaeRow
from mistudio.store.tables import JOBS, STEERING_RUNS, STEERING_VECTORS
from tests.gui import feature_world
from tests.gui.conftest import Window

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


def feature_row(index: int) -> FeatureRow:
    values = feature_world.statistics(index, 1000)
    words = values["top_tokens"], "", "", "[]"
    number = values["count"], values["frequency"], 7, values["max"], 1.5
    return FeatureRow(index, None, None, None, False, False, *number, *words)


SAE = SaeRow(
    id="sae_x", created_at="", updated_at="", status="ready", name="x", origin="training",
    encoder_type="sae", architecture="topk", d_in=16, d_out=16, n_latents=64, path="saes/none",
    layer=3,
)  # fmt: skip


def facts(index: int = 2, push: float | None = 0.02) -> CardFacts:
    """Feature 2 has a largest activation of 6."""
    return CardFacts(Feature(index, "sae_x"), None, feature_row(index), push)


def card(edit: Edit | None = None, **known: Any) -> FeatureCard:
    of = facts(**known)
    return FeatureCard(of, CardState(edit or Edit(of.source)))


def choose(combo: Any, value: str) -> None:
    combo.setCurrentIndex(combo.findData(value))


def test_card_keeps_slider_and_number_together(styled: Any, qtbot: QtBot) -> None:
    made = card()
    qtbot.addWidget(made)
    assert made.value() == 0.0
    made.slider.setValue(15)
    assert made.value() == 1.5
    made.number.lineEdit().setText("7.25")  # beyond the slider
    assert made.slider.value() == 50
    assert made.edit() == Edit(Feature(2, "sae_x"), 7.25)
    made.number.lineEdit().setText("much")
    assert made.edit() is None
    assert made.number.property("invalid")
    assert made.problem.text() == "A strength is not a number."


def test_a_card_says_that_it_adds_a_sum_over_layers(styled: Any, qtbot: QtBot) -> None:
    told = {"cross_layer": True, "output_layers": 23}
    for config, said in ((told, "into 23 layers."), (None, "")):
        of = replace(facts(), sae=replace(SAE, config=config))
        made = FeatureCard(of, CardState(Edit(of.source)))
        qtbot.addWidget(made)
        shown = [part.text() for part in made.findChildren(QLabel)]
        assert sum("Adds here, at one layer, the sum" in text for text in shown) == bool(said)
        assert any(text.endswith(said) for text in shown)


def test_levels_start_at_the_maximum_and_units_keep_the_push(styled: Any, qtbot: QtBot) -> None:
    made = card()
    qtbot.addWidget(made)
    choose(made.operator, "clamp")
    assert (made.value(), made.hint.text()) == (1.0, "A target; starts at 1 × max.")
    choose(made.unit, "raw")
    assert made.edit() == Edit(Feature(2, "sae_x"), 6.0, "clamp", "raw")
    choose(made.unit, "percent")  # 6 × 0.02 of the median norm
    assert made.value() == 12.0
    choose(made.unit, "max")
    assert made.edit() == Edit(Feature(2, "sae_x"), 1.0, "clamp")


def test_suppress_and_amplify_go_two_steps_from_the_middle(styled: Any, qtbot: QtBot) -> None:
    made = card()
    qtbot.addWidget(made)
    made.more.click()
    assert (made.value(), made.more.text()) == (2.0, "Amplify +2")
    made.less.click()
    assert made.value() == -2.0
    made.reset_button.click()
    assert made.value() == 0.0
    choose(made.operator, "scale")  # 1 changes nothing
    assert (made.value(), made.slider.value()) == (1.0, 0)
    made.more.click()
    assert made.value() == 3.0


def test_red_begins_where_half_of_the_norm_is_pushed(styled: Any, qtbot: QtBot) -> None:
    made = card()  # 6 × 0.02 = 0.12 of the norm at 1 × max: red beyond 4.1
    qtbot.addWidget(made)
    assert made.strength.scale.red == 42
    made.set_value(4.1)
    assert "Over-steering" not in made.hint.text()
    made.set_value(4.2)
    assert made.hint.text() == "Over-steering expected: about 50% of |x|."
    unknown = card(push=None)
    qtbot.addWidget(unknown)
    assert unknown.strength.scale.red is None


def test_operators_show_what_they_take(styled: Any, qtbot: QtBot) -> None:
    made = card()
    qtbot.addWidget(made)
    choose(made.operator, "ablate")
    assert made.number.isHidden()
    assert made.strength.isHidden()
    assert made.edit() == Edit(Feature(2, "sae_x"), 0.0, "ablate")
    choose(made.operator, "dir-clip")
    assert not made.range_row.isHidden()
    assert made.edit() == Edit(Feature(2, "sae_x"), -1.0, "dir-clip", high=1.0)
    made.high.set_number(-3)
    assert made.edit() is None
    assert "below the low one" in made.problem.text()
    choose(made.operator, "swap")
    assert "second source" in made.problem.text()
    assert made.target is not None
    made.target.field.setText("9")
    found = made.edit()
    assert found is not None
    assert found.target == Feature(9, "sae_x")
    made.when.setChecked(True)
    assert made.edit() is None  # the condition names no feature yet
    assert made.condition is not None
    made.condition.feature.set_number(5)
    made.condition.level.set_number(0.5)
    found = made.edit()
    assert found is not None
    assert found.condition == Condition(Feature(5, "sae_x"), 0.5)


def test_an_addition_may_act_at_further_layers(styled: Any, qtbot: QtBot) -> None:
    known = replace(facts(), sae=SAE, layers=12)
    made = FeatureCard(known, CardState(Edit(known.source, 2.0)))
    qtbot.addWidget(made)
    made.show()
    assert made.layers is None
    made.also.setChecked(True)
    grid = made.layers
    assert grid is not None
    assert not grid.buttons[3].isEnabled()  # its own
    places = [grid.layout().itemAt(1).layout().getItemPosition(n)[:2] for n in (7, 8)]  # type: ignore[union-attr]
    assert places == [(0, 7), (1, 0)]
    for layer in (4, 9):
        grid.buttons[layer].click()
    assert made.edit() == Edit(known.source, 2.0, layers=(4, 9))
    assert "in the unit of layer 3" in grid.about.text()
    assert grid.warning.isHidden()
    for layer in (5, 6, 7):
        grid.buttons[layer].click()
    assert not grid.warning.isHidden()
    choose(made.operator, "clamp")
    assert made.also.isHidden()
    assert made.edit() == Edit(known.source, 1.0, "clamp")
    choose(made.operator, "add")
    made.also.setChecked(False)
    assert made.edit() == Edit(known.source, 0.0)
    edit = Edit(known.source, 2.0, layers=(1, 2))
    for of in (known, replace(known, layers=0)):  # also where the model's layers are not known
        again = FeatureCard(of, CardState(edit))
        qtbot.addWidget(again)
        assert again.state() == CardState(edit)


def test_an_edit_comes_back_from_its_card(styled: Any, qtbot: QtBot) -> None:
    source = Feature(2, "sae_x")
    for edit in (
        Edit(source, 20.0, unit="percent", condition=Condition(Feature(9, "sae_x"), 0.5, "max")),
        Edit(source, -1.5, "dir-clip", "raw", 2.5),
        Edit(source, 0.0, "swap", target=Direction("formal")),
        Edit(source, 0.5, "dir-scale"),
    ):
        made = card(edit)
        qtbot.addWidget(made)
        assert made.state() == CardState(edit)


def test_a_vector_has_no_activation(styled: Any, qtbot: QtBot) -> None:
    made = FeatureCard(CardFacts(Direction("formal")), CardState(Edit(Direction("formal"), 4.0)))
    qtbot.addWidget(made)
    offered = [made.operator.itemData(i) for i in range(made.operator.count())]
    assert "add" in offered
    assert "clamp" not in offered
    assert made.unit.findData("max") == -1
    assert made.edit() == Edit(Direction("formal"), 4.0, unit="raw")
    assert made.unit.count() == 1  # the norm of the stream is not known


def test_a_vector_of_the_model_becomes_a_card(services: Services, qtbot: QtBot) -> None:
    db = services.studio.db()
    world = feature_world.add_world(db)
    for name, model in (("formal", world.sae.model_id), ("other", None), ("two words", None)):
        STEERING_VECTORS.insert(
            db, name=name, group_id=name, model_id=model or world.sae.model_id, model_name="tiny",
            layer=2, hook="mlp_out", method="mean", width=16, norm=3.0, path="vectors/x",
        )  # fmt: skip
    tab = shown_tab(services, qtbot)
    search = tab.panel.search
    search.field.setText("@form")
    qtbot.keyClick(search.field, Qt.Key.Key_Return)
    settle(tab, qtbot)
    assert [found.source for found in search._shown()] == [Direction("formal")]
    search.add_current()
    settle(tab, qtbot)
    (made,) = tab.panel.cards
    assert (made.facts.title, made.facts.place) == ("formal", "layer 2 · mlp_out")
    made.set_value(2.0)
    assert tab.panel.settings() == {
        "sae": world.sae.id,
        "feature": (),
        "edit": ("@formal=2.0raw:add",),
        "unit": "max",
    }
    search.field.setText("two")
    qtbot.keyClick(search.field, Qt.Key.Key_Return)
    settle(tab, qtbot)
    found = search._shown()[0]
    assert found.words.startswith("@two words")
    assert isinstance(found.source, Direction)
    assert found.source.name.startswith("sv_")  # its id: the short form has no spaces


def test_search_adds_cards_and_offers_them_once(services: Services, qtbot: QtBot) -> None:
    world = feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    search = tab.panel.search
    search.field.setText("whale")
    qtbot.keyClick(search.field, Qt.Key.Key_Return)
    settle(tab, qtbot)
    assert [found.source for found in search._shown()] == [
        Feature(i, world.sae.id) for i in (1, 11, 21, 41, 51, 61)
    ]
    search.add_current()
    settle(tab, qtbot)
    search.open_results()
    settle(tab, qtbot)
    assert search._shown()[0].source == Feature(11, world.sae.id)
    assert tab.panel.settings()["feature"] == ("1=0.0:add",)
    assert tab.panel.count.text() == f"1 of {MAX_EDITS} features"
    tab.panel.cards[0].toggle.setChecked(False)
    assert tab.panel.settings()["feature"] == ()
    tab.panel.cards[0].removed.emit(tab.panel.cards[0].facts.source)
    assert tab.panel.states() == []


def loaded(tab: SteeringTab, qtbot: QtBot, *edits: Edit) -> None:
    tab.panel.load([CardState(edit) for edit in edits])
    settle(tab, qtbot)


def test_at_most_twenty_cards(services: Services, qtbot: QtBot) -> None:
    world = feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    loaded(tab, qtbot, *(Edit(Feature(i, world.sae.id)) for i in range(MAX_EDITS + 1)))
    first = tab.panel.cards[0]
    tab.panel._on_added(Feature(40, world.sae.id))
    settle(tab, qtbot)
    assert len(tab.panel.cards) == MAX_EDITS
    assert tab.panel.cards[0] is first
    assert parse_edits(tab.panel.settings()["feature"]).problems == ()


def test_cards_of_several_saes_share_a_model(
    services: Services, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = services.studio.db()
    world = feature_world.add_world(db)
    other = feature_world.add_sae(db, 32, "other model")
    tab = shown_tab(services, qtbot)
    loaded(tab, qtbot, Edit(Feature(3, world.sae.id), 1.0))
    tab.panel.source.choose(other.id)
    settle(tab, qtbot)
    monkeypatch.setattr(panel_module, "confirm", lambda *_, **__: False)
    tab.panel._on_added(Feature(4, other.id))
    settle(tab, qtbot)
    assert [c.facts.source for c in tab.panel.cards] == [Feature(3, world.sae.id)]
    monkeypatch.setattr(panel_module, "confirm", lambda *_, **__: True)
    tab.panel._on_added(Feature(4, other.id))
    settle(tab, qtbot)
    assert [c.facts.source for c in tab.panel.cards] == [Feature(4, other.id)]
    from mistudio.store.tables import SAES

    SAES.update(db, other.id, model_id=world.sae.model_id)
    two = Edit(Feature(4, other.id), 2.0), Edit(Feature(3, world.sae.id), 1.0, "clamp")
    loaded(tab, qtbot, *two, Edit(Feature(9, "sae_gone"), 1.0))
    assert tab.panel.settings() == {
        "sae": other.id,
        "feature": ("4=2.0:add",),
        "edit": (f"{world.sae.id}#3=1.0:clamp",),
        "unit": "max",
    }
    assert "1 left out" in tab.panel.hint.text()


def test_a_feature_sent_from_its_page_is_added(services: Services, qtbot: QtBot) -> None:
    world = feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    tab.select(sae=world.sae.id, feature=5)
    tab.select(sae=world.sae.id, feature=9)
    tab.select(sae=world.sae.id, feature=9)
    settle(tab, qtbot)
    assert [state.edit.feature for state in tab.panel.states()] == [5, 9]
    again = SteeringTab(services)  # as after a restart
    qtbot.addWidget(again)
    again.show()
    settle(again, qtbot)
    assert [state.edit.feature for state in again.panel.states()] == [5, 9]


def test_cards_kept_by_the_first_version_are_read(services: Services, qtbot: QtBot) -> None:
    world = feature_world.add_world(services.studio.db())
    kept = {"sae": world.sae.id, "unit": "raw", "cards": [[5, 2.5, "clamp", False]]}
    services.settings.remember("steering.cards", kept)
    tab = shown_tab(services, qtbot)
    edit = Edit(Feature(5, world.sae.id), 2.5, "clamp", "raw")
    assert tab.panel.states() == [CardState(edit, False)]


def test_without_features_a_latent_is_added_by_number(services: Services, qtbot: QtBot) -> None:
    sae = feature_world.add_sae(services.studio.db(), 64)
    tab = shown_tab(services, qtbot)
    search = tab.panel.search
    for text, found in (("63", [63]), ("64", []), ("whale", [])):
        search.field.setText(text)
        qtbot.keyClick(search.field, Qt.Key.Key_Return)
        settle(tab, qtbot)
        assert [row.source for row in search._shown()] == [Feature(i, sae.id) for i in found]


def ready_tab(services: Services, qtbot: QtBot) -> SteeringTab:
    world = feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    sae = world.sae.id
    loaded(tab, qtbot, Edit(Feature(3, sae), 2.0), Edit(Feature(12, sae), 1.0, "clamp"))
    tab.prompt.setPlainText("The captain")
    return tab


def only_job(services: Services) -> Any:
    (job,) = JOBS.select(services.studio.db())
    return job


def test_generate_needs_prompt_and_feature_then_queues_the_run(
    services: Services, qtbot: QtBot
) -> None:
    tab = ready_tab(services, qtbot)
    tab.prompt.setPlainText(" ")
    assert not tab.generate_button.isEnabled()
    assert tab.reason.text() == "Write a prompt."
    tab.prompt.setPlainText("The captain")
    tab.form.fields["max_tokens"].editor.set_value(12)
    tab.positions.set_values("text:captain+special", "cap:0.5")
    tab.run_primary()
    settle(tab, qtbot)
    job = only_job(services)
    assert job.kind == "steer"
    assert job.config["feature"] == ["3=2.0:add", "12=1.0:clamp"]
    assert (job.config["prompt"], job.config["max_tokens"]) == ("The captain", 12)
    assert (job.config["positions"], job.config["norm"]) == ("text:captain+special", "cap:0.5")
    assert not tab.generate_button.isEnabled()
    tab.stop()  # it still waits: it leaves the queue
    settle(tab, qtbot)
    assert JOBS.get(services.studio.db(), job.id).status == "cancelled"
    assert tab.generate_button.isEnabled()


def test_positions_that_name_nothing_say_so(services: Services, qtbot: QtBot) -> None:
    tab = ready_tab(services, qtbot)
    choose(tab.positions.rule, "ranges")
    assert not tab.positions.problem.isHidden()
    assert not tab.generate_button.isEnabled()
    tab.positions.detail.setText("0-3,12-")
    assert tab.positions.positions() == "0-3,12-"
    assert tab.generate_button.isEnabled()
    assert "0-3,12-" in tab.summary.text()


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
    loaded(tab, qtbot, Edit(Feature(7, world.sae.id), 1.0))
    assert "Never fired" in tab.panel.cards[0].hint.text()
    tab.prompt.setPlainText("The captain")
    tab.run_primary()
    assert "never fired" in tab.problem.text()
    assert JOBS.select(services.studio.db()) == []


def test_texts_stream_and_figures_follow(services: Services, qtbot: QtBot) -> None:
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
    outputs = {"baseline": "the sea", "steered": "the harbours"}
    JOBS.update(db, job_id, result={**outputs, **METRICS})
    jobs.move(db, job_id, JobState.RUNNING, JobState.COMPLETED)
    services.lanes.finished.emit(job_id, "completed")
    settle(tab, qtbot)
    pane, tiles = tab.output.panes["steered"], tab.output.tiles.tiles
    assert pane.text.toPlainText() == "the harbours"
    assert pane.marked() == ["harbours"]
    assert pane.acted.text() == "acted on 46 of 48 positions"
    assert tiles["kl"].value() == "0.0512"
    assert tiles["perplexity"].value() == "+5.50"
    assert tiles["acted"].value() == "46 of 48"
    assert tiles["similarity"].value() == "—"
    assert "Not measured: stopped before" in tiles["similarity"].toolTip()
    assert tab.output.warning_text.text().startswith(WARNING)
    assert "perplexity more than doubles" in tab.output.warning_text.text()
    assert tab.output.panes["baseline"].ending.text().startswith("Stopped")
    assert tab.generate_button.isEnabled()
    tab.output.marks.setChecked(False)
    assert pane.marked() == []


def test_the_preview_follows_the_newest_strength(services: Services, qtbot: QtBot) -> None:
    tab = ready_tab(services, qtbot)
    assert JOBS.select(services.studio.db()) == []  # closed, it measures nothing
    tab.preview.set_open(True)
    qtbot.waitUntil(lambda: bool(tab.preview.job_id))
    first = only_job(services)
    assert (first.kind, first.hidden) == ("steer_preview", True)
    assert first.config["feature"] == ["3=2.0:add", "12=1.0:clamp"]
    for strength in (0.5, 1.0, 3.0):  # while one is measured
        tab.panel.cards[0].set_value(strength)
    db = services.studio.db()
    mover = {"token": 1, "text": "\nsea", "baseline": 0.1, "steered": 0.35, "change": 0.25}
    told = {"kl": 0.25, "acted": 7, "positions": 8, "delta_ratio": 0.4, "movers": [mover]}
    jobs.claim(db, first.id, 1)
    JOBS.update(db, first.id, result=told)
    jobs.move(db, first.id, JobState.RUNNING, JobState.COMPLETED)
    services.lanes.finished.emit(first.id, "completed")
    settle(tab, qtbot)
    qtbot.waitUntil(lambda: tab.preview.job_id not in ("", first.id))
    second = only_job(services)  # the first left no row, the moves between were left out
    assert second.config["feature"] == ["3=3.0:add", "12=1.0:clamp"]
    assert tab.preview.line.text().startswith("KL 0.2500 nats · acted on 7 of 8 positions")
    assert tab.preview.table.texts() == [["“↵sea”", "10.00 %", "35.00 %", "+25.00"]]
    tab.preview.set_open(False)


def test_auto_scales_the_cards_to_a_wanted_kl(services: Services, qtbot: QtBot) -> None:
    tab = ready_tab(services, qtbot)
    tab.panel.cards[0].set_value(0.0)
    tab.find_strength(0.2)
    job = only_job(services)
    assert (job.kind, job.config["target_kl"]) == ("steer_dose", 0.2)
    assert job.config["feature"] == ["3=1.0:add", "12=1.0:clamp"]
    db = services.studio.db()
    jobs.claim(db, job.id, 1)
    told = {"factor": 0.5, "kl_measured": 0.19, "target_kl": 0.2, "problem": ""}
    JOBS.update(db, job.id, result=told)
    jobs.move(db, job.id, JobState.RUNNING, JobState.COMPLETED)
    services.lanes.finished.emit(job.id, "completed")
    settle(tab, qtbot)
    assert tab.panel.settings()["feature"] == ("3=0.5:add", "12=0.5:clamp")
    assert "a KL of 0.1900 was measured for 0.2 wanted" in tab.reason.text()
    assert tab.auto_button.isEnabled()


def test_a_failed_run_says_why(services: Services, qtbot: QtBot) -> None:
    tab = ready_tab(services, qtbot)
    tab.run_primary()
    db, job_id = services.studio.db(), tab.job_id
    jobs.claim(db, job_id, 1)
    jobs.move(db, job_id, JobState.RUNNING, JobState.FAILED, error_message="The model is gone.")
    services.lanes.finished.emit(job_id, "failed")
    settle(tab, qtbot)
    assert tab.problem.text() == "The model is gone."


def variants(*names: str) -> dict[str, Any]:
    """Texts as a run keeps them, of the baseline and these variants."""
    return {
        "variants": {
            name: {
                "samples": [{"text": f"{name} {i}", "reason": "length"} for i in range(2)],
                "greedy": {"text": f"{name} greedy", "reason": "stop_string"},
            }
            for name in ("baseline", *names)
        }
    }


def test_compare_has_a_column_each_and_samples_to_choose(
    styled: Any, services: Services, qtbot: QtBot
) -> None:
    output = Output(services)
    qtbot.addWidget(output)
    output.resize(700, 700)
    output.show()
    names = "3=2.0:add", "12=1.0:clamp"
    figures = {name: {**METRICS, "kl": kl} for name, kl in zip(names, (0.5, 0.02), strict=True)}
    output.show_run("p", variants(*names), {**METRICS, "variants": figures})
    titles = [pane.title.text() for pane in output.panes.values()]
    assert titles == ["Unsteered (baseline)", "#3 +2 × max", "#12 = 1 × max"]
    assert all(pane.width() >= appearance().px(200) for pane in output.panes.values())
    assert output.tiles.tiles["kl"].value() == "0.5000"
    output.panes[names[1]].choose.click()
    assert output.tiles.tiles["kl"].value() == "0.0200"
    assert [output.sample.itemText(i) for i in range(output.sample.count())] == [
        "Sample 1",
        "Sample 2",
        "Greedy",
    ]
    output.sample.setCurrentIndex(2)
    assert output.panes[names[0]].text.toPlainText() == "3=2.0:add greedy"
    assert output.panes[names[0]].ending.text() == "Ended at a stop string."
    assert output._charts.isHidden()


def test_operators_of_a_card_stand_side_by_side(services: Services, qtbot: QtBot) -> None:
    tab = ready_tab(services, qtbot)
    assert tab.alternatives.isHidden()
    tab.modes.buttons["operators"].click()
    made = tab.alternatives
    assert not made.isHidden()
    assert [made.of.itemText(i) for i in range(made.of.count())] == ["#3 +2 × max", "#12 = 1 × max"]
    assert tab.config().alternative == ("3=1.0:clamp",)
    made.add_button.click()
    assert tab.config().alternative == ("3=1.0:clamp", "3=2.0:scale")
    choose(made.cards[1].operator, "clamp")
    assert tab.reason.text() == "Two columns would be the same: change one of them."
    choose(made.cards[1].operator, "scale")
    made.cards[1].set_value(2.0)
    made.cards[0].number.lineEdit().setText("")
    assert tab.reason.text() == "A strength is not a number."
    made.cards[0].set_value(3.0)
    made.of.setCurrentIndex(1)  # the same operators, of the other card
    assert tab.config().alternative == ("12=3.0:clamp", "12=2.0:scale")
    made.add_button.click()  # neither the card's own operator nor one that is there
    assert made.cards[2].operator_name() == "ablate"
    made.cards[2].removed.emit(made.cards[2])
    made.cards[1].toggle.setChecked(False)
    tab.run_primary()
    settle(tab, qtbot)
    config = only_job(services).config
    assert (config["mode"], config["alternative"]) == ("operators", ["12=3.0:clamp"])
    assert list(tab.output.panes) == ["baseline", "12=1.0:clamp", "12=3.0:clamp"]
    again = SteeringTab(services)  # as after a restart
    qtbot.addWidget(again)
    again.show()
    settle(again, qtbot)
    assert again.config().alternative == ("12=3.0:clamp",)
    for _ in range(2):
        made.cards[0].removed.emit(made.cards[0])
    assert tab._problem() == "Add an operator to compare with."
    tab.modes.buttons["blended"].click()
    assert tab.config().alternative == ()


def test_a_run_of_operators_comes_back(services: Services, qtbot: QtBot) -> None:
    tab = ready_tab(services, qtbot)
    sae = tab.panel.main_sae()
    names = "3=2.0:add", "3=1.0:clamp"
    figures = {name: {**METRICS, "kl": kl} for name, kl in zip(names, (0.5, 0.02), strict=True)}
    run = STEERING_RUNS.insert(
        services.studio.db(), mode="operators", prompt="p", sae_id=sae, status="completed",
        config={"feature": [names[0]], "mode": "operators", "alternative": [names[1]]},
        outputs=variants(*names), metrics={**METRICS, "variants": figures},
    )  # fmt: skip
    tab.load_run(run)
    settle(tab, qtbot)
    assert tab.config().alternative == (names[1],)
    told = [pane.figures.text() for pane in tab.output.panes.values()]
    assert told == ["", "KL 0.5000 · PPL +5.50 · ‖Δ‖/‖x‖ 0.300",
                    "KL 0.0200 · PPL +5.50 · ‖Δ‖/‖x‖ 0.300"]  # fmt: skip


def test_predictions_are_shaded_by_their_kl(services: Services, qtbot: QtBot) -> None:
    output = Output(services)
    qtbot.addWidget(output)
    outputs = variants("steered")
    outputs["variants"]["steered"]["per_token"] = {"pieces": ["steered", " 0"], "kl": [0.5, 0.1]}
    output.show_run("p", outputs, METRICS)
    output.parting.setChecked(True)
    tokens = output.panes["steered"].tokens
    assert tokens is not None
    assert tokens.text() == "steered 0"
    tokens.copy_values()
    assert "0.5" in QGuiApplication.clipboard().text()
    assert output.panes["baseline"].tokens is None
    output.sample.setCurrentIndex(1)  # only the first text was measured
    assert not output.parting.isEnabled()
    assert output.panes["steered"]._pages.currentIndex() == 0


def test_a_sweep_has_table_and_curve(
    styled: Any, services: Services, qtbot: QtBot, tmp_path: Any
) -> None:
    output = Output(services)
    qtbot.addWidget(output)
    names = [f"×{strength:g}" for strength in (2.0, -1.0, 0.5)]
    figures = {name: {**METRICS, "kl": i / 10} for i, name in enumerate(names)}
    figures["×0.5"]["delta_ratio"] = None
    output.show_run("p", variants(*names), {"variants": figures})
    xs, ys = output.curves["kl"].points("KL")
    assert (xs.tolist(), ys.tolist()) == ([-1.0, 0.5, 2.0], [0.1, 0.2, 0.0])
    assert output.curves["delta_ratio"].points("‖Δ‖ / ‖x‖")[0].tolist() == [-1.0, 2.0]
    table = output.table
    table.table.sortItems(table._titles.index("KL"), Qt.SortOrder.DescendingOrder)
    assert [row[0] for row in table.shown()] == ["0.5", "−1", "2"]
    opened: list[str] = []
    table.opened.connect(opened.append)
    table.table.setCurrentCell(0, 0)
    qtbot.keyClick(table.table, Qt.Key.Key_Return)
    assert opened == ["×0.5"]
    table.write_csv(tmp_path / "x.csv")
    lines = (tmp_path / "x.csv").read_text("utf-8").splitlines()
    assert lines[0].startswith("Variant,Text,Mark,Strength,kl")
    assert lines[1].startswith("Strength ×2,×2 0,over-steered,2.0,0.0,5.5,,0.25,0.3")


def test_modes_ask_for_their_variants(services: Services, qtbot: QtBot) -> None:
    tab = ready_tab(services, qtbot)
    tab.modes.set_mode("compare")
    assert tab.config().mode == "compare"
    tab.modes.set_mode("sweep", "-1,2")
    tab.modes.of.setCurrentIndex(2)
    config = tab.config()
    assert (config.mode, config.strengths, config.feature) == ("sweep", "-1,2", ("12=1.0:clamp",))
    tab.modes.of.setCurrentIndex(0)
    for made in tab.panel.cards:
        choose(made.operator, "add")
        made.set_value(0.0)
    assert tab.reason.text() == "Set a strength other than 0: a sweep multiplies it."
    tab.modes.set_mode("sweep", "1")
    tab.panel.cards[0].set_value(1.0)
    tab.run_primary()
    assert "2 to 16 different strengths" in tab.problem.text()


def kept_run(services: Services, sae: str, **values: Any) -> Any:
    config = {"sae": sae, "feature": ["4=1.5:add"], "unit": "raw", "temperature": 0.0}
    row = {
        "mode": "blended",
        "prompt": "Once",
        "config": {**config, "prompt": "Once"},
        "sae_id": sae,
        "outputs": {"baseline": "upon a time", "steered": "upon a winter"},
        "metrics": METRICS,
        "created_at": now(),
        "status": "completed",
    }
    return STEERING_RUNS.insert(services.studio.db(), **{**row, **values})


def test_a_batch_is_a_run_for_each_line(services: Services, qtbot: QtBot) -> None:
    tab = ready_tab(services, qtbot)
    tab.modes.set_mode("batch")
    tab.prompt.setPlainText("The captain\n\nOnce")
    tab.run_primary()
    settle(tab, qtbot)
    db = services.studio.db()
    queued = JOBS.select(db, order="position")
    assert [job.config["prompt"] for job in queued] == ["The captain", "Once"]
    assert [job.config["mode"] for job in queued] == ["blended", "blended"]
    assert tab.output.isHidden()
    run = kept_run(services, str(queued[1].config["sae"]))
    jobs.claim(db, queued[1].id, 1)
    JOBS.update(db, queued[1].id, result={"run": run.id})
    jobs.move(db, queued[1].id, JobState.RUNNING, JobState.COMPLETED)
    services.lanes.finished.emit(queued[1].id, "completed")
    settle(tab, qtbot)
    assert tab.batch.state.text() == "1 of 2 prompts done."
    shown = {row[0]: row for row in tab.batch.table.shown()}
    assert shown["Once"][1:4] == ["upon a time", "upon a winter", "0.0512"]
    assert shown["The captain"][3] == "—"
    assert not tab.generate_button.isEnabled()
    tab.stop()
    settle(tab, qtbot)
    assert tab.generate_button.isEnabled()
    assert tab.batch.state.text() == "1 of 2 prompts done, 1 without a result."
    tab.batch.table.opened.emit(queued[1].id)
    assert tab.output.panes["steered"].text.toPlainText() == "upon a winter"


def test_history_brings_a_run_back(services: Services, qtbot: QtBot) -> None:
    world = feature_world.add_world(services.studio.db())
    kept_run(services, world.sae.id)
    tab = shown_tab(services, qtbot)
    assert tab.history.model.rowCount() == 1
    tab.history.view.selectRow(0)
    qtbot.keyClick(tab.history.view, Qt.Key.Key_Return)
    settle(tab, qtbot)
    edit = Edit(Feature(4, world.sae.id), 1.5, "add", "raw")
    assert tab.panel.states() == [CardState(edit, True)]
    assert tab.prompt.toPlainText() == "Once"
    assert tab.form.values().temperature == 0.0
    assert tab.output.panes["steered"].text.toPlainText() == "upon a winter"


def test_a_run_of_the_history_is_done_again_as_it_was(services: Services, qtbot: QtBot) -> None:
    world = feature_world.add_world(services.studio.db())
    run = kept_run(services, world.sae.id)
    tab = shown_tab(services, qtbot)
    tab.history.rerun.emit(run)
    settle(tab, qtbot)
    job = only_job(services)
    assert {name: job.config[name] for name in run.config} == run.config


def test_history_is_searched_starred_noted_and_cleared(
    services: Services,
    qtbot: QtBot,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
    window_stub: Window,
) -> None:
    world = feature_world.add_world(services.studio.db())
    first, second = kept_run(services, world.sae.id), kept_run(services, world.sae.id, prompt="Two")
    tab = shown_tab(services, qtbot)
    history = tab.history
    history.view.select_id(first.id)
    history.star_button.click()
    settle(tab, qtbot)
    assert list(history.model.ids()) == [first.id, second.id]
    answer = ("from the sea", True)
    monkeypatch.setattr(history_module.ask, "text", lambda *_, **__: answer)
    history.view.select_id(second.id)
    history.note_button.click()
    settle(tab, qtbot)
    history.search.setText("from sea")
    qtbot.keyClick(history.search, Qt.Key.Key_Return)
    settle(tab, qtbot)
    assert list(history.model.ids()) == [second.id]
    history.export([STEERING_RUNS.get(services.studio.db(), second.id)], tmp_path / "a.md", "md")
    settle(tab, qtbot)
    assert "from the sea" in (tmp_path / "a.md").read_text("utf-8")
    monkeypatch.setattr(history_module, "confirm", lambda *_, **__: True)
    history.view.select_id(second.id)
    before = STEERING_RUNS.get(services.studio.db(), second.id)
    history.delete_button.click()
    settle(tab, qtbot)
    assert STEERING_RUNS.find(services.studio.db(), second.id) is None
    for work in window_stub.undone["Deleted this run."]:
        work()
    settle(tab, qtbot)
    assert STEERING_RUNS.find(services.studio.db(), second.id) == before
    assert list(history.model.ids()) == [second.id]


def test_two_runs_are_compared(services: Services, qtbot: QtBot) -> None:
    world = feature_world.add_world(services.studio.db())
    runs = [
        kept_run(services, world.sae.id),
        kept_run(services, world.sae.id, metrics={**METRICS, "kl": 0.1}, prompt="Twice"),
    ]
    from mistudio.gui.tabs.steering.compare import CompareRuns

    dialog = CompareRuns(runs, history_module.features_of)
    qtbot.addWidget(dialog)
    assert dialog.figures.texts()[0] == ["KL", "0.0512", "0.1000", "+0.0488"]
    assert dialog.settings.texts() == [["prompt", "Once", "Twice"]]


def test_presets_keep_and_bring_back_the_tab(services: Services, qtbot: QtBot) -> None:
    tab = ready_tab(services, qtbot)
    tab.positions.set_values("last", "keep")
    tab.presets.save()
    settle(tab, qtbot)
    (line,) = tab.presets.lines
    assert line.preset.row.name.startswith("steering_2features_layer3_")
    tab.panel.clear()
    tab.positions.set_values("all", "")
    settle(tab, qtbot)
    line.load.click()
    settle(tab, qtbot)
    assert tab.panel.settings()["feature"] == ("3=2.0:add", "12=1.0:clamp")
    assert (tab.positions.positions(), tab.positions.norm_rule()) == ("last", "keep")
    from mistudio.store.tables import SAES

    SAES.delete(services.studio.db(), line.preset.saes[0].id)
    tab.presets.read()
    settle(tab, qtbot)
    (line,) = tab.presets.lines
    assert not line.load.isEnabled()
    assert steering_presets.presets(services.studio)[0].missing


def test_the_sides_are_stacked_when_narrow(services: Services, qtbot: QtBot) -> None:
    tab = shown_tab(services, qtbot)
    assert tab.split.orientation() == Qt.Orientation.Horizontal
    tab.resize(appearance().px(NARROW) - 10, 560)
    assert tab.split.orientation() == Qt.Orientation.Vertical
    assert tab.area.horizontalScrollBar().maximum() == 0


def test_the_unmeasured_is_a_dash_and_identity_is_said(
    styled: Any, services: Services, qtbot: QtBot
) -> None:
    output = Output(services)
    qtbot.addWidget(output)
    output.show_run("p", {"baseline": "a", "steered": "a"}, {"identical": True, "kl": None})
    assert output.tiles.tiles["kl"].value() == "—"
    assert not output.note.isHidden()
    assert output.warning.isHidden()


def test_a_stretch_that_is_said_again_is_warned_of(services: Services, qtbot: QtBot) -> None:
    made = Output(services)
    qtbot.addWidget(made)
    figures = {
        "longest_repeat_steered": 24,
        "repeat_share_steered": 0.6,
        "longest_repeat_baseline": 3,
        "repeat_share_baseline": 0.075,
    }
    outputs = {"baseline": "a", "steered": "b"}
    made.show_run("p", outputs, figures)
    assert made.repeating.isHidden()
    assert made.repeats.text() == (
        "Longest stretch said again: steered 24 tokens, 60% of the text; baseline 3 tokens, 8% of "
        "the text."
    )
    made.show_run("p", outputs, {**figures, "repeats_steered": True})
    assert not made.repeating.isHidden()
    assert made.repeating_text.text() == (
        "The text says a stretch of 24 tokens more than once, 60% of its length."
    )
    assert made.warning.isHidden(), "it is not the warning of over-steering"
    made.show_run("p", outputs, {"kl": 0.1})  # a run of before it was measured
    assert made.repeats.isHidden()
