"""A tour: a solid callout that points at one control after another and blocks nothing."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QObject, QPoint, QPointF, QRect, QSize, Qt, Signal, Slot
from PySide6.QtGui import QColor, QKeyEvent, QPainter, QPaintEvent, QPen, QPolygonF, QRegion
from PySide6.QtWidgets import QScrollArea, QVBoxLayout, QWidget

from mistudio.gui.services import Tab
from mistudio.gui.theme import appearance
from mistudio.gui.tours import TOURS, Step
from mistudio.gui.widgets.cards import button, label, row

ARROW = 12  # px at a 16-px font, also the free margin around the card


class Ring(QWidget):
    """A frame around the control that is spoken of; clicks go through to what is below."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self._window = parent
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)

    def surround(self, place: QRect) -> None:
        """Stand around a rectangle of the window."""
        width = max(2, appearance().px(3))
        around = place.adjusted(-width, -width, width, width).intersected(self._window.rect())
        self.setGeometry(around)
        inner = QRect(QPoint(0, 0), around.size()).adjusted(width, width, -width, -width)
        self.setMask(QRegion(self.rect()).subtracted(QRegion(inner)))
        self.show()
        self.raise_()

    def paintEvent(self, event: QPaintEvent) -> None:
        QPainter(self).fillRect(self.rect(), QColor(appearance().colors.focus))


