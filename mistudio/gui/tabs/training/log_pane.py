"""What the jobs of a run said, with new lines at the end."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone

from PySide6.QtCore import Slot
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QPlainTextEdit, QVBoxLayout, QWidget

from mistudio.gui.reporting import Note
from mistudio.gui.services import Services
from mistudio.gui.style import mono_font
from mistudio.gui.tabs.training.reads import LogLine, Run, of_member, read_log
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row

MOST_LINES = 2000


class LogPane(QWidget):
    """Lines "time  sentence"; follows the end unless scrolled up."""

    def __init__(self, run: Run, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self._status = run.training.status
        self._id = run.training.id
        self._place, self._members = run.place, run.members
        self.text = QPlainTextEdit()
        self.text.setReadOnly(True)
        self.text.setMaximumBlockCount(MOST_LINES)
        self.text.setFont(mono_font(13))
        self.text.setFixedHeight(appearance().px(128))
        self.text.setPlaceholderText("Nothing has been noted yet.")
        self.text.setAccessibleName("Log")
        self.live = label("Live", "text-emerald")
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self.text)
        box.addLayout(row(self.live, None, button("Copy", self.copy, icon="copy")))
        self._mark()
        self._read()

    def show_run(self, run: Run) -> None:
        """Read the log again when the run changes its state."""
        if run.training.status != self._status:
            self._status = run.training.status
            self._mark()
            self._read()

    def add(self, notes: Sequence[Note]) -> None:
        """Append what the running job just said, of a sweep what is not said of other runs."""
        stamp = datetime.now(timezone.utc).isoformat()
        for note in notes:
            sentence = note.sentence
            if self._members > 1 and of_member(sentence):
                if not of_member(sentence, self._place):
                    continue
                sentence = sentence.partition(": ")[2]
            self._append([LogLine(stamp, note.level, sentence)])

    def copy(self) -> None:
        """Put the whole log on the clipboard."""
        QGuiApplication.clipboard().setText(self.text.toPlainText())

    def _mark(self) -> None:
        self.live.setVisible(self._status in ("initializing", "training", "stopping"))

    def _read(self) -> None:
        training_id, paths = self._id, self._services.studio.paths
        logs, run = paths.logs / "jobs", paths.run(training_id)
        self._services.query.ask(
            lambda db: read_log(db, training_id, logs, run), self._on_lines, key="log"
        )

    @Slot(object)
    def _on_lines(self, lines: list[LogLine]) -> None:
        self.text.clear()
        self._append(lines)

    def _append(self, lines: Iterable[LogLine]) -> None:
        grey = appearance().colors.muted
        for line in lines:
            self.text.appendHtml(_line(line, grey))


def _line(line: LogLine, grey: str) -> str:
    clock = datetime.fromisoformat(line.time).astimezone().strftime("%H:%M:%S")
    level = "" if line.level == "info" else f"{line.level.upper()}: "
    text = html.escape(f"{level}{line.text}")
    return f'<span style="color:{grey}">{clock}</span>&nbsp; {text}'
