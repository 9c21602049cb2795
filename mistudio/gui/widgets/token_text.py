"""Shows tokens with activation highlights: a widget for details, a delegate for tables."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from PySide6.QtCore import (
    QEvent,
    QModelIndex,
    QPersistentModelIndex,
    QPointF,
    QRect,
    QRectF,
    QSize,
    Qt,
)
from PySide6.QtGui import (
    QContextMenuEvent,
    QFont,
    QGuiApplication,
    QHelpEvent,
    QKeyEvent,
    QKeySequence,
    QPainter,
    QPaintEvent,
)
from PySide6.QtWidgets import (
    QAbstractItemView,
    QMenu,
    QSizePolicy,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QToolTip,
    QWidget,
)

from mistudio.gui.theme import appearance
from mistudio.gui.widgets.token_layout import (
    DETAIL,
    LINEAR,
    TABLE,
    TokenLayout,
    TokenMeasure,
    TokenPiece,
    plain_text,
    with_values,
)

TOKENS_ROLE = Qt.ItemDataRole.UserRole + 10


class TokenLine(NamedTuple):
    """What a table cell gives for `TOKENS_ROLE`: pieces (a tuple) and the full-scale activation."""

    pieces: tuple[TokenPiece, ...]
    maximum: float


class TokenText(QWidget):
    """Wrapped text of highlighted tokens; tooltip per token, Ctrl+C copies, menu for values."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._pieces: tuple[TokenPiece, ...] = ()
        self._maximum = 0.0
        self._line_breaks = self._marks = True
        self._curve = LINEAR
        self._peak: int | None = None
        self._layout: TokenLayout | None = None
        self._measure: TokenMeasure | None = None
        self.notes: Callable[[int], str] | None = None
        """more of a piece's tooltip, by its number; asked for when the pointer rests on it"""
        policy = QSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Minimum)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMouseTracking(True)
        appearance().changed.connect(self._forget)

    def set_tokens(
        self, pieces: Sequence[TokenPiece], maximum: float, peak: int | None = None
    ) -> None:
        """Show other tokens, `peak` outlined; `maximum` is where the highlight is full."""
        self._pieces, self._maximum, self._peak = tuple(pieces), maximum, peak
        self.setAccessibleName(plain_text(self._pieces))
        self._forget()

    def set_line_breaks(self, on: bool) -> None:
        """Whether the text breaks where the original does."""
        self._line_breaks = on
        self._forget()

    def show_tokens(
        self,
        pieces: Sequence[TokenPiece],
        maximum: float,
        peak: int | None,
        *,
        line_breaks: bool,
        marks: bool,
        curve: str,
    ) -> None:
        """As `set_tokens`; break lines where the original does; show blanks as signs; how colour
        is computed."""
        self._line_breaks, self._marks, self._curve = line_breaks, marks, curve
        self.set_tokens(pieces, maximum, peak)

    def text(self) -> str:
        """The original text."""
        return plain_text(self._pieces)

    def copy(self) -> None:
        QGuiApplication.clipboard().setText(self.text())

    def copy_values(self) -> None:
        QGuiApplication.clipboard().setText(with_values(self._pieces))

    def _forget(self) -> None:
        self._layout = self._measure = None
        self.updateGeometry()
        self.update()

    def lay_out(self, width: int) -> None:
        """Lay the text out for a width that it will have: what is in view is not measured first."""
        if self._layout is None or self._layout.width != max(width, 40):
            self._layout = TokenLayout(
                self._pieces,
                self._maximum,
                max(width, 40),
                self.font(),
                appearance().colors,
                DETAIL,
                line_breaks=self._line_breaks,
                marks=self._marks,
                curve=self._curve,
                peak=self._peak,
            )

    def _current(self) -> TokenLayout:
        self.lay_out(self.width())
        assert self._layout is not None
        return self._layout

    def hasHeightForWidth(self) -> bool:
        return True

    def heightForWidth(self, width: int) -> int:
        layout = self._layout
        if layout is not None and layout.width == max(width, 40):
            return int(layout.height) + 4
        if self._measure is None:
            self._measure = TokenMeasure(
                self._pieces, self.font(), line_breaks=self._line_breaks, marks=self._marks
            )
        return int(self._measure.height(max(width, 40))) + 4

    def sizeHint(self) -> QSize:
        return QSize(320, self.heightForWidth(max(self.width(), 320)))

    def minimumSizeHint(self) -> QSize:
        return QSize(80, self.fontMetrics().height() + 4)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        self._current().paint(painter, QPointF(0, 2), QRectF(self.rect()))
        if self.hasFocus():
            painter.setPen(appearance().colors.focus)
            painter.drawRect(self.rect().adjusted(0, 0, -1, -1))
        painter.end()

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            found = self._current().piece_at(QPointF(event.pos()) - QPointF(0, 2))
            QToolTip.showText(event.globalPos(), self.tip(found), self)
            return True
        return super().event(event)

    def tip(self, piece: int | None) -> str:
        """The tooltip of a piece; "" beside the text."""
        if piece is None:
            return ""
        more = self.notes(piece) if self.notes else ""
        return "\n".join(line for line in (self._current().describe(piece), more) if line)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.matches(QKeySequence.StandardKey.Copy):
            self.copy()
        else:
            super().keyPressEvent(event)

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        menu = QMenu(self)
        menu.addAction("Copy text", self.copy)
        menu.addAction("Copy tokens and values", self.copy_values)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.popup(event.globalPos())


