"""Writing features: which, in which format, where; the job is followed to its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PySide6.QtCore import QUrl, Slot
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import QFileDialog, QWidget

from mistudio.core.feature_export_configs import (
    FOLDER_FORMATS,
    FORMAT_TITLES,
    WHICH,
    ExportFeaturesConfig,
)
from mistudio.core.index_ranges import format_ranges
from mistudio.core.units import format_bytes, format_count
from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.one_job import OneJob
from mistudio.gui.widgets.cards import button, label, row
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.editors import ChoiceEditor, PathEditor
from mistudio.gui.widgets.progress import ProgressBar
from mistudio.store.feature_export import list_names
from mistudio.store.records import SaeRow

FIELDS = ("format", "out", "examples", "context", "vectors", "model_id", "set_name", "creator")
WHICH_TITLES = {
    "all": "All features",
    "live": "All that fired",
    "labelled": "All with a label",
    "favourites": "Favourites",
}
MEANINGS = {
    "csv": "One row per feature; lists of tokens are JSON in their cells.",
    "parquet": "One row per feature, with lists as lists: for pandas, Polars, DuckDB.",
    "json": "One object per feature, with examples.",
    "jsonl": "One object per feature and line, with examples.",
    "html": "One file with plots and highlighted examples. It opens in any browser without a "
    "network and asks for nothing.",
    "neuronpedia": "The folder that Neuronpedia reads in bulk. Nothing is sent.",
    "neuronpedia_upload": "Requests of at most 128 features for Neuronpedia's upload address, as "
    "files. Nothing is sent.",
    "saedashboard": "The files that SAEDashboard writes.",
    "delphi": "Every activation of the features with the tokens of the text, as delphi caches them "
    "before it explains and scores features.",
}
LONGEST_ORDER = 20_000  # features whose order in the table is kept; more go by number


class NewPlaceEditor(PathEditor):
    """The path of a file or folder that is to be made; empty is a name of ours."""

    def __init__(self, folder: Path, parent: QWidget | None = None) -> None:
        super().__init__("file", "", parent)
        self._folder = folder
        self.line.setPlaceholderText(f"a new name in {folder}")

    def _pick_file(self) -> None:
        chosen, _ = QFileDialog.getSaveFileName(
            self, "Write the features to", self.value() or str(self._folder)
        )
        if chosen:
            self.set_value(chosen)


class ExportFeaturesDialog(Dialog):
    """Chooses features and format, queues the export and follows it."""

    def __init__(
        self,
        services: Services,
        sae: SaeRow,
        choices: Mapping[str, Sequence[int]],
        parent: QWidget | None = None,
    ) -> None:
        """`choices` name features beside the usual ones, such as those of the table."""
        super().__init__(f"Export features of {sae.name}", parent, width=768, height_share=0.86)
        self._services, self._sae, self._path = services, sae, ""
        self._given = {name: list(features) for name, features in choices.items() if len(features)}
        self.which = ChoiceEditor(self._which_pairs([]))
        self.which.combo.setAccessibleName("Features to write")
        self.which.setToolTip("Which features go into the file")
        self.form: ConfigForm[ExportFeaturesConfig] = ConfigForm(
            ExportFeaturesConfig,
            FIELDS,
            editors={
                "format": ChoiceEditor(list(FORMAT_TITLES.items())),
                "out": NewPlaceEditor(services.studio.paths.exports),
            },
            columns=1,
            settings=services.settings,
            remember="features.export",
            command="features export",
            positional=("sae",),
        )
        self.form.set_values({"sae": sae.id, "out": ""})
        self.meaning = label("", "muted", wrap=True)
        self.written = label("", wrap=True, selectable=True)
        self.folder_button = button(
            "Show folder", self.show_folder, icon="folder", tip="Open the folder that was written"
        )
        self.start_button = button(
            "Export", self.start, variant="primary", icon="upload", tip="Write the chosen features"
        )
        self.bar = ProgressBar("yellow")
        self.job = OneJob(
            services,
            self.start_button,
            self,
            failure="The export failed.",
            cancel_tip="End this export; nothing half written is left",
            bar=self.bar,
        )
        self.job.done.connect(self._on_done)
        self.form.changed.connect(self._tell_meaning)
        self.which.changed.connect(self._take_choice)
        self._take_choice()
        self._build()
        services.query.ask(self._read_lists, self._on_lists)

    def _build(self) -> None:
        chooser = row(label("Features", "label"), self.which)
        chooser.setStretch(1, 1)
        self.box.addLayout(chooser)
        self.box.addWidget(self.form)
        self.box.addWidget(self.meaning)
        self.box.addWidget(self.bar)
        self.box.addWidget(self.job.state)
        self.box.addWidget(self.job.problem)
        self.box.addWidget(self.written)
        self.box.addLayout(row(self.folder_button, None))
        self.box.addStretch(1)
        self.buttons.addWidget(self.job.cancel_button)
        self.buttons.addWidget(self.start_button)
        self.add_close()
        self.written.hide()
        self.folder_button.hide()
        self._tell_meaning()

    def _which_pairs(self, lists: Sequence[tuple[str, str, int]]) -> list[tuple[str, str]]:
        given = [
            (f"given:{name}", f"{name} ({format_count(len(features))})")
            for name, features in self._given.items()
        ]
        usual = [(f"which:{name}", WHICH_TITLES[name]) for name in ("live", "all", *WHICH[2:])]
        named = [(f"list:{key}", f"List: {name} ({count:,})") for key, name, count in lists]
        return [*given, *usual, *named]

    def _read_lists(self, db: Any) -> list[tuple[str, str, int]]:
        return list_names(db, self._sae.id)

    @Slot(object)
    def _on_lists(self, lists: Any) -> None:
        self.which.set_choices(self._which_pairs(lists))

    def _take_choice(self) -> None:
        """The chosen features become settings, so that the copied command holds them too."""
        kind, _, name = self.which.value().partition(":")
        numbers = self._given.get(name, []) if kind == "given" else []
        kept = numbers if len(numbers) <= LONGEST_ORDER else sorted(numbers)
        self.form.set_values(
            {
                "features": format_ranges(kept),
                "which": name if kind == "which" else "live",
                "list": name if kind == "list" else "",
            }
        )

    def start(self) -> None:
        """Queue the export, or show what is wrong."""
        self._take_choice()
        config = self.form.checked()
        if config is not None:
            self.written.hide()
            self.folder_button.hide()
            self.job.submit("export_features", config)

    def _tell_meaning(self) -> None:
        editor = self.form.fields["format"].editor
        self.meaning.setText(MEANINGS.get(str(editor.value()), ""))

    @Slot(object)
    def _on_done(self, found: Mapping[str, Any]) -> None:
        self._path = str(found["path"])
        left = f"; {found['skipped']:,} never fired" if found.get("skipped") else ""
        kind = "the folder" if found["format"] in FOLDER_FORMATS else "the file"
        self.written.setText(
            f"{found['features']:,} features are written{left}: {kind} {self._path}, "
            f"{format_bytes(found['bytes'])}."
        )
        self.written.show()
        self.folder_button.show()

    def show_folder(self) -> None:
        """Open the folder that holds what was written."""
        place = Path(self._path)
        folder = place if place.is_dir() else place.parent
        QDesktopServices.openUrl(QUrl.fromLocalFile(str(folder)))
