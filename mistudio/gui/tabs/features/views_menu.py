"""Saved views of the feature table: choose, save, rename, delete."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QMenu, QPushButton, QWidget

from mistudio.gui import ask
from mistudio.gui.dialog import confirm
from mistudio.gui.services import Services
from mistudio.gui.undo import Undo
from mistudio.gui.widgets.cards import set_icon
from mistudio.store import feature_views
from mistudio.store.feature_views import FeatureView
from mistudio.store.removed import Removed, put_back


class ViewsButton(QPushButton):
    """A menu of the views; `chosen(config)` asks for one, `usual` for the usual table."""

    chosen = Signal(object)
    usual = Signal()
    problem = Signal(str)

    def __init__(
        self, services: Services, state: Callable[[], dict[str, Any]], parent: QWidget | None = None
    ) -> None:
        """`state` gives what a view keeps."""
        super().__init__("Views", parent)
        self._services, self._state = services, state
        self._views: list[FeatureView] = []
        self.setProperty("variant", "secondary")
        self.setAutoDefault(False)
        self.setToolTip("Named columns, order and filters")
        set_icon(self, "eye")
        self.views_menu = QMenu(self)
        self.setMenu(self.views_menu)
        self._fill()
        self.read()

    def read(self) -> None:
        """Read the views again."""
        self._services.query.ask(feature_views.views, self._show, key="views")

    def _show(self, views: list[FeatureView]) -> None:
        self._views = views
        self._fill()

    def _fill(self) -> None:
        menu = self.views_menu
        menu.clear()
        self._offer(menu, "The usual table", self._on_usual, None)
        for view in self._views:
            self._offer(menu, view.name, self._on_chosen, view)
        menu.addSeparator()
        self._offer(menu, "Save this view…", self._on_save, None)
        for title, slot in (("Rename", self._on_rename), ("Delete", self._on_delete)):
            part = menu.addMenu(title)
            part.setEnabled(bool(self._views))
            for view in self._views:
                self._offer(part, view.name, slot, view)

    def _offer(self, menu: QMenu, text: str, slot: Callable[[], None], view: Any) -> None:
        action = menu.addAction(text.replace("&", "&&"))
        action.setData(view)
        action.triggered.connect(slot)

    def _view(self) -> FeatureView:
        action: Any = self.sender()
        return action.data()

    def _on_usual(self) -> None:
        self.usual.emit()

    def _on_chosen(self) -> None:
        view = self._view()
        self._services.query.ask(
            lambda db: (view.name, *feature_views.without_gone(db, view.config)), self._on_read
        )

    def _on_read(self, found: tuple[str, dict[str, Any], list[str]]) -> None:
        name, config, gone = found
        self.chosen.emit(config)
        if gone:
            self._services.banner(feature_views.gone_sentence(name, gone), level="warning")

    def _on_save(self) -> None:
        name, given = ask.text(self, "Save this view", "Name of the view")
        if given:
            self.save(name)

    def save(self, name: str) -> None:
        """Keep what the table shows under a name, in place of a view of that name."""
        config = self._state()
        self._write(lambda db: feature_views.save(db, name, config))

    def _on_rename(self) -> None:
        view = self._view()
        name, given = ask.text(self, "Rename view", "New name", view.name)
        if given:
            self._write(lambda db: feature_views.rename(db, view.id, name))

    def _on_delete(self) -> None:
        view = self._view()
        if confirm(self, f"Delete view “{view.name}”?", "The features stay as they are."):
            self._services.query.ask(
                lambda db: (view.name, feature_views.delete(db, view.id)),
                self._on_deleted,
                on_error=self._on_error,
            )

    def _on_deleted(self, found: tuple[str, Removed]) -> None:
        name, removed = found
        self.read()
        Undo(
            self._services,
            f"The view “{name}” is deleted.",
            lambda db: put_back(db, removed),
            self.read,
        )

    def _write(self, change: Callable[[Any], Any]) -> None:
        self._services.query.ask(change, self._on_written, on_error=self._on_error)

    def _on_written(self, _: Any) -> None:
        self.read()

    def _on_error(self, sentence: str, details: str) -> None:
        self.problem.emit(sentence)
