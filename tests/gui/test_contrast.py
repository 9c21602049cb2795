"""Every text on every ground that it can stand on: the style sheet's, and what paints itself."""

from __future__ import annotations

import pytest
from PySide6.QtGui import QColor, QPalette
from PySide6.QtWidgets import QApplication, QLineEdit, QPlainTextEdit, QWidget
from pytestqt.qtbot import QtBot

from mistudio.gui import style
from mistudio.gui.stylesheet import stylesheet
from mistudio.gui.tabs.datasets.token_chips import TINT, TINTS
from mistudio.gui.tabs.features.columns import columns
from mistudio.gui.tabs.features.sample_dialog import MARK
from mistudio.gui.tabs.models.lens_grid import ink, shade
from mistudio.gui.tabs.steering.pane import DIFFERENCE
from mistudio.gui.theme import ACCENTS, DARK, LIGHT, SERIES, Appearance, Colors, contrast, mix
from mistudio.gui.widgets.token_layout import DETAIL, TABLE
from tests.helpers.cascade import looks

TEXT, GRAPHICS = 4.5, 3.0  # WCAG 2, AA
WORDLESS = ("::handle", "::groove", "::chunk", "::indicator", "-page", "::separator")
PALETTES = pytest.mark.parametrize("colors", [DARK, LIGHT], ids=["dark", "light"])


def grounds(colors: Colors) -> dict[str, str]:
    """What can be below a control that has no ground of its own."""
    names = ("page", "card", "card_settings", "card_nested", "input", "info_fill")
    return {name: str(getattr(colors, name)) for name in names}


def weak(pairs: dict[str, tuple[str, str]], least: float = TEXT) -> dict[str, float]:
    return {
        name: round(contrast(*pair), 2) for name, pair in pairs.items() if contrast(*pair) < least
    }


@PALETTES
def test_every_rule_of_the_style_sheet(styled: QApplication, colors: Colors) -> None:
    look = Appearance()
    look.colors = colors
    pairs: dict[str, tuple[str, str]] = {}
    for name, text, ground in looks(stylesheet(look)):
        if ground is not None and not ground.startswith("#"):
            continue  # a bar's gradient, on which nothing is written
        below = {"its own": ground} if ground else grounds(colors)
        pairs |= {f"{name} on {where}": (text, fill) for where, fill in below.items()}
    assert len(pairs) > 300
    written = {n: p for n, p in pairs.items() if not any(part in n for part in WORDLESS)}
    assert weak(written) == {}


@PALETTES
def test_roles_on_every_ground(colors: Colors) -> None:
    """Figures and links in rows that are hovered or chosen, in notes and in cards."""
    roles = ("text", "label", "muted", "emerald", "blue", "purple", "yellow", "red")
    rows = {name: str(getattr(colors, name)) for name in ("table_hover", "active_fill", "hover")}
    everywhere = {**grounds(colors), "table_header": colors.table_header}
    pairs = {
        f"{role} on {name}": (colors.role(role), fill)
        for role in roles
        for name, fill in everywhere.items()
    }
    shown = {column.role for column in columns() if isinstance(column.role, str) and column.role}
    pairs |= {
        f"{role} on {name}": (colors.role(role), fill)
        for role in shown | {"text", "emerald"}
        for name, fill in rows.items()
        if name != "hover"
    }
    assert weak(pairs) == {}


@PALETTES
def test_placeholders(qapp: QApplication, qtbot: QtBot, colors: Colors) -> None:
    style.apply(qapp, colors.name, 14)
    for field in (QLineEdit(), QPlainTextEdit()):
        qtbot.addWidget(field)
        field.setPlaceholderText("any")
        field.ensurePolished()
        shown = field.palette().color(QPalette.ColorRole.PlaceholderText)
        under = QColor(colors.input)
        seen = mix(shown.name().upper(), under.name().upper(), shown.alphaF())
        assert contrast(seen, colors.input) >= TEXT, type(field).__name__
    style.apply(qapp, "dark", 14)


@PALETTES
def test_highlighted_tokens(colors: Colors) -> None:
    """From faint to the strongest, in the table's rows and on the pages of a feature."""
    pairs: dict[str, tuple[str, str]] = {}
    rows = (colors.card, colors.table_hover, colors.active_fill)
    for name, kind, plain, below in (
        ("table", TABLE, colors.chip_text_table, rows),
        ("detail", DETAIL, colors.chip_text_detail, (colors.card, *grounds(colors).values())),
    ):
        for fill in below:
            for step in range(21):
                share = step / 20
                text = colors.chip_text_strong if share > kind.strong_above else plain
                shown = mix(colors.highlight, fill, kind.alpha * share)
                pairs[f"{name} {share} on {fill}"] = (text, shown)
            pairs[f"{name} masked on {fill}"] = (colors.muted, fill)
    assert weak(pairs) == {}


@PALETTES
def test_what_paints_its_own_ground(colors: Colors) -> None:
    pairs = {
        f"chip {tint}": (colors.text, mix(colors.role(tint), colors.card_settings, TINT))
        for tint in TINTS
    }
    pairs["special chip"] = (colors.label, colors.hover)
    pairs["difference"] = (
        colors.text,
        mix(colors.emerald_fill, colors.card_settings, DIFFERENCE),
    )
    pairs["place in a sample"] = (colors.text, mix(colors.highlight, colors.input, MARK))
    for step in range(21):
        fill = shade(colors, step / 20)
        pairs[f"lens {step}"] = (ink(fill), fill)
    assert weak(pairs) == {}


@PALETTES
def test_curves_bars_and_marks(colors: Colors) -> None:
    """Graphics that carry meaning stand out from their ground."""
    chart = colors.card_settings
    pairs = {name: (colors.role(name), chart) for name in SERIES}
    pairs |= {f"focus on {name}": (colors.focus, fill) for name, fill in grounds(colors).items()}
    pairs |= {f"pill {name}": (colors.fill(name), colors.on_fill) for name in ("emerald", "blue")}
    pairs["knob"] = (colors.on_fill, colors.toggle_off)
    assert weak(pairs, GRAPHICS) == {}
    assert all(contrast(accent, colors.card_nested) > 2 for accent in ACCENTS)


def test_the_cascade_is_read_as_qt_reads_it(styled: QApplication, qtbot: QtBot) -> None:
    """A wrong reading would make the first test true of another sheet."""
    look = Appearance()
    found = {name: (text, ground) for name, text, ground in looks(stylesheet(look))}
    assert found["QPushButton"] == (DARK.text, DARK.card)
    assert found["QPushButton:disabled"] == (DARK.muted, DARK.card)
    assert found['QPushButton[variant="primary"]:hover'] == (DARK.on_fill, DARK.primary_hover)
    assert found['QPushButton[variant="link"]'] == (DARK.blue, None)
    assert found["QTabBar::tab:selected"][0] == DARK.emerald
    shown = QWidget()
    qtbot.addWidget(shown)
    shown.ensurePolished()
    assert shown.palette().color(QPalette.ColorRole.WindowText) == QColor(DARK.text)
