"""The training form of several SAEs, of several texts and of stored activations; their runs."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PySide6.QtGui import QGuiApplication

from mistudio.core.config import from_arguments, from_dict, to_dict
from mistudio.core.sweep_configs import SweepConfig
from mistudio.core.training_configs import TrainConfig
from mistudio.core.training_plan import Plan, Proposal
from mistudio.grammar import build_parser
from mistudio.gui.reporting import Drained, Progress
from mistudio.gui.services import Services
from mistudio.gui.tabs.training import TrainingTab
from mistudio.gui.tabs.training.new_training import NewTraining
from mistudio.gui.tabs.training.reads import read_run
from mistudio.gui.tabs.training.states import words_of
from mistudio.jobs import templates
from mistudio.jobs.templates import Loaded
from mistudio.store.jobs import add_job
from mistudio.store.records import ActivationSetRow
from mistudio.store.tables import ACTIVATION_SETS, JOBS, TRAININGS
from tests.gui.training_world import World, add_training, add_world, metric_row


@pytest.fixture
def world(services: Services) -> World:
    return add_world(services.studio.db())


@pytest.fixture
def sent(services: Services, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What was submitted."""
    found: list[tuple[str, Any]] = []
    monkeypatch.setattr(
        services.studio,
        "submit",
        lambda kind, config, title="": found.append((kind, config)) or "job_1",
    )
    return found


@pytest.fixture
def opened(qtbot: Any, services: Services, world: World) -> Iterator[Callable[[], TrainingTab]]:
    """Opens a Training tab, which lives as long as the test."""
    tabs: list[TrainingTab] = []

    def open_one() -> TrainingTab:
        tab = TrainingTab(services)
        tabs.append(tab)
        qtbot.addWidget(tab)
        tab.resize(1240, 640)
        tab.show()
        qtbot.waitUntil(services.query.is_idle)
        return tab

    yield open_one
    tabs.clear()


@pytest.fixture
def form(opened: Callable[[], TrainingTab]) -> NewTraining:
    made = opened().runs.form
    made.dataset.set_value("tales")
    made.form.set_values({"layers": "0", "width": TrainConfig().width})
    return made


def add_set(services: Services, **values: Any) -> ActivationSetRow:
    found = {"name": "stored", "layers": "2,7", "hooks": "mlp_out", "status": "completed"}
    return ACTIVATION_SETS.insert(services.studio.db(), **{**found, "n_tokens": 4096, **values})


def read_back(line: str) -> TrainConfig:
    """The settings that a copied command trains with."""
    return from_arguments(TrainConfig, build_parser().parse_args(shlex.split(line)[1:]))


def toggle(form: NewTraining, *layers: int) -> None:
    for layer in layers:
        form.layers.grid.toggles[layer].click()


def test_one_layer_and_hook_make_one_training(form: NewTraining, sent: list[Any]) -> None:
    toggle(form, 0, 5)  # the first is on when the form opens
    form.start()
    assert sent == [("train", TrainConfig(model="gpt-tiny", dataset="tales", layer=5))]


def test_several_make_a_sweep_that_tells_how_many(form: NewTraining, sent: list[Any]) -> None:
    toggle(form, 4, 11)
    form.form.hooks.ticks["mlp_out"].click()
    form.form.vary.add_button.click()
    line = form.form.vary.lines[0]
    line.choice.set_value("k")
    line.text.setText("16, 32")
    assert form.summary.text().startswith("12 SAEs from one pass · 1,000 steps")
    form.start()
    kind, config = sent[0]
    assert kind == "sweep"
    assert (config.layers, config.hooks) == ("0,4,11", ("resid_post", "mlp_out"))
    assert {(m.layer, m.hook, m.k) for m in config.members(12)} == {
        (layer, hook, k)
        for layer in (0, 4, 11)
        for hook in ("resid_post", "mlp_out")
        for k in (16, 32)
    }


def test_the_form_remembers_a_sweep(
    opened: Callable[[], TrainingTab], form: NewTraining, sent: list[Any]
) -> None:
    toggle(form, 3)
    form.form.vary.set_value(["seed=0,1"])
    form.start()
    again = opened().runs.form
    assert again.layers.value() == "0,3"
    assert again.form.vary.value() == ["seed=0,1"]


def test_a_wrong_value_is_told_and_keeps_it_from_starting(form: NewTraining) -> None:
    form.form.vary.set_value(["k=16,many"])
    told = form.form.fields["vary"].problem.text()
    assert told == "'k=16,many' holds a value that k cannot have."
    assert not form.start_button.isEnabled()
    form.form.vary.lines[0].remove.click()
    assert form.start_button.isEnabled()


