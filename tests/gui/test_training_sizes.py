"""Latents typed as an expansion and tokens typed as steps, in the training form."""

from __future__ import annotations

import pytest
from PySide6.QtWidgets import QComboBox
from pytestqt.qtbot import QtBot

from mistudio.core.errors import InvalidInput
from mistudio.gui.services import Services
from mistudio.gui.tabs.training.new_training import NewTraining
from mistudio.gui.tabs.training.sizes import AutoSaveEditor
from mistudio.store.tables import MODELS
from tests.gui.training_world import add_world


@pytest.fixture
def card(qtbot: QtBot, services: Services) -> NewTraining:
    """The card with a model of width 64 and a text chosen."""
    add_world(services.studio.db())
    made = NewTraining(services)
    qtbot.addWidget(made)
    made.resize(1100, 640)
    made.show()
    qtbot.waitUntil(services.query.is_idle)
    made.dataset.set_value("tales")
    return made


def problem(card: NewTraining, name: str) -> str:
    return card.form.fields[name].problem.text()


def test_an_expansion_becomes_latents_and_latents_an_expansion(card: NewTraining) -> None:
    editor = card.form.width_editor
    assert (editor.value(), editor.line.text()) == ("512", "8")
    editor.line.setText("4")
    assert card.form.training().width == 256
    assert "4× the model's width of 64" in card.summary.text()
    editor.box.lineEdit().setText("640")
    assert editor.line.text() == "10"
    editor.box.lineEdit().setText("100")  # 1.5625 times
    assert (editor.line.text(), editor.line.placeholderText()) == ("", "1.56")
    other = editor.other
    assert isinstance(other, QComboBox)
    assert [other.itemText(place) for place in range(other.count())] == ["4", "8", "16", "32"]
    other.setCurrentIndex(2)
    assert card.form.training().width == 1024


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("0", "Expansion must lie between 1 and 64."),
        ("65", "Expansion must lie between 1 and 64."),
        ("2.5", "Expansion must be a whole number, not 2.5."),
        ("many", "Expansion must be a whole number, not many."),
    ],
)
def test_a_wrong_expansion_is_told_beside_the_field(
    card: NewTraining, typed: str, sentence: str
) -> None:
    card.form.width_editor.line.setText(typed)
    assert problem(card, "width") == sentence
    assert not card.start_button.isEnabled()
    with pytest.raises(InvalidInput):
        card.form.training()
    card.form.width_editor.line.setText("64")  # the latents it had already
    assert problem(card, "width") == ""
    assert card.start_button.isEnabled()


def test_steps_become_tokens_and_follow_the_batch(card: NewTraining) -> None:
    editor = card.form.length_editor
    editor.line.setText("5,000")
    assert card.form.training().tokens == 5000 * 2048
    card.form.set_values({"batch": 4096})
    assert (card.form.training().tokens, editor.line.text()) == (5000 * 2048, "2500")
    editor.box.lineEdit().setText("4097")  # the job takes a second step for the last token
    assert editor.line.text() == "2"
    editor.box.lineEdit().clear()  # one pass
    assert (editor.line.text(), card.form.training().tokens) == ("", 0)
    editor.line.setText("1000001")
    assert problem(card, "tokens") == "Steps must lie between 1 and 1,000,000."
    editor.line.clear()
    assert problem(card, "tokens") == ""
    card.form.fields["batch"].editor.set_value("none")
    assert not editor.other.isEnabled()


def test_the_batch_goes_by_powers_of_two(card: NewTraining) -> None:
    editor = card.form.batch_editor
    editor.box.stepBy(1)
    assert editor.value() == "4096"
    for _ in range(4):
        editor.box.stepBy(1)
    assert editor.value() == "16384"
    editor.set_value(1000)
    assert problem(card, "batch") == "Batch must be a power of two, such as 512 or 1,024."
    assert not card.start_button.isEnabled()
    editor.box.stepBy(-1)
    assert (editor.value(), problem(card, "batch")) == ("512", "")
    editor.set_value(65)
    editor.box.stepBy(-2)
    assert editor.value() == "64"
    editor.set_value(32)
    assert problem(card, "batch") == "Batch must lie between 64 and 16,384."


def test_auto_save_is_turned_off_and_steps_by_hundreds(card: NewTraining) -> None:
    editor = card.form.fields["checkpoint_every"].editor
    assert isinstance(editor, AutoSaveEditor)
    assert card.form.training().checkpoint_every == 1000
    editor.box.stepBy(1)
    assert card.form.training().checkpoint_every == 1100
    editor.auto.setChecked(False)
    assert card.form.training().checkpoint_every == 0
    assert not editor.box.isEnabled()
    card.form.set_values({"checkpoint_every": 50})  # of a run started in a terminal
    assert (editor.auto.isChecked(), card.form.training().checkpoint_every) == (True, 50)
    editor.box.stepBy(1)
    assert editor.value() == "100"
    editor.box.stepBy(-1)
    assert editor.value() == "100"
    editor.set_value(10_000)
    editor.box.stepBy(1)
    assert editor.value() == "10000"
    card.form.set_values({"checkpoint_every": 0})
    card.form.reset()
    assert card.form.training().checkpoint_every == 1000


def test_a_short_run_and_a_high_rate_are_warned_of(card: NewTraining) -> None:
    assert card.warning.isHidden()
    card.form.length_editor.line.setText("500")
    card.form.set_values({"learning_rate": 0.05})
    assert card.warning.text().startswith("The length is 500 steps; ")
    assert "A learning rate of 0.05 is high" in card.warning.text()
    assert card.start_button.isEnabled()  # warnings, no refusal


def test_a_form_of_another_model_keeps_its_latents(card: NewTraining, services: Services) -> None:
    MODELS.insert(
        services.studio.db(), name="wide", origin="folder", path="/w", num_layers=2,
        hidden_dim=128, status="ready",
    )  # fmt: skip
    card._on_choices(type(card._choices)(models=MODELS.select(services.studio.db())))
    card.form.width_editor.line.setText("16")
    card.model.set_value("wide")
    assert (card.form.width_editor.value(), card.form.width_editor.line.text()) == ("1024", "8")
    card.model.set_value("")
    assert not card.form.width_editor.other.isEnabled()


def test_the_second_controls_say_what_they_are(card: NewTraining) -> None:
    names = (card.form.width_editor.other, card.form.length_editor.other)
    assert [one.accessibleName() for one in names] == ["Expansion", "Steps"]
    assert all(one.toolTip() for one in names)
