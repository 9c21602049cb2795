"""A button whose menu puts features into lists and takes them out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QMenu, QPushButton, QWidget

from mistudio.gui import ask
from mistudio.gui.services import Services
from mistudio.gui.tabs.features.edits import published
from mistudio.gui.widgets.cards import set_icon
from mistudio.store import feature_lists
from mistudio.store.feature_lists import FeatureList


class _Known(NamedTuple):
    lists: list[FeatureList]
    holding: list[str]


class ListButton(QPushButton):
    """For the features that `subject` gives: SAE id and indices, or None.

    Of a single feature the lists that hold it are checked, and a click on one takes it out.
    """

    problem = Signal(str)
    manage = Signal()

    def __init__(
        self,
        services: Services,
        subject: Callable[[], tuple[str, list[int]] | None],
        text: str = "Lists",
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(text, parent)
        self._services, self._subject, self._text = services, subject, text
        self._known = _Known([], [])
        self.setProperty("variant", "secondary")
        self.setAutoDefault(False)
        self.setToolTip("Put into a list, or take out")
        set_icon(self, "list")
        self.lists_menu = QMenu(self)
        self.setMenu(self.lists_menu)
        self._fill()

    def read(self) -> None:
        """Read the lists, and those that hold the subject."""
        subject = self._subject()

        def known(db: Any) -> _Known:
            holding: list[str] = []
            if subject is not None and len(subject[1]) == 1:
                holding = feature_lists.lists_of(db, subject[0], subject[1][0])
            return _Known(feature_lists.lists(db), holding)

        self._services.query.ask(known, self._show, key="lists")

    def _show(self, known: _Known) -> None:
        if known == self._known:
            return
        self._known = known
        count = len(known.holding)
        self.setText(f"{self._text} ({count:,})" if count else self._text)
        self._fill()

    def _fill(self) -> None:
        menu = self.lists_menu
        menu.clear()
        for found in self._known.lists:
            action = menu.addAction(f"{found.name}  ({found.count:,})".replace("&", "&&"))
            action.setCheckable(True)
            action.setChecked(found.id in self._known.holding)
            action.setData(found.id)
            action.triggered.connect(self._on_list)
        menu.addSeparator()
        menu.addAction("New list…").triggered.connect(self._on_new)
        menu.addAction("All lists…").triggered.connect(self.manage)

    def _on_list(self, on: bool) -> None:
        action: Any = self.sender()
        self.put(action.data(), on)

    def _on_new(self) -> None:
        name, given = ask.text(self, "New list", "Name of the list")
        if given:
            self.create_list(name)

    def create_list(self, name: str) -> None:
        """Make a list and put the subject into it."""
        subject = self._subject()
        self._write(lambda db: _created(db, name, subject))

    def put(self, list_id: str, on: bool) -> None:
        """Put the subject into a list, or take it out."""
        subject = self._subject()
        if subject is None:
            return
        sae_id, indices = subject
        change = feature_lists.add if on else feature_lists.remove
        self._write(lambda db: _changed(change, db, list_id, sae_id, indices))

    def _write(self, change: Callable[[Any], str]) -> None:
        self._services.query.ask(change, self._on_written, on_error=self._on_error)

    def _on_written(self, changed: str) -> None:
        self.read()
        self._services.publisher.publish("feature_lists", "")
        if changed:
            self._services.publisher.publish("features", changed)

    def _on_error(self, sentence: str, details: str) -> None:
        self.problem.emit(sentence)
        self._known = _Known([], [])
        self.read()  # the check marks as they are


def _changed(
    change: Callable[..., Any], db: Any, list_id: str, sae_id: str, indices: Sequence[int]
) -> str:
    change(db, list_id, sae_id, indices)
    return _told(sae_id, indices)


def _created(db: Any, name: str, subject: tuple[str, list[int]] | None) -> str:
    made = feature_lists.create(db, name)
    if subject is None:
        return ""
    feature_lists.add(db, made.id, *subject)
    return _told(*subject)


def _told(sae_id: str, indices: Sequence[int]) -> str:
    return published(sae_id, indices[0]) if len(indices) == 1 else f"{sae_id}/"