def test_no_layer_and_no_hook_are_told(form: NewTraining) -> None:
    form.layers.grid.none_button.click()
    assert form.reason.text() == "Choose at least one layer."
    toggle(form, 1)
    form.form.hooks.ticks["resid_post"].click()
    assert form.reason.text() == "Choose at least one hook."
    assert not form.start_button.isEnabled()


def test_more_than_four_layers_are_warned_of(form: NewTraining) -> None:
    toggle(form, 1, 2, 3)
    assert not form.warning.isVisible()
    toggle(form, 4)
    assert "5 layers are learnt at once" in form.warning.text()


def test_datasets_are_mixed_by_weight(form: NewTraining, sent: list[Any]) -> None:
    assert form.form.fields["dataset_weight"].isHidden()
    form.form.more_datasets.add_button.click()
    line = form.form.more_datasets.lines[0]
    line.choice.set_value("news")
    line.text.setText("3")
    assert form.form.fields["dataset_weight"].isVisible()
    form.form.set_values({"dataset_weight": 0.5})
    form.start()
    assert sent[0][1].mixture == [("tales", 0.5), ("news", 3.0)]
    line.text.setText("much")
    assert "gives no weight" in form.form.fields["more_datasets"].problem.text()


def test_the_command_is_that_of_what_is_submitted(form: NewTraining) -> None:
    form.form.copy_command()
    assert QGuiApplication.clipboard().text() == "mistudio train --model gpt-tiny --dataset tales"
    toggle(form, 1)
    form.form.copy_command()
    assert QGuiApplication.clipboard().text() == (
        "mistudio sweep --model gpt-tiny --dataset tales --layers 0,1"
    )


def test_templates_hold_sweeps(services: Services, form: NewTraining) -> None:
    config = SweepConfig(layers="1,8", vary=("k=8,16",), width=512)
    row = templates.save(services.studio, "training", config, "mine")
    form.load(templates.load(services.studio, row.id))
    assert form.form.training() == from_dict(
        SweepConfig, {**to_dict(config), "model": "gpt-tiny", "dataset": "tales"}
    )
    shipped = {r.name: r for r in templates.templates(services.studio, "training")}
    found: Loaded = templates.load(services.studio, shipped["High Quality"].id)
    form.load(found)
    assert form.layers.value() == "2,5,8"  # 25, 50 and 75 % of twelve blocks


def test_a_set_offers_what_it_holds_and_knows_its_text(
    qtbot: Any, services: Services, form: NewTraining, world: World, sent: list[Any]
) -> None:
    stored = add_set(services, model_id=world.model, tokenization_id=world.tokenization)
    services.publisher.publish("activation_sets", stored.id)
    qtbot.waitUntil(lambda: form.form.activations.combo.count() == 2)
    form.train_on(stored.id)
    hidden = [n for n in ("model", "dataset", "context") if form.form.fields[n].isHidden()]
    assert hidden == ["model", "dataset", "context"]
    assert [t.isEnabled() for t in form.layers.grid.toggles] == [i in (2, 7) for i in range(12)]
    assert form.layers.value() == "2"  # the nearest there is
    assert form.form.hooks.value() == []
    assert form.reason.text() == "Choose at least one hook."
    form.form.hooks.ticks["mlp_out"].click()
    toggle(form, 7)
    form.start()
    kind, config = sent[0]
    assert kind == "sweep"
    assert (config.activations, config.model, config.dataset) == (stored.id, "", "")
    assert [(m.layer, m.hook) for m in config.members(4096)] == [(2, "mlp_out"), (7, "mlp_out")]
    form.form.set_values({"encoder": "transcoder"})
    assert form.reason.text() == "stored holds nothing of mlp_in."


def test_imported_vectors_need_no_model(
    qtbot: Any, services: Services, form: NewTraining, sent: list[Any]
) -> None:
    stored = add_set(services, layers="0", hooks="mlp_in", config={"path": "x.npy"})
    services.publisher.publish("activation_sets", stored.id)
    qtbot.waitUntil(lambda: form.form.activations.combo.count() == 2)
    form.train_on(stored.id)
    names = ("model", "dataset", "layers", "hooks")
    assert all(form.form.fields[name].isHidden() for name in names)
    form.start()
    assert sent == [("train", TrainConfig(activations=stored.id, layer=0, tokens=0))]


