"""Colours, style sheet, icons and the widgets that paint themselves."""

from __future__ import annotations

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication, QWidget
from pytestqt.qtbot import QtBot

from mistudio.core.paths import resources
from mistudio.gui import icons, style
from mistudio.gui.actions import ACTIONS
from mistudio.gui.job_card import KIND_ICONS
from mistudio.gui.stylesheet import stylesheet
from mistudio.gui.theme import DARK, LIGHT, Appearance, Colors, appearance, contrast, mix
from mistudio.gui.widgets.cards import Card, button
from mistudio.gui.widgets.pill import STATES, Pill
from mistudio.gui.widgets.progress import ProgressBar, Toggle


def test_contrast_of_black_on_white_is_21() -> None:
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21.0)
    assert mix("#FFFFFF", "#000000", 0.5) == "#808080"


@pytest.mark.parametrize("colors", [DARK, LIGHT], ids=["dark", "light"])
def test_text_is_readable_on_every_surface(colors: Colors) -> None:
    surfaces = [colors.page, colors.card, colors.card_settings, colors.card_nested, colors.input]
    roles = ["text", "label", "muted", "emerald", "blue", "purple", "yellow", "red"]
    weak = {
        (role, surface): round(contrast(colors.role(role), surface), 2)
        for role in roles
        for surface in surfaces
        if contrast(colors.role(role), surface) < 4.5
    }
    assert not weak
    pairs = [
        (colors.on_fill, colors.primary),
        (colors.on_fill, colors.danger),
        (colors.disabled_text, colors.disabled_fill),
        (colors.ready_text, colors.ready_fill),
        (colors.emerald, colors.active_fill),
    ]
    assert all(contrast(*pair) >= 4.5 for pair in pairs)


@pytest.mark.parametrize("colors", [DARK, LIGHT], ids=["dark", "light"])
def test_every_state_pill_is_readable(colors: Colors) -> None:
    for _, role in STATES.values():
        text = colors.role(role)
        assert contrast(text, mix(text, colors.card_settings, 0.12)) >= 4.5


def test_values_are_those_of_the_product_page() -> None:
    assert (DARK.page, DARK.card, DARK.card_settings) == ("#0F1629", "#1E293B", "#0F172A")
    assert (LIGHT.page, LIGHT.muted, LIGHT.yellow) == ("#F1F5F9", "#475569", "#854D0E")


def test_style_sheet_names_no_missing_file_and_scales(styled: QApplication) -> None:
    look = Appearance()
    look.font_px = 24
    sheet = stylesheet(look)
    used = {part.split(")")[0] for part in sheet.split("url(")[1:]}
    assert used
    assert all(name.startswith(str(resources())) for name in used)
    assert all((resources() / "icons" / name.rsplit("/", 1)[1]).exists() for name in used)
    assert "font-size: 36px" in sheet  # the 24-px title at one and a half size


def test_every_icon_named_in_a_table_exists() -> None:
    names = [spec.icon for spec in ACTIONS if spec.icon] + list(KIND_ICONS.values())
    names += [icon for icon, _ in STATES.values()]
    missing = [n for n in names if not (resources() / "icons" / f"{n}.svg").exists()]
    assert not missing


def test_icons_take_the_colour_of_the_theme(styled: QApplication) -> None:
    image = icons.pixmap("stop", "#34D399", 24).toImage()
    colors = {image.pixelColor(x, 12).name() for x in range(24) if image.pixelColor(x, 12).alpha()}
    assert "#34d399" in colors


def test_theme_change_reaches_palette_and_listeners(styled: QApplication, qtbot: QtBot) -> None:
    with qtbot.waitSignal(appearance().changed):
        style.apply(styled, "light", 14)
    assert styled.palette().window().color().name().upper() == LIGHT.page
    style.apply(styled, "dark", 14)
    assert styled.palette().window().color().name().upper() == DARK.page


def test_progress_shows_one_decimal_and_unknown_as_a_dash(
    styled: QApplication, qtbot: QtBot
) -> None:
    bar = ProgressBar()
    qtbot.addWidget(bar)
    assert bar.text() == "—"
    bar.set_value(43.256)
    assert bar.text() == "43.3 %"
    bar.set_value(250)
    assert bar.value() == 100.0
    bar.resize(400, 20)
    bar.set_value(50)
    image = bar.grab().toImage()
    track = image.pixelColor(300, 10).name().upper()
    assert track == DARK.track
    assert image.pixelColor(50, 10).name().upper() != DARK.track


def test_toggle_and_card_work_by_keyboard(styled: QApplication, qtbot: QtBot) -> None:
    toggle, card = Toggle("Mask"), Card(clickable=True)
    for widget in (toggle, card):
        qtbot.addWidget(widget)
    qtbot.keyClick(toggle, Qt.Key.Key_Space)
    assert toggle.isChecked()
    with qtbot.waitSignal(card.clicked):
        qtbot.keyClick(card, Qt.Key.Key_Return)


def test_pill_says_its_state_in_words(styled: QApplication, qtbot: QtBot) -> None:
    pill = Pill("interrupted")
    qtbot.addWidget(pill)
    assert pill.accessibleName() == "Interrupted"
    wide = pill.sizeHint().width()
    pill.set_state("running", "On")
    assert pill.sizeHint().width() < wide


@pytest.mark.parametrize("variant", ["primary", "secondary", "danger", "toggle", "ghost"])
def test_buttons_look_different_when_disabled(
    styled: QApplication, qtbot: QtBot, variant: str
) -> None:
    holder = QWidget()
    qtbot.addWidget(holder)
    made = button("Go", variant=variant)
    made.setParent(holder)
    made.resize(100, 40)
    on = made.grab().toImage()
    made.setEnabled(False)
    assert made.grab().toImage() != on
