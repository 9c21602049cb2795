"""The SAE library: a searchable table of trained and imported SAEs and what to do with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PySide6.QtCore import QItemSelectionModel, QModelIndex, QTimer, QUrl, Slot
from PySide6.QtGui import QDesktopServices, QResizeEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from mistudio.core.configs import HarvestConfig
from mistudio.core.errors import StudioError
from mistudio.gui import ask
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.deleting import Deleter
from mistudio.gui.tabs.training.compare_dialog import CompareDialog
from mistudio.gui.tabs.training.import_dialog import ImportSaeDialog
from mistudio.gui.tabs.training.sae_details import SaeDetails
from mistudio.gui.tabs.training.sae_forms import evaluate_form, export_form
from mistudio.gui.tabs.training.sae_rows import COLUMNS, sae_ids, sae_rows
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import EmptyState, button, row
from mistudio.gui.widgets.flow import FlowRow
from mistudio.gui.widgets.layout import SearchField
from mistudio.gui.widgets.row_table import BlockTableModel, RowTable
from mistudio.jobs import lookup
from mistudio.jobs.dependants import of_sae
from mistudio.store.records import SaeRow
from mistudio.store.tables import SAES

TABLE, EMPTY = range(2)


class LibraryView(QWidget):
    """Sorting, search and selection survive every refresh."""

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        kept = services.settings.recall("training.sae_sort", ["created", True])
        self._sort, self._descending = str(kept[0]), bool(kept[1])
        self._wanted = ""
        self._chosen: list[str] = []  # ids of the selected rows
        self.search = SearchField("Search SAEs by name, model, origin or architecture")
        self.model = BlockTableModel(COLUMNS, sae_rows, services.query, self)
        self.table = RowTable(self.model)
        self.table.setAccessibleName("SAE library")
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.empty = EmptyState(
            "features",
            "There is no SAE yet. Train one, or import one.",
            "Import",
            self.import_sae,
            tip="Add an SAE from a folder, a file or the Hub",
        )
        self.buttons = {
            "details": button(
                "Details",
                self.details,
                icon="info",
                tip="Its settings, where it comes from, what was measured",
            ),
            "rename": button("Rename", self.rename, icon="edit", tip="Give the SAE another name"),
            "evaluate": button(
                "Evaluate",
                self.evaluate,
                icon="curve",
                tip="Measure reconstruction and the model's loss on held-out text",
            ),
            "compare": button(
                "Compare",
                self.compare,
                icon="table",
                tip="Measure two SAEs of one hook on the same text; select two",
            ),
            "features": button(
                "Find features",
                self.find_features,
                icon="bolt",
                tip="Read what each latent fires on",
            ),
            "steer": button(
                "Steer",
                self.steer,
                icon="sliders",
                tip="Change what the model writes with its features",
            ),
            "export": button(
                "Export",
                self.export,
                icon="upload",
                tip="Write it in the format of another program",
            ),
            "star": button("Star", self.star, icon="star", tip="Star it, or take the star away"),
            "folder": button(
                "Show folder", self.show_folder, icon="folder", tip="Open the folder of its files"
            ),
            "delete": button(
                "Delete", self.delete, icon="trash", tip="Say what goes with it, then ask"
            ),
        }
        self.import_button = button(
            "Import",
            self.import_sae,
            variant="primary",
            icon="download",
            tip="Add an SAE from a folder, a file or the Hub",
        )
        self._deleter = Deleter(services, "saes", of_sae, self)
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(100)
        self._build()
        self._connect()
        self.refresh()

    def _build(self) -> None:
        px = appearance().px
        box = self._box = QVBoxLayout(self)
        box.setSpacing(px(12))
        box.addLayout(row(self.search, self.import_button))
        self._pages = QStackedWidget()
        self._pages.addWidget(self.table)
        self._pages.addWidget(self.empty)
        box.addWidget(self._pages, 1)
        actions = QWidget()
        actions.setLayout(FlowRow(*self.buttons.values()))
        box.addWidget(actions)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """One column in the middle of a wide window, as on the other pages."""
        super().resizeEvent(event)
        px = appearance().px
        side = max(px(24), (self.width() - max(1280, px(1280))) // 2)
        self._box.setContentsMargins(side, px(16), side, px(16))

    def _connect(self) -> None:
        self._soon.timeout.connect(self.refresh)
        self.search.searched.connect(self.refresh)
        self.model.sort_requested.connect(self._on_sort)
        self.model.block_loaded.connect(self._offer)
        self.table.chosen.connect(self._on_chosen)
        self.table.selectionModel().selectionChanged.connect(self._on_selection)
        self.table.opened.connect(self.details)
        self.table.clicked.connect(self._on_clicked)
        self._services.publisher.changed.connect(self._on_published)

    @Slot()
    def refresh(self) -> None:
        """Read the order again; the selected SAE stays selected."""
        words, sort, descending = self.search.text(), self._sort, self._descending
        self._services.query.ask(
            lambda db: sae_ids(db, words, sort, descending), self._on_ids, key="ids"
        )

    def select(self, sae_id: str) -> None:
        """Make an SAE the current one, now or once it is read."""
        self._wanted = sae_id
        if not self.table.select_id(sae_id):
            self._chosen = []
            self.search.clear()
            self.refresh()

    def current(self) -> SaeRow | None:
        """The selected SAE, None unless exactly one is selected and read."""
        found = self.chosen()
        return found[0] if len(self._chosen) == len(found) == 1 else None

    @Slot(object)
    def _on_ids(self, ids: list[str]) -> None:
        chosen, several = self._wanted, list(self._chosen)
        scroll = self.table.verticalScrollBar().value()
        self.model.set_ids(ids)
        if chosen:
            self.table.select_id(chosen)
        if len(several) > 1:
            self._select_also(several)
        self.table.verticalScrollBar().setValue(scroll)
        searched = bool(self.search.text().strip())
        self._pages.setCurrentIndex(TABLE if ids or searched else EMPTY)
        self._on_selection()

    @Slot(object)
    def _on_chosen(self, sae_id: Any) -> None:
        self._wanted = str(sae_id)
        self._offer()

    @Slot()
    def _on_selection(self) -> None:
        rows = self.table.selectionModel().selectedRows()
        self._chosen = [str(self.model.id_at(index.row())) for index in rows]
        self._offer()

    def _select_also(self, ids: Sequence[str]) -> None:
        flags = QItemSelectionModel.SelectionFlag
        for sae_id in ids:
            if (position := self.model.position(sae_id)) >= 0:
                self.table.selectionModel().select(
                    self.model.index(position, 0), flags.Select | flags.Rows
                )

    def chosen(self) -> list[SaeRow]:
        """The selected SAEs that are read already, from the top."""
        places = sorted(self.model.position(sae_id) for sae_id in self._chosen)
        rows = [self.model.row(place) for place in places if place >= 0]
        return [row for row in rows if row is not None]

    def _offer_compare(self) -> None:
        pair = self.chosen()
        why = ""
        if len(pair) != 2:
            why = "Select two SAEs of the same hook: hold Ctrl and click the second"
        elif pair[0].model_id is None or pair[0].model_id != pair[1].model_id:
            why = "These two do not read the same model of the library"
        elif len({(sae.layer, sae.hook_in, sae.hook_out) for sae in pair}) > 1:
            why = "These two do not read the same layer and hook"
        self.buttons["compare"].setEnabled(not why)
        self.buttons["compare"].setToolTip(why or "Measure both on the same held-out documents")

    @Slot()
    def _offer(self) -> None:
        """Only what the selected SAEs allow can be pressed; the tooltip says why not."""
        self._offer_compare()
        sae = self.current()
        several = len(self._chosen) > 1
        reads_model = sae is not None and sae.model_id is not None
        for name, found in self.buttons.items():
            if name == "compare":
                continue
            of_vectors = sae is not None and lookup.reads_vectors(sae)
            needs_model = name in ("features", "steer") or (name == "evaluate" and not of_vectors)
            allowed = sae is not None and (reads_model or not needs_model)
            found.setEnabled(allowed and not several)
            if several:
                found.setToolTip("Several SAEs are selected; select one")
            elif sae is None:
                found.setToolTip("Select an SAE first")
            elif needs_model and not reads_model:
                found.setToolTip("Its model is not in the library; import it, then the SAE again")
            else:
                found.setToolTip("")
        starred = sae is not None and sae.is_favorite
        self.buttons["star"].setText("Unstar" if starred else "Star")

    @Slot(str, bool)
    def _on_sort(self, key: str, descending: bool) -> None:
        self._sort, self._descending = key, descending
        self._services.settings.remember("training.sae_sort", [key, descending])
        self.refresh()

    @Slot(str, str)
    def _on_published(self, kind: str, object_id: str) -> None:
        if kind == "saes":
            self._soon.start()

    def details(self, *_: object) -> None:
        """Show all that is known of the SAE."""
        if (sae := self.current()) is not None:
            SaeDetails(self._services, sae, self).show()

    def rename(self) -> None:
        """Give the SAE another name."""
        sae = self.current()
        if sae is None:
            return
        name, given = ask.text(self, "Rename SAE", "Name", sae.name)
        if given and name.strip():
            sae_id, text = sae.id, name.strip()[:255]
            self._services.query.ask(lambda db: _rename(db, sae_id, text), self._on_renamed)

    @Slot(object)
    def _on_renamed(self, sae_id: str) -> None:
        self._services.publisher.publish("saes", sae_id)

    def evaluate(self) -> None:
        """Measure it on held-out documents of a dataset."""
        if (sae := self.current()) is not None:
            evaluate_form(self._services, sae, self).show()

    def compare(self) -> None:
        """Put the two selected SAEs side by side, the upper one as A."""
        if len(pair := self.chosen()) == 2:
            CompareDialog(self._services, pair[0], pair[1], self).show()

    def find_features(self) -> None:
        """Harvest features over the SAE's own text and show the Features tab."""
        sae = self.current()
        if sae is None:
            return
        try:
            if sae.training_id is not None:
                self._services.submit("harvest", HarvestConfig(sae=sae.id))
        except StudioError as error:
            self._services.banner(error.sentence, level="error", details=error.details)
        self._services.open_tab("Features", sae=sae.id)

    def steer(self) -> None:
        """Open the Steering tab with it."""
        if (sae := self.current()) is not None:
            self._services.open_tab("Steering", sae=sae.id)

    def star(self) -> None:
        """Give the SAE a star, or take it away."""
        if (sae := self.current()) is not None:
            sae_id, on = sae.id, not sae.is_favorite
            self._services.query.ask(lambda db: _star(db, sae_id, on), self._on_renamed)

    @Slot(QModelIndex)
    def _on_clicked(self, index: QModelIndex) -> None:
        if self.model.columns[index.column()].sort_key == "star":
            self.star()

    def show_folder(self) -> None:
        """Open the folder of its files in the system's file manager."""
        if (sae := self.current()) is not None:
            folder = self._services.studio.paths.absolute(sae.path)
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(folder)))

    def export(self) -> None:
        """Write it to a folder."""
        if (sae := self.current()) is not None:
            export_form(self._services, sae, self).show()

    def import_sae(self) -> None:
        """Add an SAE from a folder or from the Hub."""
        ImportSaeDialog(self._services, self).show()

    def delete(self) -> None:
        """Ask, then delete it with its features."""
        if (sae := self.current()) is not None:
            self._deleter.ask(sae.id)


def _star(db: Any, sae_id: str, on: bool) -> str:
    SAES.update(db, sae_id, is_favorite=on)
    return sae_id


def _rename(db: Any, sae_id: str, name: str) -> str:
    SAES.update(db, sae_id, name=name)
    return sae_id
