"""Ctrl+K: type a few letters of an action, Return runs it. And the shortcuts at a glance."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QEvent, QModelIndex, QObject, QPersistentModelIndex, QRect, Qt
from PySide6.QtGui import QAction, QColor, QKeyEvent, QKeySequence, QPainter
from PySide6.QtWidgets import (
    QDialog,
    QGridLayout,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QVBoxLayout,
    QWidget,
)

from mistudio.gui.dialog import Dialog
from mistudio.gui.style import mono_font
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import label

KEYS_ROLE = int(Qt.ItemDataRole.UserRole) + 1
Index = QModelIndex | QPersistentModelIndex


class KeysDelegate(QStyledItemDelegate):
    """Draws the keys of an action at the right end of its line."""

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        super().paint(painter, option, index)
        look = appearance()
        painter.save()
        painter.setFont(mono_font(13))
        painter.setPen(QColor(look.colors.muted))
        area = QRect(option.rect).adjusted(0, 0, -look.px(12), 0)
        side = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        painter.drawText(area, side, str(index.data(KEYS_ROLE) or ""))
        painter.restore()


class CommandPalette(QDialog):
    """A list of actions narrowed while typing."""

    def __init__(self, actions: Sequence[QAction], parent: QWidget) -> None:
        super().__init__(parent, Qt.WindowType.Popup)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self._actions = [action for action in actions if action.isEnabled()]
        px = appearance().px
        box = QVBoxLayout(self)
        box.setContentsMargins(px(12), px(12), px(12), px(12))
        self.search = QLineEdit()
        self.search.setPlaceholderText("What do you want to do?")
        self.search.setAccessibleName("Command")
        self.list = QListWidget()
        self.list.setAccessibleName("Commands")
        self.list.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.list.setItemDelegate(KeysDelegate(self.list))
        box.addWidget(self.search)
        box.addWidget(self.list)
        self.search.textChanged.connect(self._narrow)
        self.search.installEventFilter(self)
        self.list.itemClicked.connect(self._run)
        width = min(px(640), parent.width())
        self.resize(width, min(px(480), parent.height() - px(80)))
        corner = parent.mapToGlobal(parent.rect().topLeft())
        self.move(corner.x() + (parent.width() - width) // 2, corner.y() + px(80))
        self._narrow("")
        self.search.setFocus()

    def _narrow(self, text: str) -> None:
        self.list.clear()
        found = [a for a in self._actions if _matches(text, _plain(a))]
        for action in sorted(found, key=lambda a: _rank(text, _plain(a))):
            keys = action.shortcut().toString(QKeySequence.SequenceFormat.NativeText)
            item = QListWidgetItem(action.icon(), _plain(action))
            item.setData(Qt.ItemDataRole.UserRole, action.objectName())
            item.setData(KEYS_ROLE, keys)
            told = f"{_plain(action)}, {keys}" if keys else _plain(action)
            item.setData(Qt.ItemDataRole.AccessibleTextRole, told)
            self.list.addItem(item)
        self.list.setCurrentRow(0)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() == QEvent.Type.KeyPress and isinstance(event, QKeyEvent):
            move = {Qt.Key.Key_Down: 1, Qt.Key.Key_Up: -1}.get(Qt.Key(event.key()), 0)
            if move and self.list.count():
                self.list.setCurrentRow((self.list.currentRow() + move) % self.list.count())
                return True
            if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
                self._run(self.list.currentItem())
                return True
        return super().eventFilter(watched, event)

    def _run(self, item: QListWidgetItem | None) -> None:
        if item is None:
            return
        name = item.data(Qt.ItemDataRole.UserRole)
        chosen = next(action for action in self._actions if action.objectName() == name)
        self.close()
        chosen.trigger()


def _plain(action: QAction) -> str:
    return action.text().replace("&", "")


def _matches(text: str, name: str) -> bool:
    """Whether the letters of `text` occur in `name` in that order."""
    rest = iter(name.lower())
    return all(letter in rest for letter in text.lower().replace(" ", ""))


def _rank(text: str, name: str) -> tuple[int, str]:
    place = name.lower().find(text.lower())
    return (place if place >= 0 else len(name), name)


class ShortcutSheet(Dialog):
    """Every shortcut, in two columns."""

    EXTRA = (
        ("J / K", "Next or previous feature"),
        ("R", "Any feature of the table"),
        ("Esc", "Close a dialog, clear a search"),
        ("Return", "Open the selected row"),
    )

    def __init__(self, actions: Sequence[QAction], parent: QWidget) -> None:
        super().__init__("Shortcuts", parent, width=720, height_share=0.7)
        grid = QGridLayout()
        grid.setHorizontalSpacing(appearance().px(16))
        grid.setVerticalSpacing(appearance().px(8))
        native = QKeySequence.SequenceFormat.NativeText
        pairs = [
            (", ".join(keys.toString(native) for keys in action.shortcuts()), _plain(action))
            for action in actions
            if action.shortcuts()
        ]
        rows = [*pairs, *self.EXTRA]
        half = -(-len(rows) // 2)
        for position, (keys, text) in enumerate(rows):
            column, line = divmod(position, half)
            grid.addWidget(label(keys, "mono"), line, 2 * column)
            grid.addWidget(label(text), line, 2 * column + 1)
        grid.setColumnStretch(1, 1)
        grid.setColumnStretch(3, 1)
        self.box.addWidget(label("Shortcuts", "title"))
        self.box.addLayout(grid)
        self.box.addStretch(1)
        self.add_close()
