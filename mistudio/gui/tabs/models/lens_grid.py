"""The grid of a prompt lens: a cell per layer and position, coloured by the top token's share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QPersistentModelIndex, QRect, Qt
from PySide6.QtGui import QColor, QPainter, QPen
from PySide6.QtWidgets import (
    QAbstractItemView,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
    QWidget,
)

from mistudio.gui.style import mono_font
from mistudio.gui.theme import Colors, appearance, contrast, mix

Index = QModelIndex | QPersistentModelIndex
SHARE_ROLE = Qt.ItemDataRole.UserRole + 21
_VISIBLE = {"\n": "↵", "\t": "⇥", "\r": "⇤"}


def visible(text: str) -> str:
    """A token with its blanks made visible: a leading one as a dot, line ends as signs."""
    shown = "".join(_VISIBLE.get(char, char) for char in text)
    return "·" + shown[1:] if shown.startswith(" ") else shown


class LensModel(QAbstractTableModel):
    """Rows are layers, the last one on top; columns are the positions of the prompt."""

    def __init__(self, result: Mapping[str, Any], parent: Any = None) -> None:
        """`result` is that of a prompt lens job: tokens, layers, cells[layer][position]."""
        super().__init__(parent)
        self._tokens: Sequence[Mapping[str, Any]] = result["tokens"]
        self._layers: list[str] = [
            "Embed" if layer == "embedding" else f"L{layer}" for layer in result["layers"]
        ][::-1]
        self._cells: list[list[list[tuple[str, float]]]] = list(result["cells"])[::-1]

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008 - Qt's own signature
        return 0 if parent.isValid() else len(self._layers)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self._tokens)

    def top(self, index: Index) -> list[tuple[str, float]]:
        """The likeliest tokens of a cell with their probabilities, the first is shown."""
        return [(text, share) for text, share in self._cells[index.row()][index.column()]]

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        top = self.top(index)
        if role == Qt.ItemDataRole.DisplayRole:
            return visible(top[0][0])
        if role == SHARE_ROLE:
            return top[0][1]
        if role in (Qt.ItemDataRole.ToolTipRole, Qt.ItemDataRole.AccessibleDescriptionRole):
            return self.describe(index)
        return None

    def describe(self, index: Index) -> str:
        """Layer, position and the likeliest tokens of a cell, one per line."""
        layer, token = self._layers[index.row()], self._tokens[index.column()]["text"]
        place = f"{layer}, after position {index.column():,} “{visible(token)}”"
        lines = [f"{100 * share:6.2f} %  {visible(text)}" for text, share in self.top(index)]
        return "\n".join((place, *lines))

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        across = orientation == Qt.Orientation.Horizontal
        if role == Qt.ItemDataRole.DisplayRole:
            return visible(self._tokens[section]["text"]) if across else self._layers[section]
        if role == Qt.ItemDataRole.ToolTipRole and across:
            token = self._tokens[section]
            return f"Position {section:,}: “{visible(token['text'])}”, id {token['id']:,}"
        return None

    def as_text(self) -> str:
        """The whole grid as tab-separated values: layer, then per position "token (percent)"."""
        heads = [visible(token["text"]) for token in self._tokens]
        lines = ["\t".join(("layer", *heads))]
        for layer, cells in zip(self._layers, self._cells, strict=True):
            shown = [f"{visible(top[0][0])} ({100 * top[0][1]:.1f} %)" for top in cells]
            lines.append("\t".join((layer, *shown)))
        return "\n".join(lines)


def shade(colors: Colors, share: float) -> str:
    """Ground of a token of that probability."""
    return mix(colors.highlight, colors.card_settings, 0.85 * share)


def ink(fill: str) -> str:
    """The darker or the lighter text colour, whichever is read better on a ground."""
    return max(("#000000", "#FFFFFF"), key=lambda text: contrast(text, fill))


class ShareDelegate(QStyledItemDelegate):
    """Fills a cell the more, the more probable its token is."""

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        look = appearance()
        colors, share = look.colors, float(index.data(SHARE_ROLE) or 0.0)
        fill = shade(colors, share)
        area = QRect(option.rect)
        painter.save()
        painter.fillRect(area.adjusted(1, 1, -1, -1), QColor(fill))
        painter.setPen(QColor(ink(fill)))
        painter.setFont(mono_font(13))
        inner = area.adjusted(look.px(6), 0, -look.px(4), 0)
        text = painter.fontMetrics().elidedText(
            str(index.data()), Qt.TextElideMode.ElideRight, inner.width()
        )
        painter.drawText(inner, Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft, text)
        if option.state & QStyle.StateFlag.State_HasFocus or (
            option.state & QStyle.StateFlag.State_Selected
        ):
            painter.setPen(QPen(QColor(colors.focus), 2))
            painter.drawRect(area.adjusted(1, 1, -2, -2))
        painter.restore()


class LensGrid(QTableView):
    """The grid; arrow keys move from cell to cell."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        px = appearance().px
        self.setAccessibleName("Logit lens: layers by positions")
        self.setItemDelegate(ShareDelegate(self))
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setShowGrid(False)
        self.setTabKeyNavigation(False)
        self.horizontalHeader().setDefaultSectionSize(px(96))
        self.verticalHeader().setDefaultSectionSize(px(30))
        self.verticalHeader().setMinimumSectionSize(px(20))
        self.horizontalHeader().setFont(mono_font(13))

    def show_result(self, result: Mapping[str, Any]) -> LensModel:
        """Show the result of a prompt lens job; the last position of the last layer is current."""
        old = self.model()
        made = LensModel(result, self)
        self.setModel(made)
        if old is not None:
            old.deleteLater()
        self.setCurrentIndex(made.index(0, made.columnCount() - 1))
        return made
