"""What a user does to selected rows of the feature table: star, hide, colour, put into lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PySide6.QtCore import QModelIndex, QObject, QPoint, Qt, Signal
from PySide6.QtGui import QKeySequence, QShortcut
from PySide6.QtWidgets import QMenu

from mistudio.gui.services import Services
from mistudio.gui.tabs.features import columns, edits
from mistudio.gui.tabs.features.colours import fill_colours
from mistudio.gui.tabs.features.list_menu import ListButton
from mistudio.gui.widgets.row_table import BlockTableModel, RowTable


class RowMarks(QObject):
    """The keys S and H, a click on a star and the menu of a row; `opened(index)` asks for one."""

    opened = Signal(int)

    def __init__(
        self,
        services: Services,
        view: RowTable,
        model: BlockTableModel,
        selected: Callable[[], tuple[str, list[int]] | None],
        lists: ListButton,
    ) -> None:
        """`selected` gives the SAE and the features that are acted on."""
        super().__init__(view)
        self._services, self._view, self._model = services, view, model
        self._selected, self._lists = selected, lists
        view.clicked.connect(self._on_clicked)
        view.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        view.customContextMenuRequested.connect(self._on_menu)
        for key, slot in (("S", self.star), ("H", self.hide)):
            QShortcut(QKeySequence(key), view, slot)

    def star(self) -> None:
        """Turn the star of the selected features."""
        self._turn(edits.turn_favorite, "favorite")

    def hide(self) -> None:
        """Hide the selected features, or show them again."""
        self._turn(edits.turn_hidden, "hidden")

    def paint(self, colour: str) -> None:
        """Mark the selected features with a colour; "" takes their mark away."""
        subject = self._selected()
        if subject is not None:
            sae_id, indices = subject
            self._services.query.ask(
                lambda db: edits.paint(db, sae_id, indices, colour), self._on_edited
            )

    def _turn(self, what: Any, mark: str) -> None:
        subject = self._selected()
        if subject is None:
            return
        sae_id, indices = subject
        if len(indices) == 1:
            self._services.query.ask(lambda db: what(db, sae_id, indices[0]), self._on_edited)
        else:
            self._services.query.ask(
                lambda db: edits.turn_several(db, sae_id, indices, mark), self._on_edited
            )

    def _on_edited(self, edited: str) -> None:
        self._services.publisher.publish("features", edited)

    def _on_clicked(self, index: QModelIndex) -> None:
        plain = self._view.selectionModel().selection().count() == 1
        if index.column() == columns.STAR and plain:
            self.star()

    def _on_menu(self, at: QPoint) -> None:
        subject = self._selected()
        if subject is None:
            return
        menu = QMenu(self._view)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        if len(subject[1]) == 1:
            menu.addAction("Open").triggered.connect(self._open_current)
        menu.addAction("Star, or take the star away").triggered.connect(self.star)
        menu.addAction("Hide, or show again").triggered.connect(self.hide)
        colours = menu.addMenu("Colour")
        alone = self._model.row(self._model.position(subject[1][0]))
        alone = alone if len(subject[1]) == 1 else None
        fill_colours(colours, alone.row.colour if alone else "?", self._on_colour)
        menu.addAction("Add to list…").triggered.connect(self._lists.click)
        menu.popup(self._view.viewport().mapToGlobal(at))

    def _on_colour(self) -> None:
        action: Any = self.sender()
        self.paint(action.data())

    def _open_current(self) -> None:
        index = self._view.current_id()
        if index is not None:
            self.opened.emit(int(index))