class Tour(QWidget):
    """Leads through one tab; Next, Back, the arrow keys and Esc. `ended(tab name)` follows."""

    ended = Signal(str)

    def __init__(self, name: str, tab: Tab, window: QWidget) -> None:
        """A child of `window`, which holds `tab`."""
        super().__init__(window)
        self.name, self._tab, self._window, self._steps = name, tab, window, TOURS[name]
        self.at = 0
        self._target: QWidget | None = None
        self._tip: tuple[QPoint, str] = (QPoint(), "")  # of the arrow, and its side
        self.ring = Ring(window)
        self.setAccessibleName(f"Tour of {name}")
        self.count = label("", "small")
        self.sentence = label("", wrap=True)
        self.close_button = button(
            "", self.end, variant="ghost", icon="close", tip="End the tour (Esc)"
        )
        self.back_button = button("Back", self.back, tip="The sentence before (Left)")
        self.next_button = button("Next", self.forward, variant="primary")
        px = appearance().px
        box = self._box = QVBoxLayout(self)
        side = px(ARROW) + px(14)
        box.setContentsMargins(side, side, side, side)
        box.setSpacing(px(10))
        box.addLayout(row(self.count, None, self.close_button))
        box.addWidget(self.sentence)
        box.addLayout(row(None, self.back_button, self.next_button))
        for part in (self.close_button, self.back_button, self.next_button):
            part.installEventFilter(self)  # arrow keys move the focus from button to button else
        window.installEventFilter(self)
        tab.installEventFilter(self)
        self.show_step(0)

    @property
    def step(self) -> Step:
        """The sentence that is shown, and where it points."""
        return self._steps[self.at]

    def show_step(self, at: int) -> None:
        """Go to one of the sentences."""
        self.at = at
        self.count.setText(f"{self.name} · {at + 1} of {len(self._steps)}")
        self.sentence.setText(self.step.sentence)
        self.setAccessibleDescription(self.step.sentence)
        self.back_button.setEnabled(at > 0)
        last = at + 1 == len(self._steps)
        self.next_button.setText("Done" if last else "Next")
        self.next_button.setToolTip("End the tour" if last else "The next sentence (Right)")
        self._target = self._found()
        _reveal(self._target)
        self.place()
        self.show()
        self.raise_()
        self.next_button.setFocus()

    def _found(self) -> QWidget:
        """The first widget of the step that can be seen, else the tab."""
        targets = self.step.targets(self._tab)
        return next((found for found in targets if found.isVisible()), self._tab)

    def place(self) -> None:
        """Stand beside the control, inside the window."""
        target, window = self._target, self._window
        if target is None:
            return
        spot = _seen(target, window)
        self.ring.surround(spot)
        size = self._size(window)
        room = window.rect()
        middle = min(max(0, spot.center().x() - size.width() // 2), room.width() - size.width())
        level = min(max(0, spot.center().y() - size.height() // 2), room.height() - size.height())
        if spot.bottom() + size.height() <= room.bottom():
            corner, side = QPoint(middle, spot.bottom() + 1), "top"
        elif spot.top() - size.height() >= 0:
            corner, side = QPoint(middle, spot.top() - size.height()), "bottom"
        elif spot.right() + size.width() <= room.right():
            corner, side = QPoint(spot.right() + 1, level), "left"
        elif spot.left() - size.width() >= 0:
            corner, side = QPoint(spot.left() - size.width(), level), "right"
        else:  # as large as the window: inside, at its lower end
            corner, side = QPoint(middle, spot.bottom() - size.height()), ""
        self.setGeometry(QRect(corner, size))
        self._tip = (spot.center() - corner, side)
        self.update()

    def _size(self, window: QWidget) -> QSize:
        width = min(appearance().px(460), window.width())
        return QSize(width, self._box.totalHeightForWidth(width))

    def paintEvent(self, event: QPaintEvent) -> None:
        look, side = appearance(), appearance().px(ARROW)
        card = QRect(self.rect()).adjusted(side, side, -side - 1, -side - 1)
        tip, where = self._tip
        x = min(max(tip.x(), card.left() + 2 * side), card.right() - 2 * side)
        y = min(max(tip.y(), card.top() + 2 * side), card.bottom() - 2 * side)
        ends = {
            "top": ((x - side, card.top()), (x, 0), (x + side, card.top())),
            "bottom": (
                (x - side, card.bottom()),
                (x, self.height() - 1),
                (x + side, card.bottom()),
            ),
            "left": ((card.left(), y - side), (0, y), (card.left(), y + side)),
            "right": ((card.right(), y - side), (self.width() - 1, y), (card.right(), y + side)),
        }.get(where)
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(QPen(QColor(look.colors.focus), 2))
        painter.setBrush(QColor(look.colors.card))
        painter.drawRoundedRect(card, look.px(8), look.px(8))
        if ends is not None:
            points = [QPointF(*end) for end in ends]
            painter.setPen(Qt.PenStyle.NoPen)
            painter.drawPolygon(QPolygonF(points))
            painter.setPen(QPen(QColor(look.colors.focus), 2))
            painter.drawPolyline(QPolygonF(points))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if not self._moves(event.key()):
            super().keyPressEvent(event)

    def _moves(self, key: int) -> bool:
        """Do what a key asks for; False if it asks for nothing here."""
        work = {
            Qt.Key.Key_Escape: self.end,
            Qt.Key.Key_Right: self.forward,
            Qt.Key.Key_Left: self.back,
        }.get(Qt.Key(key))
        if work is not None:
            work()
        return work is not None

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if isinstance(event, QKeyEvent) and event.type() == QEvent.Type.KeyPress:
            on_button = isinstance(watched, QWidget) and watched.parentWidget() is self
            return on_button and self._moves(event.key())
        if event.type() in (QEvent.Type.Resize, QEvent.Type.LayoutRequest):
            self.place()
        elif event.type() == QEvent.Type.Hide and watched is self._tab:
            self.end()
        return super().eventFilter(watched, event)

    @Slot()
    def forward(self) -> None:
        """The next sentence; after the last one the tour ends."""
        if self.at + 1 < len(self._steps):
            self.show_step(self.at + 1)
        else:
            self.end()

    @Slot()
    def back(self) -> None:
        """The sentence before."""
        if self.at > 0:
            self.show_step(self.at - 1)

    @Slot()
    def end(self) -> None:
        """Take callout and frame away."""
        if self._target is None:
            return
        self._target = None
        self._tab.removeEventFilter(self)
        self._window.removeEventFilter(self)
        for part in (self.ring, self):
            part.hide()
            part.deleteLater()
        self._tab.setFocus()
        self.ended.emit(self.name)


def _seen(target: QWidget, window: QWidget) -> QRect:
    """What of a control its surroundings let through, in the window; children do not count."""
    seen = QRect(target.mapTo(window, QPoint(0, 0)), target.size())
    above = target.parentWidget()
    while above is not None and above is not window:
        seen &= QRect(above.mapTo(window, QPoint(0, 0)), above.size())
        above = above.parentWidget()
    return seen & window.rect()


def _reveal(target: QWidget) -> None:
    """Scroll every area around a control until it can be seen."""
    inner, above = target, target.parentWidget()
    while above is not None:
        if isinstance(above, QScrollArea):
            above.ensureWidgetVisible(inner)
        above = above.parentWidget()