class TokenTextDelegate(QStyledItemDelegate):
    """Paints cells whose `TOKENS_ROLE` is a `TokenLine`, on one line, from cached layouts."""

    CACHE = 512

    def __init__(self, parent: QAbstractItemView) -> None:
        super().__init__(parent)
        self._cache: OrderedDict[tuple[object, ...], TokenLayout] = OrderedDict()

    def _layout_of(self, line: TokenLine, font: QFont) -> TokenLayout:
        colors = appearance().colors
        key = (id(line), colors.name, font.key())
        found = self._cache.get(key)
        if found is None or found.pieces is not line.pieces:
            found = TokenLayout(line.pieces, line.maximum, 4096, font, colors, TABLE, one_line=True)
            self._cache[key] = found
            if len(self._cache) > self.CACHE:
                self._cache.popitem(last=False)
        return found

    def paint(
        self,
        painter: QPainter,
        option: QStyleOptionViewItem,
        index: QModelIndex | QPersistentModelIndex,
    ) -> None:
        line = index.data(TOKENS_ROLE)
        if not isinstance(line, TokenLine):
            super().paint(painter, option, index)
            return
        widget: QWidget = option.widget  # type: ignore[attr-defined]
        box = option.rect  # type: ignore[attr-defined]
        style = widget.style()
        style.drawPrimitive(QStyle.PrimitiveElement.PE_PanelItemViewItem, option, painter, widget)
        self.draw(painter, line, box, option.font)  # type: ignore[attr-defined]

    def draw(self, painter: QPainter, line: TokenLine, box: QRect, font: QFont) -> None:
        """Draw a line of tokens into a cell, without the cell's background."""
        layout = self._layout_of(line, font)
        pad = appearance().px(10)
        inner = QRectF(box).adjusted(pad, 0, -pad, 0)
        painter.save()
        painter.setClipRect(inner)
        top = inner.top() + (inner.height() - layout.height) / 2
        layout.paint(painter, QPointF(inner.left(), top), inner)
        painter.restore()

    def sizeHint(
        self, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex
    ) -> QSize:
        return QSize(appearance().px(448), super().sizeHint(option, index).height())

    def helpEvent(
        self,
        event: QHelpEvent,
        view: QAbstractItemView,
        option: QStyleOptionViewItem,
        index: QModelIndex | QPersistentModelIndex,
    ) -> bool:
        line = index.data(TOKENS_ROLE)
        if not isinstance(line, TokenLine):
            return super().helpEvent(event, view, option, index)
        layout = self._layout_of(line, option.font)  # type: ignore[attr-defined]
        box = QRectF(option.rect)  # type: ignore[attr-defined]
        top = box.top() + (box.height() - layout.height) / 2
        place = QPointF(event.pos()) - QPointF(box.left() + appearance().px(10), top)
        found = layout.piece_at(place)
        QToolTip.showText(event.globalPos(), "" if found is None else layout.describe(found), view)
        return True
