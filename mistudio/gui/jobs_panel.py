"""The jobs panel: every job with its state, filtered, updated in place."""

from __future__ import annotations

from PySide6.QtCore import Qt, QTimer, Signal, Slot
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QButtonGroup, QDockWidget, QVBoxLayout, QWidget

from mistudio.core.errors import StudioError
from mistudio.gui.job_card import JobCard
from mistudio.gui.job_log import JobLog
from mistudio.gui.reporting import Drained
from mistudio.gui.services import Services
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import EmptyState, button, label, row
from mistudio.gui.widgets.flow import FlowRow
from mistudio.gui.widgets.layout import CenteredColumn
from mistudio.store import jobs as rows
from mistudio.store.records import JobRow

FILTERS = {
    "Active": ("running", "paused", "interrupted"),
    "Queued": ("queued",),
    "Finished": ("completed", "cancelled"),
    "Failed": ("failed",),
}
POLL_MS = 2000


class JobsPanel(QDockWidget):
    """Lists jobs of this window and of the command line.

    `counted(active, queued)` feeds the badge; `moved(JobRow)` tells of each job that is in another
    state than at the last look; `running(text)` describes the running job for the status bar.
    """

    counted = Signal(int, int)
    moved = Signal(object)
    running = Signal(str)

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__("Jobs", parent)
        self.setObjectName("jobs")
        self._services = services
        self._filter = "Active"
        self._cards: dict[str, JobCard] = {}
        self._states: dict[str, str] | None = None
        self._begun_here: set[str] = set()  # before the first look
        self._jobs: list[JobRow] = []
        self._build()
        services.lanes.started.connect(self._on_started)
        services.lanes.finished.connect(self.refresh)
        services.lanes.drained.connect(self._on_drained)
        services.publisher.changed.connect(self._on_changed)
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_MS)
        self._timer.timeout.connect(self.refresh)

    def _build(self) -> None:
        px = appearance().px
        body = QWidget()
        body.setMinimumWidth(px(340))
        box = QVBoxLayout(body)
        box.setContentsMargins(px(12), px(8), px(12), px(8))
        self._group = QButtonGroup(self)
        buttons = []
        for name in FILTERS:
            made = button(name, variant="toggle")
            made.setProperty("filter", name)
            made.setToolTip(f"Jobs that are {name.lower()}")
            self._group.addButton(made)
            buttons.append(made)
        buttons[0].setChecked(True)
        self._group.buttonClicked.connect(self._on_filter)
        states = QWidget()
        states.setLayout(FlowRow(*buttons))
        box.addWidget(states)
        self.page = CenteredColumn()
        self.page.box.setContentsMargins(0, 0, 0, 0)
        self.empty = EmptyState(
            "list",
            "No job in this list. Work you start appears under Active.",
            "Run the sample",
            self.run_sample,
            tip="The whole path from text to steering in two minutes",
        )
        self.page.box.addWidget(self.empty)
        self.page.box.addStretch(1)
        box.addWidget(self.page, 1)
        self.clear_button = button("Clear finished", self.clear_finished, variant="ghost")
        self.clear_button.setToolTip("Hide finished jobs; nothing is deleted")
        box.addLayout(row(None, self.clear_button))
        self.setWidget(body)
        self.setTitleBarWidget(self._title())
        self.setAllowedAreas(Qt.DockWidgetArea.RightDockWidgetArea)
        self.setFeatures(QDockWidget.DockWidgetFeature.DockWidgetClosable)

    def _title(self) -> QWidget:
        """In place of the dock's own, whose cross is small and not reached by the keyboard."""
        px = appearance().px
        bar = QWidget()
        close = button("", self.hide, variant="ghost", icon="close", tip="Hide the jobs (Ctrl+J)")
        line = row(label("Jobs", "card"), None, close)
        line.setContentsMargins(px(12), px(4), px(4), 0)
        bar.setLayout(line)
        return bar

    @Slot()
    def run_sample(self) -> None:
        """Queue the sample run."""
        from mistudio.core.configs import DemoConfig

        try:
            self._services.submit("demo", DemoConfig())
        except StudioError as error:
            self._services.banner(error.sentence, level="error", details=error.details)
        self.show_filter("Active")

    def start(self) -> None:
        """Begin to look for jobs."""
        self._timer.start()
        self.refresh()

    def stop(self) -> None:
        """Look no more."""
        self._timer.stop()

    @Slot()
    def refresh(self) -> None:
        """Read the jobs again."""
        self._services.query.ask(rows.list_jobs, self._on_rows, key="jobs")

    @Slot(str)
    def _on_started(self, job_id: str) -> None:
        if self._states is None:
            self._begun_here.add(job_id)
        self.refresh()

    @Slot(str, str)
    def _on_changed(self, kind: str, _object_id: str) -> None:
        if kind == "jobs":
            self.refresh()

    @Slot(object)
    def _on_rows(self, jobs: list[JobRow]) -> None:
        before = self._states
        if before is None:  # what this window began is news even if it ended before the first look
            before = {job.id: job.status for job in jobs if job.id not in self._begun_here}
        self._jobs = jobs
        self._states = {job.id: job.status for job in jobs}
        for job in jobs:
            if before.get(job.id) != job.status:
                self.moved.emit(job)
        self._show_counts()
        self._show_cards()

    def _show_counts(self) -> None:
        counts = {
            name: sum(job.status in states for job in self._jobs)
            for name, states in FILTERS.items()
        }
        for made in self._group.buttons():
            name = str(made.property("filter"))
            made.setText(f"{name} {counts[name]}" if counts[name] else name)
        self.counted.emit(counts["Active"], counts["Queued"])
        self.clear_button.setEnabled(counts["Finished"] + counts["Failed"] > 0)
        self._tell_running()

    def _tell_running(self) -> None:
        job = next((job for job in self._jobs if job.status == "running"), None)
        card = self._cards.get(job.id) if job else None
        percent = card.bar.text() if card else ""
        if job and job.progress is not None and not percent:
            percent = f"{job.progress:.1f} %"
        self.running.emit("" if job is None else f"{job.title}  {percent}".strip())

    def _show_cards(self) -> None:
        shown = [job for job in self._jobs if job.status in FILTERS[self._filter]]
        keep = {job.id for job in shown}
        for job_id in [known for known in self._cards if known not in keep]:
            gone = self._cards.pop(job_id)
            gone.hide()
            gone.deleteLater()
        holders = {job.lane: job.title for job in self._jobs if job.status == "running"}
        for position, job in enumerate(shown):
            card = self._cards.get(job.id)
            if card is None:
                card = self._cards[job.id] = self._make_card(job)
                self.page.box.insertWidget(position, card)
            elif self.page.box.indexOf(card) != position:
                self.page.box.insertWidget(position, card)
            card.show_job(job, holders.get(job.lane, ""))
        self.empty.setVisible(not shown)

    def _make_card(self, job: JobRow) -> JobCard:
        from mistudio.jobs.registry import JOB_KINDS

        known = JOB_KINDS.get(job.kind)
        card = JobCard(job, known is not None and known.early_finish)
        card.asked.connect(self._on_asked)
        return card

    def _on_filter(self, chosen: QWidget) -> None:
        self._filter = str(chosen.property("filter"))
        self._show_cards()

    def show_filter(self, name: str) -> None:
        """Choose one of the filters."""
        next(b for b in self._group.buttons() if b.property("filter") == name).click()

    @Slot(str, object)
    def _on_drained(self, job_id: str, drained: Drained) -> None:
        card = self._cards.get(job_id)
        if card is not None and drained.progress is not None:
            card.show_progress(drained.progress)
            self._tell_running()

    @Slot(str, str)
    def _on_asked(self, job_id: str, verb: str) -> None:
        try:
            if verb == "log":
                self._open_log(job_id)
            elif verb == "command":
                self._copy_command(job_id)
            elif verb == "retry":
                self._services.studio.retry(job_id)
            else:
                self._services.lanes.request(job_id, verb)
        except StudioError as error:
            self._services.banner(error.sentence, level="error", details=error.details)
        self._services.lanes.nudge()
        self._services.publisher.publish("jobs", job_id)

    def _open_log(self, job_id: str) -> None:
        job = next(job for job in self._jobs if job.id == job_id)
        JobLog(self._services, job, self.window()).show()

    def _copy_command(self, job_id: str) -> None:
        from mistudio.jobs.job_commands import command_of_job

        if (job := self.job(job_id)) is not None:
            command = command_of_job(job.kind, job.config)
            QGuiApplication.clipboard().setText(command)
            self._services.banner(
                f"The command of “{job.title}” is on the clipboard."
                if command  # none for an export of settings that no run was made with
                else "No command does this; it was made of what a tab showed."
            )

    def job(self, job_id: str) -> JobRow | None:
        """The job of an id as last read, None if it is not in the list."""
        return next((job for job in self._jobs if job.id == job_id), None)

    def clear_finished(self) -> None:
        """Hide final jobs from the list; their rows stay."""
        rows.hide_finished(self._services.studio.db())
        self.refresh()
