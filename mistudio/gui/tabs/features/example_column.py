"""Example cards below each other: those in view are filled at once, the others right afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from PySide6.QtCore import QEvent, QSize, Qt, QTimer, Signal, Slot
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QFrame, QLabel, QScrollArea, QWidget

from mistudio.gui.tabs.features.example_card import ExampleCard, View
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import label


class Line(NamedTuple):
    """A heading, or an example with the activation at which its highlight is full."""

    title: str
    example: Any = None
    maximum: float = 0.0


class ExampleColumn(QScrollArea):
    """Scrolls through headings and cards, which are reused from page to page.

    It places them itself: layouts of Qt ask each text for its height at many widths. The signals
    are those of its cards.
    """

    sample_wanted = Signal(object)
    try_wanted = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.cards: list[ExampleCard] = []
        self._titles: list[QLabel] = []
        self._lines: Sequence[Line] = ()
        self._placed: list[QWidget] = []
        self._view = View()
        self._is_stale = False
        self._inner = _Inner(self)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.timeout.connect(self.fill)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setWidget(self._inner)

    def show_lines(self, lines: Sequence[Line], view: View, *, at_once: bool) -> None:
        """Show other examples; unless `at_once`, those out of view come with the next round of
        events."""
        self._lines, self._view = lines, view
        self._placed = []
        examples = sum(line.example is not None for line in lines)
        for spare in (*self.cards[examples:], *self._titles[len(lines) - examples :]):
            spare.hide()
        if at_once:
            self.fill()
        else:
            self._fill(self.viewport().height())
            self._later.start(0)

    @Slot()
    def fill(self) -> None:
        """Fill what is not filled yet."""
        self._later.stop()
        if self._is_stale:
            self.place_again()
        self._fill(None)

    def is_filling(self) -> bool:
        """Whether cards out of view are still to come."""
        return self._later.isActive()

    def place_later(self) -> None:
        """Place all again when the look that has changed is in force everywhere."""
        self._is_stale = True
        self._later.start(0)

    def _fill(self, height: int | None) -> None:
        """Fill from above until `height` pixels are more than full; the rest waits below."""
        width, gap = self._inner.width(), appearance().px(8)
        titles = sum(not isinstance(widget, ExampleCard) for widget in self._placed)
        cards = len(self._placed) - titles
        top = self._bottom() + gap if self._placed else 0
        for line in self._lines[len(self._placed) :]:
            if height is not None and top > height:
                break
            widget: QWidget
            if line.example is None:
                widget = self._title(titles, line.title)
                titles += 1
            else:
                widget = card = self._card(cards, line)
                if height is not None:
                    card.lay_out(self._inside(width))
                cards += 1
            top += self._place(widget, top, width) + gap
            if widget.isHidden():
                widget.show()
            self._placed.append(widget)
        self._tell_height(top)
        # showing a widget again costs more than moving it out of view
        for waiting in (*self.cards[cards:], *self._titles[titles:]):
            if not waiting.isHidden():
                waiting.move(0, top)
                top += waiting.height() + gap

    def _tell_height(self, top: int) -> None:
        """The bar tells about how long the list will be while a part of it is filled."""
        done = len(self._placed)
        self._inner.set_height(top * len(self._lines) // done if done else 0)

    def _bottom(self) -> int:
        return self._placed[-1].geometry().bottom() + 1

    def _title(self, number: int, text: str) -> QLabel:
        if number == len(self._titles):
            made = label("", "label")
            made.setParent(self._inner)
            self._titles.append(made)
        self._titles[number].setText(text)
        return self._titles[number]

    def _card(self, number: int, line: Line) -> ExampleCard:
        if number == len(self.cards):
            made = ExampleCard(self._inner)
            made.sample_wanted.connect(self.sample_wanted)
            made.try_wanted.connect(self.try_wanted)
            self.cards.append(made)
        self.cards[number].show_example(number + 1, line.example, line.maximum, self._view)
        return self.cards[number]

    def _inside(self, width: int) -> int:
        return max(width - appearance().px(8), 80)

    def _place(self, widget: QWidget, top: int, width: int) -> int:
        """Put it at a height; returns how high it is."""
        inside = self._inside(width)
        high = (
            widget.heightForWidth(inside)
            if isinstance(widget, ExampleCard)
            else widget.sizeHint().height()
        )
        widget.setGeometry(0, top, inside, high)
        return high

    def place_again(self) -> None:
        """Place what is filled, after the width or the look has changed."""
        self._is_stale = False
        top, width, gap = 0, self._inner.width(), appearance().px(8)
        for widget in self._placed:
            top += self._place(widget, top, width) + gap
        self._tell_height(top)


class _Inner(QWidget):
    """What is scrolled: as high as the column says."""

    def __init__(self, column: ExampleColumn) -> None:
        super().__init__()
        self.setObjectName("column")
        self.setAttribute(Qt.WidgetAttribute.WA_StaticContents)  # growing draws nothing again
        self._column, self._height, self._told = column, 0, 0

    def set_height(self, height: int) -> None:
        if height != self._height:
            self._height = height
            self.updateGeometry()

    def sizeHint(self) -> QSize:
        return QSize(320, self._height)

    def minimumSizeHint(self) -> QSize:
        return QSize(80, self._height)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        if event.size().width() != self._told:
            self._told = event.size().width()
            self._column.place_again()

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() in (QEvent.Type.StyleChange, QEvent.Type.FontChange):
            self._column.place_later()
