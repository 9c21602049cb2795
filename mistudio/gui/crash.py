"""What happens when something breaks: the log, a report for the user, and the one from before."""

from __future__ import annotations

import faulthandler
import logging
import sys
import threading
import traceback
from pathlib import Path
from types import TracebackType
from typing import TextIO

from PySide6.QtCore import QObject, Qt, Signal, Slot
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QPlainTextEdit, QWidget

from mistudio.gui.dialog import Dialog
from mistudio.gui.style import mono_font
from mistudio.gui.widgets.cards import button, label

log = logging.getLogger(__name__)


class FaultFile:
    """Where the interpreter writes its stacks if the process dies hard."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "fault.log"
        self.previous = self._take_previous(folder)
        self._stream: TextIO | None = None

    def _take_previous(self, folder: Path) -> str:
        """The report of an earlier crash, "" if there was none; its file is kept aside."""
        if not self.path.exists() or self.path.stat().st_size == 0:
            return ""
        text = self.path.read_text(encoding="utf-8", errors="replace")
        self.path.replace(folder / "fault-previous.log")
        return text

    def enable(self) -> None:
        """Have the interpreter use the file."""
        self._stream = self.path.open("w", encoding="utf-8")
        faulthandler.enable(self._stream)

    def disable(self) -> None:
        """A clean end: remove the empty file."""
        if self._stream is not None:
            faulthandler.disable()
            self._stream.close()
            self._stream = None
            if self.path.stat().st_size == 0:
                self.path.unlink()


class CrashReporter(QObject):
    """Takes uncaught errors of every thread: into the log, then by a signal to the window."""

    broke = Signal(str, str)  # sentence, traceback

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._hook, self._thread_hook = sys.excepthook, threading.excepthook

    def install(self) -> None:
        """Become the handler of uncaught errors."""
        sys.excepthook = self._on_error
        threading.excepthook = self._on_thread_error

    def remove(self) -> None:
        """Give the handlers back."""
        sys.excepthook, threading.excepthook = self._hook, self._thread_hook

    def _on_error(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if issubclass(kind, KeyboardInterrupt):
            QGuiApplication.quit()
            return
        log.critical("uncaught error", exc_info=(kind, error, trace))
        text = "".join(traceback.format_exception(kind, error, trace))
        self.broke.emit(f"Something unexpected went wrong: {kind.__name__}: {error}", text)

    def _on_thread_error(self, arguments: threading.ExceptHookArgs) -> None:
        error = arguments.exc_value
        if error is not None:
            self._on_error(arguments.exc_type, error, arguments.exc_traceback)


class ErrorDialog(Dialog):
    """A sentence, the report, and a button that copies it; blocks nothing."""

    def __init__(
        self,
        sentence: str,
        details: str,
        parent: QWidget | None = None,
        *,
        log_file: Path | None = None,
        device: str = "",
    ) -> None:
        from mistudio.gui.problem_report import report

        super().__init__("Something went wrong", parent, height_share=0.6, scroll=False)
        self.setWindowFlag(Qt.WindowType.Dialog)
        self.text = QPlainTextEdit(report(f"{sentence}\n\n{details}", log_file, device))
        self.text.setReadOnly(True)
        self.text.setFont(mono_font(13))
        self.text.setAccessibleName("Report")
        self.box.addWidget(label(sentence, "label", wrap=True, selectable=True))
        self.box.addWidget(self.text, 1)
        self.buttons.addWidget(
            button(
                "Copy report",
                self.copy,
                variant="primary",
                icon="copy",
                tip="Copy versions, device and what broke, without tokens and private paths",
            )
        )
        self.add_close()

    @Slot()
    def copy(self) -> None:
        QGuiApplication.clipboard().setText(self.text.toPlainText())
