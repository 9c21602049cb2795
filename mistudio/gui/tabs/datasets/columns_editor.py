"""The control for text columns: written, or ticked in a menu once the columns are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PySide6.QtGui import QAction
from PySide6.QtWidgets import QMenu, QWidget

from mistudio.gui.widgets.cards import button
from mistudio.gui.widgets.editors import ListEditor

_WRITTEN = "automatic"


class ColumnsEditor(ListEditor):
    """Column names separated by commas; none means automatic."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(_WRITTEN, parent)
        self.menu = QMenu(self)
        self.choose = button("", icon="list", tip="Choose columns")
        self.choose.setMenu(self.menu)
        self.choose.setEnabled(False)
        self._box.addWidget(self.choose)
        self.menu.aboutToShow.connect(self._tick)

    def offer(self, columns: Mapping[str, str], automatic: Sequence[str]) -> None:
        """Offer columns with what they hold; `automatic` is what is read if none is chosen."""
        self.menu.clear()
        for name, kind in columns.items():
            action = QAction(f"{name}  ({kind})" if kind else name, self.menu)
            action.setData(name)
            action.setCheckable(True)
            action.setEnabled(kind == "text")
            action.triggered.connect(self._on_ticked)
            self.menu.addAction(action)
        self.choose.setEnabled(bool(columns))
        self.line.setPlaceholderText(
            f"{_WRITTEN}: {', '.join(automatic)}" if automatic else _WRITTEN
        )

    def forget(self) -> None:
        """Know no columns any more."""
        self.offer({}, ())

    def _tick(self) -> None:
        chosen = self.value()
        for action in self.menu.actions():
            action.setChecked(action.data() in chosen)

    def _on_ticked(self) -> None:
        known = [str(action.data()) for action in self.menu.actions()]
        ticked = [str(action.data()) for action in self.menu.actions() if action.isChecked()]
        self.set_value([name for name in self.value() if name not in known] + ticked)
