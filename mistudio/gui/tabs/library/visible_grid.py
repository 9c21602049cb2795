"""A grid of cards of one height that makes only those in view, so that thousands stay light."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PySide6.QtCore import QEvent, QObject, QPoint, Qt
from PySide6.QtGui import QKeyEvent, QMoveEvent, QResizeEvent
from PySide6.QtWidgets import QApplication, QScrollArea, QSizePolicy, QWidget

from mistudio.gui.theme import appearance

_BEYOND = 2  # rows made ahead on either side of the view
_KEPT = 160  # cards that stay made while out of view
_KEYS = {Qt.Key.Key_Up: (0, -1), Qt.Key.Key_Down: (0, 1), Qt.Key.Key_Left: (-1, 0)}
_KEYS[Qt.Key.Key_Right] = (1, 0)


class VisibleGrid(QWidget):
    """Places the cards that `card(key)` gives for the keys in view of a scroll area.

    `card` makes a card, or fills in again the one it made before; `forget(key)` lets one go.
    The grid is as tall as all rows together; every row is as tall as the tallest card made.
    """

    def __init__(
        self,
        area: QScrollArea,
        card: Callable[[str], QWidget],
        forget: Callable[[str], None],
        *,
        columns: int = 2,
        narrow: float = 960,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._area, self._card, self._forget = area, card, forget
        self._columns, self._narrow = columns, narrow
        self._keys: list[str] = []
        self._placed: dict[str, QWidget] = {}  # shown now
        self._kept: dict[str, QWidget] = {}  # made, out of view; the oldest first
        self._row = 0
        self._busy = False
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        area.verticalScrollBar().valueChanged.connect(self._on_scrolled)
        area.viewport().installEventFilter(self)
        appearance().changed.connect(self._on_look)

    def set_keys(self, keys: Sequence[str]) -> None:
        """Show cards of these, in order; those in view are filled in again."""
        self._keys = list(keys)
        wanted = set(keys)
        for gone in [key for key in (*self._placed, *self._kept) if key not in wanted]:
            self._let_go(gone)
        self._place(fill=True)

    def keys(self) -> list[str]:
        """What there is to show, in order."""
        return list(self._keys)

    def in_view(self) -> list[str]:
        """Keys of the cards placed now."""
        return list(self._placed)

    def columns_now(self) -> int:
        """How many columns fit."""
        return 1 if self.width() < appearance().px(self._narrow) else self._columns

    def refit(self) -> None:
        """Measure the cards again, after one of them changed."""
        self._place(fill=False)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        if event.size().width() != event.oldSize().width():
            self._row = 0
            self._place(fill=False)

    def moveEvent(self, event: QMoveEvent) -> None:
        """What stands above it grew or shrank: other cards are in view."""
        super().moveEvent(event)
        self._place(fill=False)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() == QEvent.Type.Resize:
            self._place(fill=False)
        return super().eventFilter(watched, event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Arrow keys go from card to card."""
        step = _KEYS.get(Qt.Key(event.key()))
        key = self._focused()
        if step is None or not key:
            super().keyPressEvent(event)
            return
        wanted = self._keys.index(key) + step[0] + step[1] * self.columns_now()
        if 0 <= wanted < len(self._keys):
            self.show_key(self._keys[wanted])

    def show_key(self, key: str) -> None:
        """Scroll to a card and give it the focus."""
        position, gap = self._keys.index(key), appearance().px(16)
        top = (position // self.columns_now()) * (self._row + gap)
        page = self._area.widget() or self
        corner = self.mapTo(page, QPoint(0, top))
        self._area.ensureVisible(0, corner.y() + self._row // 2, 0, self._row // 2 + gap)
        self._place(fill=False)
        if key in self._placed:
            self._placed[key].setFocus(Qt.FocusReason.TabFocusReason)

    def _focused(self) -> str:
        focus = QApplication.focusWidget()
        return next((key for key, card in self._placed.items() if card is focus), "")

    def _on_scrolled(self, _: int) -> None:
        self._place(fill=False)

    def _on_look(self) -> None:
        self._row = 0
        self._place(fill=False)

    def _range(self) -> tuple[int, int]:
        """First and behind-last position in view, some rows beyond included."""
        row, columns = self._row + appearance().px(16), self.columns_now()
        top = self.mapFrom(self._area.viewport(), QPoint(0, 0)).y()
        first = max(0, top // row - _BEYOND)
        last = (top + self._area.viewport().height()) // row + 1 + _BEYOND
        return min(first * columns, len(self._keys)), min(max(0, last) * columns, len(self._keys))

    def _place(self, *, fill: bool) -> None:
        if self._busy:
            return
        self._busy = True
        try:
            self._place_cards(fill)
        finally:
            self._busy = False

    def _place_cards(self, fill: bool) -> None:
        columns, gap = self.columns_now(), appearance().px(16)
        width = (self.width() - gap * (columns - 1)) // columns
        filled: set[str] = set()
        first, cards = 0, dict[str, QWidget]()
        for _ in range(3):  # a taller card changes which ones are in view
            if self._keys and not self._row:
                key = self._keys[0]
                self._row = _height(self._take(key, fill, filled), width)
            first, behind = self._range()
            shown = self._keys[first:behind]
            cards = {key: self._take(key, fill, filled) for key in shown}
            tallest = max((_height(card, width) for card in cards.values()), default=self._row)
            if tallest <= self._row:
                break
            self._row = tallest
        self._set_height(columns, gap)
        for gone in [key for key in self._placed if key not in cards]:
            self._put_aside(gone)
        for offset, (key, card) in enumerate(cards.items()):
            line, column = divmod(first + offset, columns)
            card.setGeometry(column * (width + gap), line * (self._row + gap), width, self._row)
            self._kept.pop(key, None)
            self._placed[key] = card
            card.show()
        for gone in [key for key in self._kept if not self._kept[key].hasFocus()]:
            if len(self._kept) <= _KEPT:
                break
            self._let_go(gone)

    def _take(self, key: str, fill: bool, filled: set[str]) -> QWidget:
        known = self._placed.get(key) or self._kept.get(key)
        # one that comes back into view may show something old
        if known is not None and (key in filled or (not fill and key in self._placed)):
            return known
        filled.add(key)
        card = self._card(key)
        if card.parent() is not self:
            card.setParent(self)
            self._kept[key] = card
        return card

    def _put_aside(self, key: str) -> None:
        card = self._placed.pop(key)
        card.hide()
        self._kept[key] = card

    def _let_go(self, key: str) -> None:
        card = self._placed.pop(key, None) or self._kept.pop(key, None)
        if card is not None:
            card.hide()
            card.deleteLater()
        self._forget(key)

    def _set_height(self, columns: int, gap: int) -> None:
        rows = -(-len(self._keys) // columns)
        self.setFixedHeight(max(0, rows * (self._row + gap) - gap))


def _height(card: QWidget, width: int) -> int:
    """How tall a card wants to be at a width."""
    layout = card.layout()
    if layout is not None and layout.hasHeightForWidth():
        return layout.totalHeightForWidth(width)
    return card.sizeHint().height()
