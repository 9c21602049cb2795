"""The card that imports an object: its form, a button, and the sentence if it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import Signal
from PySide6.QtGui import QDragEnterEvent, QDropEvent
from PySide6.QtWidgets import QWidget

from mistudio.core.config import Config
from mistudio.core.errors import StudioError
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.jobs import JobWatch
from mistudio.gui.widgets.cards import Card, button, label
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.editors import Editor

if TYPE_CHECKING:
    from mistudio.store.records import JobRow

_OF_ONE_FILE = ("path", "name")  # settings that are not kept for the next import


class ImportCard(Card):
    """Queues imports of one kind; a file dropped on it becomes the path."""

    submitted = Signal(str)  # job id

    def __init__(
        self,
        services: Services,
        kind: str,
        config_class: type[Config],
        *,
        title: str,
        hint: str,
        editors: Mapping[str, Editor],
        command: str,
        fields: Sequence[str] = (),
        columns: int = 3,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__("list", parent)
        self._services, self._kind = services, kind
        self.box.addWidget(label(title, "card"))
        self.box.addWidget(label(hint, "muted", wrap=True))
        self.form = ConfigForm(
            config_class,
            fields,
            editors=editors,
            columns=columns,
            settings=services.settings,
            remember=kind,
            command=command,
            positional=("path",),
        )
        self.box.addWidget(self.form)
        self.problem = label("", "error", wrap=True, selectable=True)
        self.problem.hide()
        self.box.addWidget(self.problem)
        self.button = button("Import", self.submit, variant="primary", icon="upload")
        self.button.setToolTip("Queue the import; the files stay where they are")
        self.form.action_row.addWidget(self.button)
        self._watch = JobWatch(services, self)
        self._watch.ended.connect(self._on_ended)
        self.form.changed.connect(self._clear_problem)
        self.setAcceptDrops(True)

    def submit(self) -> None:
        """Queue the import, or show what is wrong with it."""
        config = self.form.checked()
        if config is None:
            return
        self._clear_problem()
        try:
            self.submitted.emit(self._watch.submit(self._kind, config))
        except StudioError as error:
            self._show_problem(error.sentence)

    def take_path(self, path: Path) -> None:
        """Fill in a dropped or chosen path and go to the button."""
        self.form.set_values({"path": str(path), "name": ""})
        self.button.setFocus()

    def _on_ended(self, job: JobRow) -> None:
        path = self.form.fields["path"].editor.value()
        if job.status == "failed":
            self._show_problem(job.error_message or f"{job.title} failed.")
        elif job.status == "completed" and path == job.config.get("path"):
            self.form.set_values(dict.fromkeys(_OF_ONE_FILE, ""))
            kept = self._services.settings.recall(self._kind, {})
            kept = {name: value for name, value in kept.items() if name not in _OF_ONE_FILE}
            self._services.settings.remember(self._kind, kept)

    def _show_problem(self, sentence: str) -> None:
        self.problem.setText(sentence)
        self.problem.show()

    def _clear_problem(self) -> None:
        self.problem.hide()
        self.problem.setText("")

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if dropped_path(event) is not None:
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        path = dropped_path(event)
        if path is not None:
            event.acceptProposedAction()
            self.take_path(path)


def dropped_path(event: QDropEvent) -> Path | None:
    """The first local file or folder of a drag, None if it holds none."""
    for url in event.mimeData().urls():
        if url.isLocalFile():
            return Path(url.toLocalFile())
    return None
