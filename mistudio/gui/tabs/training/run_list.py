"""The cards of all runs, active first, then newest, changed in place."""

from __future__ import annotations

from PySide6.QtCore import QTimer, Signal, Slot
from PySide6.QtGui import QHideEvent, QShowEvent
from PySide6.QtWidgets import QVBoxLayout, QWidget

from mistudio.gui.reporting import Drained
from mistudio.gui.services import Services
from mistudio.gui.style import set_property
from mistudio.gui.tabs.training.live import LiveRuns, Rows
from mistudio.gui.tabs.training.reads import FILTERS, Run, Runs, read_run, read_runs
from mistudio.gui.tabs.training.run_card import WORKING, RunCard
from mistudio.gui.tabs.training.run_selection import RunSelection
from mistudio.gui.tabs.training.settings_pane import SettingsPane
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import EmptyState, button, label, row
from mistudio.gui.widgets.layout import SearchField

PAGE = 12  # cards made at once
POLL_MS = 2000
TIPS = {
    "All": "Every run, active ones first",
    "Active": "Runs that wait, work, are paused or were interrupted",
    "Completed": "Runs that reached their length",
    "Stopped": "Runs that were ended early; their SAE is kept",
    "Failed": "Runs that an error ended",
}


class RunList(QWidget):
    """Filters, cards, "Show more". `acted(Run, action)` is a pressed button of a card."""

    acted = Signal(object, str)
    wanted = Signal(object)  # settings to fill the form with
    revealed = Signal(object)  # a card that the user asked to see

    def __init__(self, services: Services, live: LiveRuns, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services, self._live = services, live
        self.cards: dict[str, RunCard] = {}
        self._limit = PAGE
        self._selected = ""
        self._awaited = False  # the selected run has no card yet
        self.search = SearchField("Search runs by model, text or name")
        self.filters = {name: button(name, variant="toggle", tip=TIPS[name]) for name in FILTERS}
        self.filter = str(services.settings.recall("training.filter", "All"))
        self.selection = RunSelection(services)
        self.empty = EmptyState("curve", "")
        self.empty.offer_tour(services.take_tour)
        self.empty.hide()
        self.more_button = button("Show more", self.show_more, tip="Show older runs too")
        self.more_button.hide()
        self._poll = QTimer(self)
        self._poll.setInterval(POLL_MS)
        self._poll.timeout.connect(self._follow_others)
        self._build()
        self.search.searched.connect(self.refresh)
        live.told.connect(self._on_told)
        live.moved.connect(self.refresh_run)
        services.publisher.changed.connect(self._on_published)
        self.refresh()

    def _build(self) -> None:
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(appearance().px(12))
        for name, found in self.filters.items():
            found.clicked.connect(lambda _=False, chosen=name: self.set_filter(chosen))
        select = self.selection.toggle
        box.addLayout(row(label("Runs", "section"), *self.filters.values(), None, select))
        box.addWidget(self.search)
        box.addWidget(self.selection)
        self._column = QVBoxLayout()
        self._column.setSpacing(appearance().px(16))
        box.addLayout(self._column)
        box.addWidget(self.empty)
        box.addLayout(row(None, self.more_button, None))
        self._mark_filter()

    def set_filter(self, name: str) -> None:
        """Show only runs in some states."""
        self.filter = name if name in FILTERS else "All"
        self._services.settings.remember("training.filter", self.filter)
        self._mark_filter()
        self.refresh()

    def _mark_filter(self) -> None:
        for name, found in self.filters.items():
            found.setChecked(name == self.filter)

    def show_more(self) -> None:
        """Make further cards."""
        self._limit += PAGE
        self.refresh()

    @Slot()
    def refresh(self) -> None:
        """Read the list again; cards, open panes and scroll stay."""
        shown, words, limit = self.filter, self.search.text().strip(), self._limit
        self._services.query.ask(
            lambda db: read_runs(db, shown, words, limit), self._on_runs, key="runs"
        )

    @Slot(str)
    def refresh_run(self, training_id: str) -> None:
        """Read one run again; a change of state reorders the list."""
        self._services.query.ask(
            lambda db: read_run(db, training_id), self._on_run, key=f"run {training_id}"
        )

    def active(self) -> Run | None:
        """The run that works, else the one that waits to be resumed."""
        for wanted in ("training", "paused", "interrupted"):
            for card in sorted(self.cards.values(), key=self._column.indexOf):
                if card.run.training.status == wanted:
                    return card.run
        return None

    def select(self, training_id: str) -> None:
        """Mark a run and reveal it, at once or when its card is made."""
        self._selected, self._awaited = training_id, training_id not in self.cards
        self._mark_selected()
        if self._awaited:
            self.set_filter("All")
        else:
            self.revealed.emit(self.cards[training_id])

    def _mark_selected(self) -> None:
        for known, card in self.cards.items():
            set_property(card, "active", known == self._selected)

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._poll.start()

    def hideEvent(self, event: QHideEvent) -> None:
        super().hideEvent(event)
        self._poll.stop()

    @Slot()
    def _follow_others(self) -> None:
        """Runs of the command line tell this window nothing: read them again."""
        own = self._services.lanes.running()
        for training_id, card in self.cards.items():
            job = card.run.job
            waits = card.run.training.status in ("queued", *WORKING)
            if waits and (job is None or job.id not in own):
                self.refresh_run(training_id)

    @Slot(object)
    def _on_runs(self, runs: Runs) -> None:
        for gone in set(self.cards) - {run.training.id for run in runs.runs}:
            card = self.cards.pop(gone)
            card.hide()
            card.deleteLater()
        for place, run in enumerate(runs.runs):
            self._place(place, run)
        for name, found in self.filters.items():
            found.setText(f"{name} ({runs.counts[name]})")
        self.selection.follow(self.cards)
        self.selection.toggle.setEnabled(bool(runs.runs))
        self.more_button.setVisible(runs.total > len(runs.runs))
        self._show_empty(runs)
        self._mark_selected()
        if self._awaited and self._selected in self.cards:
            self.select(self._selected)

    def _place(self, place: int, run: Run) -> None:
        card = self.cards.get(run.training.id)
        if card is None:
            card = self._make(run)
        else:
            card.show_run(run)
        if self._column.indexOf(card) != place:
            self._column.removeWidget(card)
            self._column.insertWidget(place, card)

    def _make(self, run: Run) -> RunCard:
        card = RunCard(run, self._services, self)
        card.acted.connect(lambda name: self.acted.emit(card.run, name))
        card.opened.connect(lambda: self._on_opened(card))
        card.asked.connect(lambda: self.revealed.emit(card))
        self.cards[run.training.id] = card
        self.selection.take(card)
        if run.job is not None:
            self._live.know(run.job.id, run.training.id)
        for name in self._open_panes().get(run.training.id, []):
            if name in card.toggles:
                card.open_pane(name)
        return card

    def _on_opened(self, card: RunCard) -> None:
        kept = {**self._open_panes(), card.run.training.id: card.open_panes()}
        newest = dict(list(kept.items())[-50:])
        self._services.settings.remember("training.panes", newest)
        settings = card.panes.get("settings")
        if isinstance(settings, SettingsPane) and not settings.property("heard"):
            settings.setProperty("heard", True)
            settings.wanted.connect(self.wanted)

    def _open_panes(self) -> dict[str, list[str]]:
        return dict(self._services.settings.recall("training.panes", {}))

    def _show_empty(self, runs: Runs) -> None:
        narrowed = bool(runs.counts["All"])
        sentence = "No run matches." if narrowed else "No training has been started yet."
        self.empty.sentence.setText(sentence)
        self.empty.setVisible(not runs.runs)

    @Slot(object)
    def _on_run(self, run: Run | None) -> None:
        card = self.cards.get(run.training.id) if run else None
        if run is None or card is None or card.run.training.status != run.training.status:
            self.refresh()
        else:
            card.show_run(run)

    @Slot(str, object, object)
    def _on_told(self, training_id: str, rows: Rows, drained: Drained) -> None:
        card = self.cards.get(training_id)
        if card is None:
            self.refresh()
        else:
            card.take(rows, drained)

    @Slot(str, str)
    def _on_published(self, kind: str, object_id: str) -> None:
        if kind in ("trainings", "saes"):
            self.refresh()
