"""The main window: header, banners, tabs, jobs panel, status bar, menu; and its orderly end."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import Any

from PySide6.QtCore import QEvent, Qt, QTimer, Signal, Slot
from PySide6.QtGui import QAction, QCloseEvent, QResizeEvent
from PySide6.QtWidgets import (
    QApplication,
    QHBoxLayout,
    QMainWindow,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from mistudio.core.disk_room import is_nearly_full
from mistudio.core.errors import StudioError
from mistudio.core.settings import SettingsFile
from mistudio.core.units import format_bytes
from mistudio.gui import style, window_state
from mistudio.gui.actions import ACTIONS, make_actions, menus, redraw_icons
from mistudio.gui.changes import CHANGES
from mistudio.gui.commands import Commands
from mistudio.gui.crash import ErrorDialog
from mistudio.gui.dialog import confirm
from mistudio.gui.header import Header
from mistudio.gui.jobs_beside import JobsBeside
from mistudio.gui.jobs_panel import JobsPanel
from mistudio.gui.lanes import Lanes
from mistudio.gui.notices import JobNotices
from mistudio.gui.publisher import Publisher
from mistudio.gui.qt_types import TypeMaker
from mistudio.gui.query_lane import QueryLane
from mistudio.gui.remote import Pacer, still_desktop
from mistudio.gui.reporting import Drained
from mistudio.gui.services import Services
from mistudio.gui.settings_writer import SettingsWriter
from mistudio.gui.status_bar import StatusBar
from mistudio.gui.tab_pages import TabPages, load_libraries
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.banner import BannerArea
from mistudio.gui.widgets.cards import button, label, restyle_icons
from mistudio.jobs.warm_up import warm_up_for
from mistudio.store.records import JobRow
from mistudio.system.monitor import Monitor, Sample
from mistudio.system.remote_display import is_remote
from mistudio.system.steady import steady

log = logging.getLogger(__name__)

READINGS_MS = 1000
REST_MS = 30  # between two looks whether the first questions are answered
PATIENCE_S = 0.5  # with them


class MainWindow(QMainWindow):
    """One window on one data folder. `ended` is emitted when it has closed for good."""

    ended = Signal()

    def __init__(self, studio: Any, settings: SettingsFile) -> None:
        super().__init__()
        self.setWindowTitle("miStudio")
        self.resize(1240, 640)
        self.setMinimumSize(960, 560)
        self.publisher = Publisher(self)
        self.lanes = Lanes(
            studio,
            self,
            remote=appearance().remote,
            warm_up=partial(warm_up_for, studio),
            at_start=load_libraries,
        )
        self.query = QueryLane(studio.db, self)
        self.network = QueryLane(studio.db, self, name="network lane", at_once=False)
        self.monitor = Monitor(studio.paths.home, settings.values.monitor_period_s)
        self.banners = BannerArea()
        self.tabs = TabPages()
        self.services = Services(
            studio=studio,
            lanes=self.lanes,
            query=self.query,
            network=self.network,
            publisher=self.publisher,
            settings=settings,
            open_tab=self.tabs.show_tab,
            banner=self.banners.show_banner,
            take_tour=self.begin_tour,
        )
        self._warned_of_disk = False
        self._shown: Sample | None = None  # on a remote screen
        self._ending = self._ended = False
        self._forced = False
        self._settings = SettingsWriter(settings, self.query, self._on_settings_refused, self)
        self._rest_by = 0.0
        self._types = TypeMaker()
        self._build()
        self._connect()
        window_state.restore(studio.paths.home, self, self.jobs_panel)
        self._take_profile()
        self.tabs.open(self.services, str(settings.recall("window.tab", "Datasets")))

    def _build(self) -> None:
        self.commands = Commands(self)
        self.actions_by_name: dict[str, QAction] = make_actions(self, self.commands.work_of)
        for menu in menus():
            added = self.menuBar().addMenu(f"&{menu}")
            added.addActions([self.actions_by_name[s.name] for s in ACTIONS if s.menu == menu])
        self.header = Header()
        central = QWidget()
        box = QVBoxLayout(central)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(0)
        for part in (self.header, self.banners):
            box.addWidget(part)
        box.addWidget(self.tabs, 1)
        self._central = central
        self.pacer = Pacer(self)
        self.setCentralWidget(central)
        self._add_jobs_corner()
        self.jobs_panel = JobsPanel(self.services, self)
        self.jobs_panel.hide()
        self.addDockWidget(Qt.DockWidgetArea.RightDockWidgetArea, self.jobs_panel)
        self._beside = JobsBeside(self, central, self.jobs_panel)
        self.notices = JobNotices(
            self, self.services.settings, self.banners.show_banner, self.come_forward
        )
        self.status = StatusBar()
        self.setStatusBar(self.status)

    def _add_jobs_corner(self) -> None:
        corner = QWidget()
        box = QHBoxLayout(corner)
        box.setContentsMargins(0, 0, appearance().px(16), appearance().px(2))
        self.badge = label("", "count")
        self.badge.setAccessibleName("Active jobs")
        jobs_button = button("Jobs", self.commands.toggle_jobs, variant="ghost", icon="list")
        jobs_button.setToolTip("Show or hide the jobs (Ctrl+J)")
        box.addWidget(self.badge)
        box.addWidget(jobs_button)
        self.badge.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self.badge.hide()
        self.tabs.setCornerWidget(corner)

    def _connect(self) -> None:
        self.header.strip.clicked.connect(self.commands.show_system)
        self.header.theme_clicked.connect(self.commands.toggle_theme)
        self.status.unload_clicked.connect(self.commands.unload_model)
        self.status.jobs_clicked.connect(self.commands.toggle_jobs)
        self.jobs_panel.counted.connect(self._on_counted)
        self.jobs_panel.moved.connect(self._on_moved)
        self.jobs_panel.moved.connect(self.notices.consider)
        self.jobs_panel.running.connect(self.status.show_job)
        self.query.failed.connect(self._on_query_failed)
        self.network.failed.connect(self._on_query_failed)
        self.lanes.broke.connect(self.show_error)
        self.lanes.finished.connect(self._on_job_finished)
        self.lanes.drained.connect(self._on_drained)
        self.tabs.visited.connect(self._on_visited)
        appearance().changed.connect(self._redraw)
        self._readings = QTimer(self)
        self._readings.setInterval(READINGS_MS)
        self._readings.timeout.connect(self.refresh_readings)
        self._rest = QTimer(self)
        self._rest.setInterval(REST_MS)
        self._rest.timeout.connect(self._start_rest)

    def start(self, note: str = "") -> None:
        """After the first paint: job list, then the rest; `note` tells of an unexpected end."""
        self.setFocus()
        self.jobs_panel.start()
        self._readings.start()
        self._rest_by = time.monotonic() + PATIENCE_S
        self._rest.start()
        if self.services.settings.problem:
            self.banners.show_banner(self.services.settings.problem, level="warning")
        if note:
            shown = self.jobs_panel.show
            self.banners.show_banner(note, level="warning", action="Show jobs", clicked=shown)
        self.commands.offer_tour()

    @Slot()
    def _start_rest(self) -> None:
        """What no one waits for: threads that load libraries, the other tabs, the menus' icons.

        Once the first questions are answered, which they would slow, or have taken long enough.
        """
        waits = not self.query.is_idle() and time.monotonic() < self._rest_by
        if waits or not self._types.make_some():
            return
        self._rest.stop()
        redraw_icons(self.actions_by_name)
        self.lanes.start()
        self.monitor.start()
        self.network.start()
        self.tabs.build_ahead()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._beside.make_room()

    @Slot()
    def begin_tour(self) -> None:
        """Lead through the tab that is shown."""
        self.commands.take_tour()

    @Slot()
    def refresh_readings(self) -> None:
        """Show the newest sample and the loaded model; write settings that wait."""
        sample = self.monitor.latest
        self._warn_of_disk(sample)
        if sample is not None and appearance().remote:
            sample = self._shown = steady(self._shown, sample)
        self.header.strip.show_sample(sample)
        self.status.show_sample(sample)
        self.status.show_model(self.services.studio.models.name)
        self._settings.write()

    def _on_settings_refused(self, sentence: str, details: str) -> None:
        self.banners.show_banner(sentence, level="error", details=details)

    def _warn_of_disk(self, sample: Sample | None) -> None:
        """Once per run, when the disk of the data folder is more than 80 % full."""
        if sample is None or self._warned_of_disk:
            return
        if is_nearly_full(sample.disk_free, sample.disk_total):
            self._warned_of_disk = True
            self.banners.show_banner(
                f"The disk is nearly full: {format_bytes(sample.disk_free)} are free.",
                level="warning",
                action="Storage",
                clicked=self.commands.show_storage,
            )

    @Slot()
    def apply_theme(self) -> None:
        """Put theme and font size of the settings on the application."""
        app, values = QApplication.instance(), self.services.settings.values
        if isinstance(app, QApplication):
            appearance().set_remote(is_remote(values.remote_display))
            style.apply(app, values.theme, values.font_px)
            self._take_profile()

    def _take_profile(self) -> None:
        """Repaint seldom and let nothing move where the screen is a remote one."""
        app, remote = QApplication.instance(), appearance().remote
        self.pacer.set_on(remote)
        self.lanes.set_remote(remote)
        if isinstance(app, QApplication):
            still_desktop(app, remote)

    @Slot()
    def _redraw(self) -> None:
        redraw_icons(self.actions_by_name)
        restyle_icons(self)

    @Slot(str, str)
    def show_error(self, sentence: str, details: str) -> None:
        """Show a bug's report; further ones join the log only while it is open."""
        if self.findChild(ErrorDialog) is None:
            log_file, device = self.commands.for_report()
            ErrorDialog(sentence, details, self, log_file=log_file, device=device).show()

    @Slot(str, str)
    def _on_query_failed(self, sentence: str, details: str) -> None:
        self.banners.show_banner(sentence, level="error", details=details)

    @Slot(int, int)
    def _on_counted(self, active: int, queued: int) -> None:
        self.badge.setText(str(active + queued))
        self.badge.setVisible(active + queued > 0)

    @Slot(str, object)
    def _on_drained(self, job_id: str, drained: Drained) -> None:
        """A job's note marks a stage: by then it may have made objects that views should show."""
        job = self.jobs_panel.job(job_id)
        if job is not None and drained.notes:
            self._publish_for(job)
        for name, value in drained.partials:
            if name == "stage" and isinstance(value, dict):
                self.tabs.light(str(value["tab"]))
                self.banners.show_banner(str(value["sentence"]))

    def _publish_for(self, job: JobRow) -> None:
        for kind in CHANGES.get(job.kind, ()):
            self.publisher.publish(kind, job.target_id or "")

    @Slot(object)
    def _on_moved(self, job: JobRow) -> None:
        self._publish_for(job)
        if job.status == "failed":
            self.banners.show_banner(
                f"{job.title}: {job.error_message or 'It failed.'}",
                level="error",
                details=job.error_details or "",
            )

    @Slot(str)
    def _on_visited(self, name: str) -> None:
        self.services.settings.remember("window.tab", name)
        self._beside.give_way()

    @Slot()
    def come_forward(self) -> None:
        """Raise the window, for a second start; not one that has ended, which would stay shown
        until Qt takes it down in the middle of Python's own end."""
        if self._ended:
            return
        self.setWindowState(self.windowState() & ~Qt.WindowState.WindowMinimized)
        self.show()
        self.raise_()
        self.activateWindow()

    @Slot()
    def end_without_asking(self) -> None:
        """The way of SIGTERM and SIGINT; asked a second time it waits no longer."""
        self._forced = self._ending
        self._ending = True
        self.close()

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.ActivationChange and self.isActiveWindow():
            self.notices.forget()

    def closeEvent(self, event: QCloseEvent) -> None:
        asks = self.services.settings.values.confirm_close and not self._ending
        if self.lanes.is_idle() or self._forced:
            self._end()
            event.accept()
            return
        event.ignore()
        if not asks or self._agrees():
            self._wait_for_jobs()

    def _agrees(self) -> bool:
        return confirm(
            self,
            "Close while a job runs?",
            "The running job ends at its next safe point. A training writes a checkpoint and can "
            "be resumed; queued jobs begin at the next start.",
            "Close",
        )

    def _wait_for_jobs(self) -> None:
        """Ask the running jobs to end; the last one's end closes the window."""
        self._ending = True
        if self.lanes.is_idle():
            self.close()
            return
        self.banners.show_banner("Waiting for the step and its checkpoint, then closing…")
        self._central.setEnabled(False)
        self.lanes.close(self._pauses)

    def _pauses(self, job_id: str) -> bool:
        """Whether a job is left at a checkpoint when it is paused (a training)."""
        from mistudio.jobs.registry import JOB_KINDS
        from mistudio.store.tables import JOBS

        known = JOB_KINDS.get(JOBS.get(self.services.studio.db(), job_id).kind)
        return known is not None and known.ends_turn_on_pause

    @Slot(str, str)
    def _on_job_finished(self, _job_id: str, _state: str) -> None:
        if self._ending:
            QTimer.singleShot(0, self.close)

    def _end(self) -> None:
        """Stop timers and threads and keep what is to be kept; safe to call twice."""
        self._ended = True
        window_state.keep(self.services.studio.paths.home, self, self.jobs_panel)
        self.notices.forget()
        self._readings.stop()
        self._rest.stop()
        self.tabs.stop()
        self.pacer.stop()
        self.jobs_panel.stop()
        self.monitor.stop()
        if not self._forced:
            self.lanes.join()
        self.network.join()
        self.query.join()
        try:
            if self._settings.is_owed():
                self.services.settings.save()
        except StudioError:
            log.warning("the settings were not saved", exc_info=True)
        self.ended.emit()