def test_a_set_is_read_once_unless_a_length_was_chosen(
    qtbot: Any, services: Services, form: NewTraining, sent: list[Any], opened: Callable[[], Any]
) -> None:
    stored = add_set(services, layers="0", hooks="mlp_in", config={"path": "x.npy"})
    services.publisher.publish("activation_sets", stored.id)
    qtbot.waitUntil(lambda: form.form.activations.combo.count() == 2)
    length, usual = form.form.length_editor, str(TrainConfig().tokens)
    form.train_on(stored.id)
    assert length.value() == "0"
    form.form.copy_command()
    words = QGuiApplication.clipboard().text()
    assert words == f"mistudio train --activations {stored.id}"
    assert read_back(words) == form.form.training()
    form.form.activations.set_value("")
    assert length.value() == usual
    form.form.activations.set_value(stored.id)
    length.box.set_number(TrainConfig().tokens)  # chosen, though it is the usual one
    form.form.copy_command()
    words = QGuiApplication.clipboard().text()
    assert f"--tokens {usual}" in words
    assert read_back(words) == form.form.training()
    form.form.set_values({"activations": "", "tokens": 640_000})
    form.form.activations.set_value(stored.id)
    assert length.value() == "640000"
    form.use({"activations": stored.id, "tokens": TrainConfig().tokens})
    assert length.value() == usual, "an earlier run's own length"
    form.form.reset()
    form.train_on(stored.id)
    form.start()
    assert sent[0][1].tokens == 0
    assert opened().runs.form.form.length_editor.value() == usual, "the next run reads a model"


def test_cards_tell_the_sweep_and_what_acts_on_all(
    qtbot: Any, services: Services, world: World, opened: Callable[[], TrainingTab]
) -> None:
    db = services.studio.db()
    rows = [add_training(db, world, group_id="sweep_1")[0] for _ in range(3)]
    for job in JOBS.select(db):
        JOBS.delete(db, job.id)
    job = add_job(db, "sweep", "gpu", "Train several", to_dict(SweepConfig()), target_id="sweep_1")
    JOBS.update(db, job.id, status="running")
    tab = opened()
    card = tab.runs.list.cards[rows[1].id]
    assert card.sweep.accessibleName() == "sweep · 2 of 3"
    assert card.buttons["pause"].text() == "Pause all"
    assert card.buttons["stop"].toolTip().endswith(": all 3 runs of the sweep")
    assert not card.sweep.isHidden()
    assert card.together.isHidden(), "no step is measured yet"
    for row, loss, dead in ((rows[0], 0.5, 3), (rows[1], 0.25, 9)):
        TRAININGS.update(db, row.id, latest_loss=loss, latest_l0=8.0, latest_dead=dead)
    tab.runs.list.refresh()
    qtbot.waitUntil(lambda: not card.together.isHidden())
    assert card.together.text() == (
        "All 3 runs: mean loss 0.3750 · mean L0 8.0 · 12 dead in all · 2.3 %"
    )
    tab.runs.form.started.emit(job.id)
    qtbot.waitUntil(lambda: tab.runs.list._selected == rows[0].id)
    TRAININGS.update(db, rows[1].id, status="failed")
    JOBS.update(db, job.id, status="completed")
    run = read_run(db, rows[1].id)
    assert run is not None
    assert words_of("resume", run)[0] == "Resume"  # the sweep has ended: this one goes on alone


def test_a_single_run_says_nothing_of_sweeps(
    services: Services, world: World, opened: Callable[[], TrainingTab]
) -> None:
    row, _ = add_training(services.studio.db(), world)
    card = opened().runs.list.cards[row.id]
    assert card.sweep.isHidden()
    assert card.buttons["pause"].text() == "Pause"


def test_a_plan_that_is_tight_offers_fewer_layers(form: NewTraining) -> None:
    toggle(form, 4, 9)
    proposal = Proposal("2 of the 3 layers", 1000, {}, 2)
    tight = Plan((), 1900, 2000, 0, 0, 0, 2048, 1, 1.0, False, 3, "warn", (proposal,), "3 SAEs")
    form.plan._show(tight)
    assert form.plan.ways[0].text() == "Use 2 of the 3 layers"
    form.plan.ways[0].click()
    assert form.layers.value() == "0,4"


def test_each_run_of_a_sweep_gets_its_own_figures(
    services: Services, world: World, opened: Callable[[], TrainingTab]
) -> None:
    db = services.studio.db()
    rows = [add_training(db, world, group_id="sweep_1", name=f"seed {i}")[0] for i in range(2)]
    for job in JOBS.select(db):
        JOBS.delete(db, job.id)
    job = add_job(db, "sweep", "gpu", "Train several", to_dict(SweepConfig()), target_id="sweep_1")
    JOBS.update(db, job.id, status="running")
    runs = opened().runs
    told: list[tuple[str, Any]] = [
        ("training", {**metric_row(row.id, 5), "l0": 7.0 + i}) for i, row in enumerate(rows)
    ]
    services.lanes.drained.emit(job.id, Drained(Progress(0.5, "Training", "", None), [*told]))
    cards = [runs.list.cards[row.id] for row in rows]
    assert [card.tiles["l0"].value() for card in cards] == ["7.0", "8.0"]
    assert [card.bar.value() for card in cards] == [50.0, 50.0]
    endings = [card.subtitle.text().rpartition(" · ")[2] for card in cards]
    assert endings == ["seed 0", "seed 1"]
