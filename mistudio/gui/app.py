"""Opens the window on a data folder and runs it to its end."""

from __future__ import annotations

import gc
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QApplication

from mistudio.core.errors import StudioError
from mistudio.core.logs import start_log
from mistudio.core.paths import Paths
from mistudio.core.settings import SettingsFile
from mistudio.gui import icons, style
from mistudio.gui.crash import CrashReporter, ErrorDialog, FaultFile
from mistudio.gui.main_window import MainWindow
from mistudio.gui.signals import ProcessSignals
from mistudio.gui.single_instance import SingleInstance, raise_other
from mistudio.gui.theme import appearance
from mistudio.jobs import hub_choice
from mistudio.jobs.runner import Studio, interrupt_note
from mistudio.system.garbage import keep_what_is_there
from mistudio.system.process import age_s
from mistudio.system.remote_display import is_remote

if TYPE_CHECKING:
    from mistudio.gui.heartbeat import Heartbeat

log = logging.getLogger(__name__)

HEARTBEAT_VARIABLE = "MISTUDIO_HEARTBEAT"  # a file that receives the event loop's gaps
TURN_S = 0.001  # after which a job's thread lets the window's have the interpreter lock
BENCH_VARIABLE = "MISTUDIO_BENCH"  # a plan that `mistudio bench window` measures by


def run(paths: Paths) -> int:
    """Open the window and return the exit code; a second start raises the first and returns 0."""
    gc.disable()  # to the end of the process: `gui.collector` looks for garbage, between events
    app = QApplication.instance() or QApplication(sys.argv[:1])
    assert isinstance(app, QApplication)
    app.setApplicationName("miStudio")
    app.setDesktopFileName("mistudio")
    if raise_other(paths.home):
        return 0
    settings = SettingsFile(paths.settings)
    handler = start_log(paths.logs, settings.values.log_level)
    appearance().set_remote(is_remote(settings.values.remote_display))
    style.prepare(app, settings.values.theme, settings.values.font_px)
    app.setWindowIcon(icons.program_icon())
    turn_s = sys.getswitchinterval()
    sys.setswitchinterval(TURN_S)
    try:
        return _run(app, paths, settings)
    finally:
        sys.setswitchinterval(turn_s)
        logging.getLogger().removeHandler(handler)
        handler.close()
        icons.clear_cache()


def _run(app: QApplication, paths: Paths, settings: SettingsFile) -> int:
    try:
        studio = Studio(paths)
    except StudioError as error:
        style.complete(app)
        dialog = ErrorDialog(error.sentence, error.details)
        dialog.show()
        app.exec()
        return 1
    hub_choice.configure(settings.values)
    studio.models.device = settings.values.device
    studio.models.threads = settings.values.threads
    faults = FaultFile(paths.logs)
    faults.enable()
    note = interrupt_note(studio.recover())
    window = MainWindow(studio, settings)
    style.complete(app)
    reporter, signals = CrashReporter(), ProcessSignals()
    instance = SingleInstance(paths.home)
    reporter.broke.connect(window.show_error)
    reporter.install()
    signals.asked_to_end.connect(window.end_without_asking)
    signals.install()
    instance.raised.connect(window.come_forward)
    app.setQuitOnLastWindowClosed(False)
    window.ended.connect(app.quit)
    heartbeat = _heartbeat()
    _measure(window)
    window.show()
    QTimer.singleShot(0, lambda: _after_first_paint(window, note, faults.previous))
    try:
        return app.exec()
    finally:
        if heartbeat is not None:
            heartbeat.stop()
        instance.close()
        signals.remove()
        reporter.remove()
        studio.close()
        faults.disable()


def _after_first_paint(window: MainWindow, note: str, fault: str) -> None:
    log.info("window shown %.2f s after the process started", age_s())
    keep_what_is_there()
    window.start(note)
    if fault:
        window.show_error("miStudio ended unexpectedly the last time.", fault)


def _measure(window: MainWindow) -> None:
    """Let a measurement drive the window, if this process was started for one."""
    if plan := os.environ.get(BENCH_VARIABLE):
        from mistudio.gui.bench_window import WindowBench

        WindowBench(window, Path(plan))


def _heartbeat() -> Heartbeat | None:
    file = os.environ.get(HEARTBEAT_VARIABLE)
    if not file:
        return None
    from mistudio.gui.heartbeat import Heartbeat

    heartbeat = Heartbeat(file=Path(file))
    heartbeat.start()
    return heartbeat
