"""One text as it is written: copy, ending, positions acted on, differences marked."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Signal
from PySide6.QtGui import QColor, QGuiApplication, QTextCharFormat, QTextCursor
from PySide6.QtWidgets import QPlainTextEdit, QScrollArea, QStackedWidget, QTextEdit, QWidget

from mistudio.core.steering_shown import BASELINE, differing
from mistudio.gui.style import set_property
from mistudio.gui.theme import appearance, mix
from mistudio.gui.widgets.cards import Card, IconLabel, button, label, row
from mistudio.gui.widgets.elided import Elided
from mistudio.gui.widgets.token_layout import LINEAR, TokenPiece
from mistudio.gui.widgets.token_text import TokenText

WIDTH = 220  # px that a pane has at least, at a 16-px font
DIFFERENCE = 0.35  # of the ground of a stretch that differs


class Pane(Card):
    """A variant's text; a click or Return on its title chooses it."""

    chosen = Signal(str)

    def __init__(self, name: str, title: str, parent: QWidget | None = None) -> None:
        super().__init__("settings", parent, padding=10)
        self.name, self.is_baseline = name, name == BASELINE
        self.setProperty("active", not self.is_baseline)
        self.setMinimumWidth(appearance().px(WIDTH))
        self.text = QPlainTextEdit()
        self.text.setReadOnly(True)
        self.text.setAccessibleName(title)
        self.text.setTabChangesFocus(True)
        self.text.setMinimumHeight(appearance().px(140))
        self.ending = label("", "warning", wrap=True)
        self.ending.hide()
        self.acted = label("", "small")
        self.acted.hide()
        copy = button("", self._copy, variant="ghost", icon="copy", tip=f"Copy: {title}")
        self.title = Elided("label")
        self.title.set_text(title)
        self.figures = label("", "small", wrap=True)
        self.figures.hide()
        self.choose = button("Figures", self._on_choose, variant="ghost")
        self.choose.setToolTip(f"Show the figures of: {title}")
        self.choose.setAccessibleName(f"Figures of {title}")
        self.choose.hide()
        dot = IconLabel("dot", "muted" if self.is_baseline else "emerald", 12)
        head = row(dot, self.title, copy)
        head.setStretch(1, 1)
        self.box.setSpacing(appearance().px(6))
        self.box.addLayout(head)
        self.tokens: TokenText | None = None  # made when predictions are first asked for
        self._pages = QStackedWidget()
        self._pages.addWidget(self.text)
        self.box.addWidget(self._pages, 1)
        self.box.addWidget(self.figures)
        self.box.addLayout(row(self.acted, None, self.choose))
        self.box.addWidget(self.ending)
        self._beside: str | None = None
        appearance().changed.connect(self._mark)

    def set_text(self, text: str) -> None:
        """Show a text; one that only grew is continued, so that a selection stays."""
        before = self.text.toPlainText()
        if text == before:
            return
        self.text.setExtraSelections([])
        if before and text.startswith(before):
            cursor = QTextCursor(self.text.document())
            cursor.movePosition(QTextCursor.MoveOperation.End)
            cursor.insertText(text[len(before) :])
        else:
            self.text.setPlainText(text)

    def set_ending(self, sentence: str) -> None:
        """Say how the text ended, "" for as usual."""
        self.ending.setText(sentence)
        self.ending.setVisible(bool(sentence))

    def set_acted(self, sentence: str) -> None:
        """Say on how many positions was acted."""
        self.acted.setText(sentence)
        self.acted.setVisible(bool(sentence))

    def set_figures(self, sentence: str) -> None:
        """Say the figures of the variant in one line, "" for none."""
        self.figures.setText(sentence)
        self.figures.setVisible(bool(sentence))

    def set_chosen(self, on: bool) -> None:
        """Whether the tiles show this variant."""
        set_property(self.choose, "chosen", on)
        self.choose.setEnabled(not on)

    def mark(self, baseline: str | None) -> None:
        """Mark the words that a baseline has not; None: no marks."""
        self._beside = baseline
        self._mark()

    def show_predictions(self, pairs: Sequence[tuple[str, float]], largest: float) -> None:
        """Show each token of the text in the shade of its KL; no pairs: the text again."""
        if not pairs:
            self._pages.setCurrentIndex(0)
            return
        if self.tokens is None:
            self.tokens = TokenText()
            self.tokens.setToolTip("KL of each token's prediction, in nats")
            area = QScrollArea()
            area.setWidgetResizable(True)
            area.setWidget(self.tokens)
            self._pages.addWidget(area)
        pieces = [TokenPiece(text, value) for text, value in pairs]
        self.tokens.show_tokens(pieces, largest, None, line_breaks=True, marks=True, curve=LINEAR)
        self._pages.setCurrentIndex(1)

    def marked(self) -> list[str]:
        """The stretches that are marked."""
        return [s.cursor.selectedText() for s in self.text.extraSelections()]  # type: ignore[attr-defined]

    def _mark(self) -> None:
        if self._beside is None:
            self.text.setExtraSelections([])
            return
        colors = appearance().colors
        style = QTextCharFormat()
        style.setBackground(QColor(mix(colors.emerald_fill, colors.card_settings, DIFFERENCE)))
        style.setFontUnderline(True)  # colour alone does not tell
        found: list[QTextEdit.ExtraSelection] = []
        shown = self.text.toPlainText()
        # Qt counts UTF-16 units, Python characters
        for low, high in differing(shown, self._beside):
            mark = QTextEdit.ExtraSelection()
            cursor = QTextCursor(self.text.document())
            cursor.setPosition(_units(shown[:low]))
            cursor.setPosition(_units(shown[:high]), QTextCursor.MoveMode.KeepAnchor)
            mark.cursor, mark.format = cursor, style  # type: ignore[attr-defined]
            found.append(mark)
        self.text.setExtraSelections(found)

    def _on_choose(self) -> None:
        self.chosen.emit(self.name)

    def _copy(self) -> None:
        QGuiApplication.clipboard().setText(self.text.toPlainText())


def _units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2
