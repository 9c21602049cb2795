"""The Steering tab with the keyboard alone: every control is reached, and a run is made."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QAbstractButton, QScrollArea, QWidget
from pytestqt.qtbot import QtBot

from mistudio.core.steering_spec import Feature
from mistudio.gui.services import Services
from mistudio.gui.tabs.steering.tab import SteeringTab
from mistudio.gui.widgets.layout import Collapsible
from tests.gui import feature_world
from tests.gui.test_steering_tab import only_job, ready_tab, settle, shown_tab

Key = Qt.Key


def focused(tab: SteeringTab) -> QWidget:
    found = tab.window().focusWidget()
    assert found is not None, "nothing has the focus"
    return found


def press(tab: SteeringTab, qtbot: QtBot, key: Any, times: int = 1) -> None:
    for _ in range(times):
        qtbot.keyClick(focused(tab), key)


def walk(tab: SteeringTab, qtbot: QtBot) -> list[QWidget]:
    """What Tab reaches from the first control until it is there again."""
    found: list[QWidget] = []
    tab.panel.source.setFocus()
    while focused(tab) not in found:
        found.append(focused(tab))
        assert len(found) < 300, "Tab goes nowhere"
        press(tab, qtbot, Key.Key_Tab)
    return found


def go(tab: SteeringTab, qtbot: QtBot, wanted: QWidget) -> None:
    """Press Tab until a control has the focus."""
    passed: list[str] = []
    while len(passed) < 300:
        if focused(tab) is wanted or wanted.isAncestorOf(focused(tab)):
            return
        passed.append(named(focused(tab)))
        press(tab, qtbot, Key.Key_Tab)
    raise AssertionError(f"Tab does not reach {named(wanted)}, but {passed[-80:]}")


def named(widget: QWidget) -> str:
    own = widget
    while not own.accessibleName() and isinstance(own.parentWidget(), QWidget):
        if isinstance(own, QAbstractButton) and own.text():
            return own.text()
        own = own.parentWidget()
    return own.accessibleName()


def test_tab_reaches_every_control(services: Services, qtbot: QtBot) -> None:
    tab = ready_tab(services, qtbot)
    tab.settings.set_open(True)
    for section in tab.form.findChildren(Collapsible):
        section.set_open(True)
    reached = walk(tab, qtbot)
    card = tab.panel.cards[0]
    wanted: list[QWidget] = [
        tab.panel.search.field, tab.vectors_button, tab.auto_button, tab.panel.clear_button,
        card.toggle, card.operator, card.number, card.unit, card.slider, card.less,
        card.reset_button, card.more, card.when, tab.prompt, tab.generate_button, tab.copy_button,
        tab.modes.buttons["blended"], tab.settings.heading, tab.preview.heading,
        tab.presets.heading, tab.history.search,
    ]  # fmt: skip
    wanted += [field.editor for field in tab.form.fields.values()]
    missing = [
        named(widget)
        for widget in wanted
        if not any(w is widget or widget.isAncestorOf(w) for w in reached)
    ]
    assert missing == []
    nameless = [w for w in reached if not named(w) and not isinstance(w, QScrollArea)]
    assert nameless == [], "each says what it is"
    place = [next(i for i, w in enumerate(reached) if w is x) for x in (card.operator, tab.prompt)]
    assert place == sorted(place), "left before right"
    settle(tab, qtbot)


def test_a_run_is_made_without_the_mouse(services: Services, qtbot: QtBot) -> None:
    world = feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    tab.focus_search()  # as Ctrl+F does
    for letter in "whale":
        qtbot.keyClick(focused(tab), letter)
    press(tab, qtbot, Key.Key_Return)
    settle(tab, qtbot)
    press(tab, qtbot, Key.Key_Down)
    press(tab, qtbot, Key.Key_Return)
    settle(tab, qtbot)
    assert [card.facts.source for card in tab.panel.cards] == [Feature(1, world.sae.id)]
    card = tab.panel.cards[0]
    assert card.number.isAncestorOf(focused(tab)) or focused(tab) is card.number
    qtbot.keyClick(focused(tab), Key.Key_A, Qt.KeyboardModifier.ControlModifier)
    for letter in "1.5":
        qtbot.keyClick(focused(tab), letter)
    go(tab, qtbot, card.slider)
    press(tab, qtbot, Key.Key_Right, 5)
    assert card.value() == 2.0
    go(tab, qtbot, tab.prompt)
    for letter in "The sea":
        qtbot.keyClick(focused(tab), letter)
    go(tab, qtbot, tab.modes)
    press(tab, qtbot, Key.Key_Right, 3)
    assert tab.modes.mode() == "operators"
    settle(tab, qtbot)
    go(tab, qtbot, tab.alternatives.cards[0].number)
    press(tab, qtbot, Key.Key_Up)
    go(tab, qtbot, tab.generate_button)
    press(tab, qtbot, Key.Key_Space)
    settle(tab, qtbot)
    job = only_job(services)
    assert job.config["feature"] == ["1=2.0:add"]
    assert (job.config["prompt"], job.config["mode"]) == ("The sea", "operators")
    assert len(job.config["alternative"]) == 1
    go(tab, qtbot, tab.stop_button)
    press(tab, qtbot, Key.Key_Space)
    settle(tab, qtbot)
    assert only_job(services).status == "cancelled"
