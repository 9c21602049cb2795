"""What the Datasets and Models tabs share: ways to get one, filters, cards updated in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QTimer
from PySide6.QtGui import QDragEnterEvent, QDropEvent
from PySide6.QtWidgets import QVBoxLayout, QWidget
from shiboken6 import isValid

from mistudio.core.errors import StudioError
from mistudio.gui.services import Services, Tab
from mistudio.gui.tabs.library.cards import JobCard, ObjectCard
from mistudio.gui.tabs.library.deleting import Deleter
from mistudio.gui.tabs.library.filters import Filters, state_group
from mistudio.gui.tabs.library.importing import ImportCard, dropped_path
from mistudio.gui.tabs.library.jobs import LiveProgress, act_on_job
from mistudio.gui.tabs.library.source_switch import SourceSwitch
from mistudio.gui.tabs.library.visible_grid import VisibleGrid
from mistudio.gui.widgets.cards import EmptyState
from mistudio.gui.widgets.layout import CardGrid, CenteredColumn, heading

if TYPE_CHECKING:
    from mistudio.jobs.dependants import Dependants
    from mistudio.jobs.runner import Studio
    from mistudio.store.records import JobRow, WorkRow

_MADE_BY_JOBS = ("running", "paused", "interrupted")


class LibraryTab(Tab):
    """A tab over one kind of stored object. Subclasses name the kind and fill in cards.

    Announcements of `kinds` and job starts and ends lead to one new read of the list.
    """

    kinds: tuple[str, ...] = ()
    noun = ""
    icon = ""
    color = ""
    columns = 2

    def __init__(
        self,
        services: Services,
        importer: Callable[[], ImportCard],
        of: Callable[[Studio, str], Dependants],
        *,
        title: str,
        subtitle: str,
        getter: SourceSwitch,
        every: str = "",
        parent: QWidget | None = None,
    ) -> None:
        """`of` says what deleting an object means.

        `getter` stands on top and holds what `importer` gives, made when it is needed; `every`
        names the choice of the filter by `further` that lets all pass.
        """
        super().__init__(services, parent)
        self._importer, self._getter = importer, getter
        self.deleter = Deleter(services, self.kinds[0], of, self)
        self.deleter.deleted.connect(self._on_deleted)
        self._rows: Sequence[Any] = ()
        self._by_id: dict[str, Any] = {}
        self._jobs: Sequence[JobRow] = ()
        self._cards: dict[str, ObjectCard] = {}
        self._dialogs: dict[str, QWidget] = {}
        self._wanted = ""  # an object to open once the list has been read
        self._loaded_once = False
        self._live = LiveProgress(services, self)
        self._build(title, subtitle, getter, every)
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(50)
        self._soon.timeout.connect(self.refresh)
        services.publisher.changed.connect(self._on_changed)
        services.lanes.started.connect(self._on_job)
        services.lanes.finished.connect(self._on_job)
        self._live.moved.connect(self._on_moved)
        self.setAcceptDrops(True)
        self.refresh()

    def _build(self, title: str, subtitle: str, getter: QWidget, every: str) -> None:
        self.page = CenteredColumn(self)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(self.page)
        self.filters = Filters(title, every)
        self.filters.changed.connect(self._arrange)
        self.empty = EmptyState(self.icon, "", "Run the sample", self._run_sample)
        self.empty.button.setToolTip("The whole path from text to steering in two minutes")
        self.empty.offer_tour(self.services.take_tour)
        self.nothing = EmptyState(
            "search",
            f"No {self.noun} passes the filters.",
            "Clear filters",
            self.filters.clear,
            tip="Show all again",
        )
        self.job_grid = CardGrid(columns=self.columns)
        self.grid = VisibleGrid(self.page, self._card_of, self._forget, columns=self.columns)
        self.page.box.addWidget(heading(title, subtitle))
        for part in (getter, self.filters, self.job_grid, self.grid, self.empty, self.nothing):
            self.page.box.addWidget(part)
        self.page.box.addStretch(1)
        for part in (self.filters, self.job_grid, self.grid, self.empty, self.nothing):
            part.hide()

    @property
    def importer(self) -> ImportCard:
        """The card that imports."""
        return self._importer()

    def build_more(self) -> bool:
        return self._getter.build_more()

    # What a kind of object must say.

    def load(self, db: Any) -> Any:
        """Read the list; runs in the query thread."""
        raise NotImplementedError

    def take(self, answer: Any) -> tuple[Sequence[Any], Sequence[JobRow]]:
        """Rows and jobs of an answer of `load`."""
        raise NotImplementedError

    def work_row(self, entry: Any) -> WorkRow:
        """The stored row of a list entry."""
        raise NotImplementedError

    def make_card(self, object_id: str) -> ObjectCard:
        return ObjectCard(object_id, self.icon, self.color)

    def fill_card(self, card: ObjectCard, entry: Any) -> None:
        raise NotImplementedError

    def words(self, entry: Any) -> str:
        """The text that the search looks through."""
        raise NotImplementedError

    def further(self, entry: Any) -> str:
        """The property of the filter beside the state, such as the source."""
        return ""

    def open_dialog(self, entry: Any) -> QWidget:
        """The detail window of an entry, not yet shown."""
        raise NotImplementedError

    # Reading.

    def refresh(self) -> None:
        """Read the list again; the cards change in place."""
        self.services.query.ask(self.load, self._on_list, key="list")

    def _on_changed(self, kind: str, object_id: str) -> None:
        if kind in (*self.kinds, "jobs"):
            self._soon.start()

    def _on_job(self, *told: object) -> None:
        self._soon.start()

    def _on_list(self, answer: Any) -> None:
        self._rows, self._jobs = self.take(answer)
        self._by_id = {self.work_row(entry).id: entry for entry in self._rows}
        self._loaded_once = True
        self.filters.offer(self.further(entry) for entry in self._rows)
        self._arrange()
        if self._wanted:
            wanted, self._wanted = self._wanted, ""
            self.open(wanted)

    def _arrange(self, *told: object) -> None:
        """Show the cards that pass the filters."""
        jobs = [job for job in self._jobs if self._job_passes(job)]
        shown = [key for key, entry in self._by_id.items() if self._entry_passes(entry)]
        for gone in [k for k, c in self._cards.items() if isinstance(c, JobCard)]:
            if all(job.id != gone for job in self._jobs):
                self._cards.pop(gone).deleteLater()
        self.job_grid.set_widgets([self._job_card(job) for job in jobs])
        self.job_grid.setVisible(bool(jobs))
        self.grid.setVisible(bool(shown))
        self.grid.set_keys(shown)
        self._show_state(len(shown), len(jobs))

    def _show_state(self, shown: int, jobs: int) -> None:
        """Show filters, empty states and the count as the list needs them."""
        anything = bool(self._rows or self._jobs)
        self.filters.setVisible(anything)
        self.empty.setVisible(self._loaded_once and not anything)
        self.nothing.setVisible(anything and not shown and not jobs and self.filters.is_narrowed())
        listed = [entry for entry in self._rows if not self._is_in_work(entry)]
        self.filters.show_count(shown, len(listed))

    def _job_passes(self, job: JobRow) -> bool:
        if self.filters.further.currentData():
            return False
        return self.filters.passes(job.title, state_group(job.status))

    def _entry_passes(self, entry: Any) -> bool:
        state = state_group(self.work_row(entry).status)
        passes = self.filters.passes(self.words(entry), state, self.further(entry))
        return passes and not self._is_in_work(entry)

    def _is_in_work(self, entry: Any) -> bool:
        """Whether the card of the job that makes it stands for it."""
        state = state_group(self.work_row(entry).status)
        return state == "work" and any(job.status in _MADE_BY_JOBS for job in self._jobs)

    def _card_of(self, object_id: str) -> ObjectCard:
        """The card of an object, made now if need be, with what is known of it."""
        card = self._cards.get(object_id)
        if card is None:
            card = self.make_card(object_id)
            card.opened.connect(self.open)
            card.delete_asked.connect(self.deleter.ask)
            self._cards[object_id] = card
        self.fill_card(card, self._by_id[object_id])
        return card

    def _forget(self, object_id: str) -> None:
        self._cards.pop(object_id, None)

    def _job_card(self, job: JobRow) -> ObjectCard:
        card = self._cards.get(job.id)
        if not isinstance(card, JobCard):
            card = JobCard(job.id, self.icon, self.color)
            card.asked.connect(self._act)
            self._cards[job.id] = card
        card.show_job(job, self._live.of(job.id), self._live.note_of(job.id))
        return card

    def _on_moved(self, job_id: str) -> None:
        card = self._cards.get(job_id)
        job = next((job for job in self._jobs if job.id == job_id), None)
        if isinstance(card, JobCard) and job is not None:
            card.show_job(job, self._live.of(job_id), self._live.note_of(job_id))

    # Acting.

    def _act(self, job_id: str, verb: str) -> None:
        act_on_job(self.services, job_id, verb)

    def _run_sample(self) -> None:
        from mistudio.core.configs import DemoConfig

        try:
            self.services.submit("demo", DemoConfig())
        except StudioError as error:
            self.services.banner(error.sentence, level="error", details=error.details)
        else:
            self.services.open_tab("Training")

    def open(self, object_id: str) -> None:
        """Show the detail window of an object that is ready."""
        found = self._dialogs.get(object_id)
        if found is not None and isValid(found):
            found.raise_()
            found.activateWindow()
            return
        entry = self._by_id.get(object_id)
        if entry is not None and self.work_row(entry).status == "ready":
            self._dialogs[object_id] = self.open_dialog(entry)
            self._dialogs[object_id].show()

    def _on_deleted(self, object_id: str) -> None:
        dialog = self._dialogs.pop(object_id, None)
        if dialog is not None and isValid(dialog):
            dialog.close()

    # What the window calls.

    def focus_search(self) -> None:
        self.filters.search.setFocus()
        self.filters.search.selectAll()

    def run_primary(self) -> None:
        self.importer.submit()

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if dropped_path(event) is not None:
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        self.importer.dropEvent(event)
        self.page.ensureWidgetVisible(self.importer)

    def show_object(self, object_id: str) -> None:
        """Open an object now, or once the list has been read."""
        self._wanted = object_id
        self.refresh()
