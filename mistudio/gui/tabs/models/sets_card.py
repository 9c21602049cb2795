"""The activation sets there are: state and progress, and what can be done with each."""

from __future__ import annotations

from PySide6.QtCore import QTimer, Signal
from PySide6.QtWidgets import QWidget

from mistudio.core.errors import StudioError
from mistudio.core.model_configs import VerifyActivationsConfig
from mistudio.core.units import format_bytes, format_count
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.deleting import Deleter
from mistudio.gui.tabs.library.jobs import JobWatch, LiveProgress
from mistudio.gui.tabs.models.import_vectors import ImportVectorsDialog
from mistudio.gui.tabs.models.set_rows import SetList, origin_of, read_sets
from mistudio.gui.tabs.models.tables import FigureTable
from mistudio.gui.widgets.cards import Card, button, label, row
from mistudio.gui.widgets.flow import FlowRow
from mistudio.gui.widgets.progress import ProgressBar
from mistudio.jobs.dependants import of_activation_set
from mistudio.store.records import ActivationSetRow, JobRow

_HEADINGS = ("Name", "Model", "Layers", "Hooks", "Tokens", "Size", "State")
_LISTED = 8  # lines before the table scrolls
_HELD = ("paused", "interrupted")


class ActivationSets(Card):
    """A table of sets with a row of actions on the chosen one."""

    opened = Signal(str)  # id of a completed set
    export_asked = Signal(str)

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__("list", parent)
        self._services = services
        self._found = SetList([], {}, {})
        self._wanted = ""  # the job whose set is to be chosen once it is listed
        self.table = FigureTable(_HEADINGS, "Activation sets", numeric=(4, 5), most=_LISTED)
        self.none = label(
            "No activation sets yet. “Extract activations” on a model's card makes one; vectors of "
            "your own can be imported.",
            "muted",
            wrap=True,
        )
        self.import_button = button(
            "Import vectors…",
            self._import,
            icon="download",
            tip="Add the vectors of a .npy or .safetensors file as a set to train on",
        )
        self.problem = label("", "muted", wrap=True, selectable=True)
        self.open_button = button("Open", self._open, icon="curve", tip="Statistics and plots")
        self.verify_button = button("Verify", self._verify, icon="check", tip="Compare checksums")
        self.export_button = button(
            "Export .npy", self._export, icon="upload", tip="Write one layer and hook for NumPy"
        )
        self.go_button = button("Resume", self._go_on, icon="play", tip="Pause it, or go on")
        self.cancel_button = button(
            "Cancel", self._cancel, icon="close", tip="End it; whole shards stay"
        )
        self.delete_button = button(
            "Delete", self._delete, icon="trash", tip="Delete the chosen set and its files"
        )
        self.train_button = button(
            "Train on these", self._train, icon="play", tip="Train an SAE on the chosen set"
        )
        self._actions = (
            self.train_button,
            self.open_button,
            self.verify_button,
            self.export_button,
            self.go_button,
            self.cancel_button,
            self.delete_button,
        )
        self.box.addLayout(row(label("Activation sets", "card"), None, self.import_button))
        self.bar = ProgressBar("purple")
        for part in (self.none, self.table, self.bar, self.problem):
            self.box.addWidget(part)
        self.box.addLayout(FlowRow(*self._actions))
        self._connect()
        self.read()

    def _connect(self) -> None:
        services = self._services
        self.deleter = Deleter(services, "activation_sets", of_activation_set, self)
        self.deleter.deleted.connect(self._on_change)
        self._live = LiveProgress(services, self)
        self._live.moved.connect(self._on_moved)
        self._watch = JobWatch(services, self)
        self._watch.ended.connect(self._on_ended)
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(60)
        self._soon.timeout.connect(self.read)
        services.lanes.started.connect(self._on_change)
        services.lanes.finished.connect(self._on_change)
        services.publisher.changed.connect(self._on_published)
        self.table.itemSelectionChanged.connect(self._on_selected)
        self.table.cellDoubleClicked.connect(self._on_double)

    # Reading.

    def read(self) -> None:
        """Read the list again."""
        studio = self._services.studio
        self._services.query.ask(lambda _: read_sets(studio), self._on_list, key="sets")

    def choose_of(self, job_id: str) -> None:
        """Choose the set that a job fills, as soon as it is listed."""
        self._wanted = job_id
        self._soon.start()

    def chosen(self) -> ActivationSetRow | None:
        """The set of the current line."""
        line = self.table.currentRow()
        return self._found.sets[line] if 0 <= line < len(self._found.sets) else None

    def _on_change(self, *told: object) -> None:
        self._soon.start()

    def _on_published(self, kind: str, object_id: str) -> None:
        if kind in ("activation_sets", "jobs", "models"):
            self._soon.start()

    def _on_list(self, found: SetList) -> None:
        kept = self.chosen()
        self._found = found
        wanted = [row_ for row_ in found.sets if self._job_id(row_) == self._wanted]
        if self._wanted and wanted:
            kept, self._wanted = wanted[0], ""
        self.table.blockSignals(True)
        self.table.set_rows([self._cells(row_) for row_ in found.sets])
        ids = [row_.id for row_ in found.sets]
        if ids:
            self.table.selectRow(ids.index(kept.id) if kept and kept.id in ids else 0)
        self.table.blockSignals(False)
        self.table.setVisible(bool(ids))
        self.none.setVisible(not ids)
        for part in self._actions:
            part.setVisible(bool(ids))
        self._on_selected()

    def _job_id(self, row_: ActivationSetRow) -> str:
        job = self._found.jobs.get(row_.id)
        return job.id if job is not None else ""

    def _cells(self, row_: ActivationSetRow) -> list[str]:
        return [
            row_.name,
            *origin_of(row_, self._found.models),
            format_count(row_.n_tokens),
            format_bytes(row_.size_bytes),
            self._state(row_),
        ]

    def _state(self, row_: ActivationSetRow) -> str:
        job = self._found.jobs.get(row_.id)
        if job is not None and job.status in ("running", "paused"):
            percent = (self._live.of(job.id) or (job.progress or 0.0, ""))[0]
            word = "Paused" if job.status == "paused" else row_.status.capitalize()
            return f"{word} {percent:.1f} %"
        return row_.status.capitalize()

    def _on_moved(self, job_id: str) -> None:
        for line, row_ in enumerate(self._found.sets):
            job = self._found.jobs.get(row_.id)
            item = self.table.item(line, len(_HEADINGS) - 1)
            if job is not None and job.id == job_id and item is not None:
                item.setText(self._state(row_))
                if line == self.table.currentRow():
                    self._tell(row_)

    # Acting.

    def _on_selected(self) -> None:
        row_ = self.chosen()
        if row_ is None:
            self._tell(None)
            return
        job = self._found.jobs.get(row_.id)
        state = job.status if job is not None else ""
        complete, works = row_.status == "completed", state in ("running", "paused", "queued")
        for part in (self.train_button, self.open_button, self.verify_button, self.export_button):
            part.setEnabled(complete)
        self.go_button.setText("Pause" if state == "running" else "Resume")
        self.go_button.setVisible(not complete and state != "queued")
        self.cancel_button.setVisible(works)
        self.delete_button.setEnabled(not works)
        self._tell(row_)

    def _tell(self, row_: ActivationSetRow | None) -> None:
        """Say below the table what the chosen set's job does, or why it failed."""
        text, percent = "", None
        if row_ is not None and row_.status != "completed":
            job = self._found.jobs.get(row_.id)
            live = self._live.of(job.id) if job is not None else None
            text = live[1] if live else row_.error_message or ""
            if job is not None and job.status in ("running", "paused"):
                percent = live[0] if live else job.progress or 0.0
        self.bar.setVisible(percent is not None)
        self.bar.set_value(percent)
        self.problem.setText(text)
        self.problem.setVisible(bool(text))

    def _on_double(self, line: int, column: int) -> None:
        self._open()

    def _open(self) -> None:
        row_ = self.chosen()
        if row_ is not None and row_.status == "completed":
            self.opened.emit(row_.id)

    def _verify(self) -> None:
        row_ = self.chosen()
        if row_ is None:
            return
        try:
            self._watch.submit("verify_activations", VerifyActivationsConfig(activations=row_.id))
        except StudioError as error:
            self._services.banner(error.sentence, level="warning")

    def _train(self) -> None:
        row_ = self.chosen()
        if row_ is not None:
            self._services.open_tab("Training", activations=row_.id)

    def _import(self) -> None:
        ImportVectorsDialog(self._services, self).show()

    def _export(self) -> None:
        row_ = self.chosen()
        if row_ is not None:
            self.export_asked.emit(row_.id)

    def _go_on(self) -> None:
        """Pause the running job, resume a held one, or start one that had ended again."""
        row_ = self.chosen()
        job = self._found.jobs.get(row_.id) if row_ is not None else None
        if job is None:
            return
        try:
            if job.status == "running":
                self._services.lanes.request(job.id, "pause")
            elif job.status in _HELD:
                self._services.lanes.request(job.id, "resume")
            else:
                self._services.studio.retry(job.id)
                self._services.lanes.nudge()
        except StudioError as error:
            self._services.banner(error.sentence, level="warning")
        self._services.publisher.publish("jobs", job.id)

    def _cancel(self) -> None:
        row_ = self.chosen()
        job = self._found.jobs.get(row_.id) if row_ is not None else None
        if job is not None:
            self.problem.setText("Cancelling…")
            self.problem.show()
            self._services.lanes.request(job.id, "cancel")
            self._services.publisher.publish("jobs", job.id)

    def _delete(self) -> None:
        row_ = self.chosen()
        if row_ is not None:
            self.deleter.ask(row_.id)

    def _on_ended(self, job: JobRow) -> None:
        if job.status == "completed" and job.result:
            self._services.banner(
                f"Every file is as it was written: {job.result['files']:,} files, "
                f"{format_bytes(job.result['bytes'])}."
            )
        elif job.status == "failed":
            self._services.banner(job.error_message or "Verifying failed.", level="error")
