"""The log of one job: follows its file, can be copied and saved."""

from __future__ import annotations

import json
from pathlib import Path

from PySide6.QtCore import QTimer, Slot
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QFileDialog, QPlainTextEdit, QWidget

from mistudio.core.atomic import atomic_file
from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.style import mono_font
from mistudio.gui.widgets.cards import button, label
from mistudio.store.records import JobRow

LAST_BYTES = 1_000_000


class JobLog(Dialog):
    """Shows the notes of a job, newest at the end, and what made it fail."""

    def __init__(self, services: Services, job: JobRow, parent: QWidget) -> None:
        super().__init__(f"Log: {job.title}", parent, scroll=False)
        self._services, self._job = services, job
        self._path = services.studio.log_file(job.id)
        self.text = QPlainTextEdit()
        self.text.setReadOnly(True)
        self.text.setFont(mono_font(13))
        self.text.setAccessibleName("Log")
        self.box.addWidget(label(job.title, "card"))
        self.box.addWidget(self.text, 1)
        self.buttons.insertWidget(
            0, button("Copy", self.copy, icon="copy", tip="Copy the whole log")
        )
        self.buttons.insertWidget(
            1, button("Save…", self.save, icon="save", tip="Write the log into a file")
        )
        self.add_close()
        self._timer = QTimer(self)
        self._timer.setInterval(1000)
        self._timer.timeout.connect(self._read)
        self._timer.start()
        self._read()

    def _read(self) -> None:
        path, tail = self._path, self._job.error_details or ""
        self._services.query.ask(lambda _db: read_log(path) + tail, self._on_text, key="log")

    @Slot(object)
    def _on_text(self, text: str) -> None:
        if text == self.text.toPlainText():
            return
        bar = self.text.verticalScrollBar()
        at_end = bar.value() >= bar.maximum() - 4
        place = bar.value()
        self.text.setPlainText(text)
        bar.setValue(bar.maximum() if at_end else place)

    def copy(self) -> None:
        QGuiApplication.clipboard().setText(self.text.toPlainText())

    def save(self) -> None:
        """Write the text to a file that the user chooses."""
        chosen, _ = QFileDialog.getSaveFileName(self, "Save the log", f"{self._job.id}.txt")
        if not chosen:
            return
        try:
            with atomic_file(Path(chosen)) as temporary:
                temporary.write_text(self.text.toPlainText(), encoding="utf-8")
        except OSError as error:
            self._services.banner(f"The log was not saved: {error.strerror}.", level="error")


def read_log(path: Path) -> str:
    """The end of a job's log as lines of text; "" if it wrote none."""
    if not path.exists():
        return "Nothing was noted yet.\n"
    with path.open("rb") as stream:
        stream.seek(0, 2)
        stream.seek(max(0, stream.tell() - LAST_BYTES))
        lines = stream.read().decode("utf-8", "replace").splitlines()
    return "".join(_line(line) for line in lines)


def _line(line: str) -> str:
    try:
        entry = json.loads(line)
        shown = f"{entry['time'][11:19]} {entry['level']:7} {entry['text']}"
    except (ValueError, KeyError, TypeError):
        shown = line
    return shown + "\n"
