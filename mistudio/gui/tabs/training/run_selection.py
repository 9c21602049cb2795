"""Choosing several runs by a tick on each card, and deleting them after one question."""

from __future__ import annotations

from collections.abc import Mapping

from PySide6.QtCore import Slot
from PySide6.QtWidgets import QWidget

from mistudio.gui.dialog import confirm
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.deleting import freed_later, offer_undo
from mistudio.gui.tabs.training.run_card import RunCard
from mistudio.gui.widgets.cards import button, label, row
from mistudio.jobs.delete_runs import PutAside, RunsToDelete, of_runs, put_runs_aside


class RunSelection(QWidget):
    """A toggle that shows the ticks, and the line about what is ticked."""

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self._cards: Mapping[str, RunCard] = {}
        self.toggle = button(
            "Select", variant="toggle", icon="check_circle", tip="Tick several runs"
        )
        self.told = label("", "muted")
        self.all_button = button("Tick all shown", self.tick_all, tip="Those that can be deleted")
        self.delete_button = button("Delete", self.ask, variant="danger", icon="trash")
        line = row(self.told, None, self.all_button, self.delete_button)
        line.setContentsMargins(0, 0, 0, 0)
        self.setLayout(line)
        self.toggle.toggled.connect(self._on_toggled)
        self.hide()

    def follow(self, cards: Mapping[str, RunCard]) -> None:
        """Take the cards that are shown now, a mapping that the list keeps up to date."""
        self._cards = cards
        self._on_ticked()

    def take(self, card: RunCard) -> None:
        """Take a card that was made."""
        card.tick.toggled.connect(self._on_ticked)
        card.offer_tick(self.toggle.isChecked())

    def chosen(self) -> list[str]:
        """Ids of the ticked runs."""
        return [known for known, card in self._cards.items() if card.tick.isChecked()]

    def tick_all(self) -> None:
        """Tick every shown run that can be deleted."""
        for card in self._cards.values():
            if card.tick.isEnabled():
                card.tick.setChecked(True)

    def ask(self) -> None:
        """Look up what deleting the ticked runs means, then ask once."""
        ids, studio = self.chosen(), self._services.studio
        self._services.query.ask(lambda _: of_runs(studio, ids), self._on_found)

    @Slot(bool)
    def _on_toggled(self, on: bool) -> None:
        self.setVisible(on)
        for card in self._cards.values():
            card.offer_tick(on)
        self._on_ticked()

    @Slot()
    def _on_ticked(self, *_: object) -> None:
        count = len(self.chosen())
        self.told.setText(f"{count:,} ticked" if count else "Tick the runs to delete")
        self.delete_button.setText(f"Delete {count:,} …" if count else "Delete")
        self.delete_button.setEnabled(count > 0)
        self.delete_button.setToolTip("Says what is lost, then asks" if count else "Tick a run")

    @Slot(object)
    def _on_found(self, found: RunsToDelete) -> None:
        if not found.ids:
            self._services.banner("Runs at work are not deleted; stop them first.", level="warning")
        elif confirm(self.window(), found.title, found.sentences):
            studio = self._services.studio
            self._services.query.ask(
                lambda _: (found, put_runs_aside(studio, found.ids)), self._on_deleted
            )

    @Slot(object)
    def _on_deleted(self, done: tuple[RunsToDelete, PutAside]) -> None:
        found, gone = done
        runs = "1 run is" if len(gone.ids) == 1 else f"{len(gone.ids):,} runs are"
        freed = "" if gone.refused else freed_later(found.size_bytes)
        if gone.folders:
            offer_undo(
                self._services,
                f"{runs} deleted.{freed}",
                gone.folders,
                "trainings",
                self._on_ticked,
            )
        if gone.refused:
            self._services.banner(" ".join(gone.refused), level="warning")
        self.toggle.setChecked(False)
        self._services.publisher.publish("trainings")
