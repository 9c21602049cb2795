"""Arrangements: centred column, card grid, collapsible section, search field, rule."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QObject, Qt, QTimer, Signal
from PySide6.QtGui import QKeyEvent, QResizeEvent
from PySide6.QtWidgets import (
    QAbstractSpinBox,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLineEdit,
    QScrollArea,
    QSizePolicy,
    QTabWidget,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from mistudio.gui import icons
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, set_icon


class CenteredColumn(QScrollArea):
    """A scrolling page whose content is one centred column of at most 1280 px; fill its `box`."""

    def __init__(self, parent: QWidget | None = None, *, width: int = 1280) -> None:
        super().__init__(parent)
        px = appearance().px
        self.setViewport(QWidget())  # to ask for the one it has makes PySide6 load all its widgets
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.column = QWidget()
        self.column.setMaximumWidth(max(width, px(width)))
        self.box = QVBoxLayout(self.column)
        self.box.setContentsMargins(px(24), px(16), px(24), px(24))
        self.box.setSpacing(px(16))
        page = QWidget()
        page.setObjectName("column")
        self._outer = QHBoxLayout(page)
        self._outer.setContentsMargins(0, 0, 0, 0)
        self._outer.addWidget(self.column)
        self.setWidget(page)
        self.viewport().setAutoFillBackground(False)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        side = max(0, (self.viewport().width() - self.column.maximumWidth()) // 2)
        self._outer.setContentsMargins(side, 0, side, 0)


class CardGrid(QWidget):
    """Cards in `columns` columns, one column when narrower than `narrow` px (at 16-px font)."""

    def __init__(
        self, parent: QWidget | None = None, *, columns: int = 2, narrow: float = 960
    ) -> None:
        super().__init__(parent)
        self._columns, self._narrow = columns, narrow
        self._widgets: list[QWidget] = []
        self._now = 0
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setSpacing(appearance().px(16))

    def set_widgets(self, widgets: list[QWidget]) -> None:
        """Show these, in order. Widgets no longer in the list are hidden, not destroyed."""
        for gone in self._widgets:
            if gone not in widgets:
                self._grid.removeWidget(gone)
                gone.hide()
        self._widgets = list(widgets)
        self._now = 0
        self._arrange()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._arrange()

    def _arrange(self) -> None:
        fits = 1 if self.width() < appearance().px(self._narrow) else self._columns
        if fits == self._now:
            return
        self._now = fits
        for column in range(self._columns):
            self._grid.setColumnStretch(column, 1 if column < fits else 0)
        # each show of a child would lay out the whole page again
        self._grid.setEnabled(False)
        for position, widget in enumerate(self._widgets):
            self._grid.addWidget(widget, position // fits, position % fits)
            widget.show()
        self._grid.setEnabled(True)
        self._grid.invalidate()


class Collapsible(QWidget):
    """A section that opens and closes by its heading; fill its `box`."""

    toggled = Signal(bool)

    def __init__(self, title: str, parent: QWidget | None = None, *, is_open: bool = False) -> None:
        super().__init__(parent)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.setSpacing(appearance().px(8))
        self.heading = button(title, variant="ghost")
        self.heading.setCheckable(True)
        self.heading.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
        self.body = QWidget()
        self.box = QVBoxLayout(self.body)
        self.box.setContentsMargins(0, 0, 0, 0)
        self.box.setSpacing(appearance().px(12))
        outer.addWidget(self.heading)
        outer.addWidget(self.body)
        self.heading.toggled.connect(self._on_toggled)
        self.set_open(is_open)
        self._on_toggled(is_open)

    def is_open(self) -> bool:
        return self.heading.isChecked()

    def set_open(self, is_open: bool) -> None:
        """Open or close it."""
        self.heading.setChecked(is_open)

    def set_title(self, title: str) -> None:
        self.heading.setText(title)

    def _on_toggled(self, is_open: bool) -> None:
        self.body.setVisible(is_open)
        set_icon(self.heading, "chevron_down" if is_open else "chevron_right")
        self.toggled.emit(is_open)


class SearchField(QLineEdit):
    """A search box: `searched(text)` 300 ms after the last key, at once on Return; Esc clears."""

    searched = Signal(str)

    def __init__(self, placeholder: str = "Search", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setPlaceholderText(placeholder)
        self.setAccessibleName(placeholder)
        self.setToolTip("Words to look for; Esc clears them")
        self.setClearButtonEnabled(True)
        self._action = self.addAction(
            icons.icon("search", "muted"), QLineEdit.ActionPosition.LeadingPosition
        )
        for part, name in zip(self.findChildren(QToolButton), ("Clear", placeholder), strict=True):
            part.setAccessibleName(name)
        self._told = ""
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(300)
        self._timer.timeout.connect(self._tell)
        self.textChanged.connect(self._timer.start)
        self.returnPressed.connect(self._tell)
        appearance().changed.connect(self._redraw)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() == Qt.Key.Key_Escape and self.text():
            self.clear()
            self._tell()
        else:
            super().keyPressEvent(event)

    def _tell(self) -> None:
        self._timer.stop()
        text = self.text().strip()
        if text != self._told:
            self._told = text
            self.searched.emit(text)

    def _redraw(self) -> None:
        self._action.setIcon(icons.icon("search", "muted"))


class WheelGuard(QObject):
    """Keeps the wheel from changing a control that merely passes under it while scrolling."""

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() != QEvent.Type.Wheel or not isinstance(watched, QWidget):
            return False
        if watched.hasFocus():
            return False
        event.ignore()
        return True


def guard_wheel(widget: QWidget) -> None:
    """Let `widget` take the wheel only while it has the focus; gives spin boxes their margin."""
    if isinstance(widget, QAbstractSpinBox):
        widget.lineEdit().setTextMargins(appearance().px(8), 0, 0, 0)
    widget.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
    widget.installEventFilter(WheelGuard(widget))


def heading(title: str, subtitle: str = "") -> QWidget:
    """A page heading with a line below it."""
    made = QWidget()
    box = QVBoxLayout(made)
    box.setContentsMargins(0, 0, 0, 0)
    box.setSpacing(appearance().px(4))
    box.addWidget(label(title, "title"))
    if subtitle:
        box.addWidget(label(subtitle, "muted", wrap=True))
    return made


def rule() -> QFrame:
    """A horizontal line in the border colour."""
    line = QFrame()
    line.setProperty("line", True)
    line.setFixedHeight(1)
    return line


def replace_page(pages: QTabWidget, number: int, page: QWidget) -> None:
    """Put a page in the place of one, under its title, and show it; no change is told."""
    title, empty = pages.tabText(number), pages.widget(number)
    pages.blockSignals(True)
    pages.removeTab(number)
    pages.insertTab(number, page, title)
    pages.setCurrentIndex(number)
    pages.blockSignals(False)
    if empty is not None:
        empty.deleteLater()
