"""Two ways to get something: a button for each, one card shown at a time or none."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QPushButton, QVBoxLayout, QWidget

from mistudio.core.settings import SettingsFile
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button
from mistudio.gui.widgets.flow import FlowRow


class SourceSwitch(QWidget):
    """Toggle buttons over cards; the choice survives a restart under the name `remember`."""

    switched = Signal(str)  # name of the card shown, "" if none is

    def __init__(
        self, settings: SettingsFile, remember: str, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._settings, self._remember = settings, remember
        self._cards: dict[str, QWidget] = {}
        self._makers: dict[str, Callable[[], QWidget]] = {}  # of cards that were not needed yet
        self._buttons: dict[str, QPushButton] = {}
        self._shown = ""
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.setSpacing(appearance().px(12))
        self._line = FlowRow()
        outer.addLayout(self._line)
        self._place = outer

    def add(self, name: str, title: str, icon: str, card: QWidget | Callable[[], QWidget]) -> None:
        """Offer another way; the first one is shown where nothing is remembered.

        A function makes the card when it is first shown, asked for, or by `build_more`.
        """
        toggle = button(title, variant="toggle", icon=icon, tip="Show or hide this card")
        toggle.setProperty("source", name)
        toggle.clicked.connect(self._on_clicked)
        self._line.addWidget(toggle)
        self._buttons[name] = toggle
        if isinstance(card, QWidget):
            self._take(name, card)
        else:
            self._makers[name] = card

    def _take(self, name: str, card: QWidget) -> None:
        self._cards[name] = card
        card.hide()
        self._place.addWidget(card)

    def made(self, name: str) -> QWidget:
        """The card of a way, hidden unless it is the one shown."""
        if name in self._makers:
            self._take(name, self._makers.pop(name)())
        return self._cards[name]

    def build_more(self) -> bool:
        """Make one card ahead; False if all are made."""
        if not self._makers:
            return False
        self.made(next(iter(self._makers)))
        return True

    def restore(self) -> None:
        """Show what was shown last, else the first."""
        kept = self._settings.recall(self._remember, None)
        self.open(next(iter(self._buttons)) if kept is None else str(kept))

    def current(self) -> str:
        """Name of the card shown, "" if none is."""
        return self._shown

    def card(self) -> QWidget | None:
        """The card shown."""
        return self._cards.get(self._shown)

    def open(self, name: str) -> None:
        """Show one card, or none for an unknown name."""
        self._shown = name if name in self._buttons else ""
        if self._shown:
            self.made(self._shown)
        for key, toggle in self._buttons.items():
            toggle.setChecked(key == self._shown)
        for key, card in self._cards.items():
            card.setVisible(key == self._shown)
        self._settings.remember(self._remember, self._shown)
        self.switched.emit(self._shown)

    def _on_clicked(self, checked: bool) -> None:
        name = str(self.sender().property("source"))
        self.open(name if checked else "")
