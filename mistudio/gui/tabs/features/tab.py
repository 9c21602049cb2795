"""The Features tab: source, finding features, tiles, table; details open in their own window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QScrollArea, QStackedWidget, QVBoxLayout, QWidget

from mistudio.gui.services import Services, Tab
from mistudio.gui.tabs.features.detail import FeatureDetail
from mistudio.gui.tabs.features.edits import parse_published
from mistudio.gui.tabs.features.feature_sets import SetChooser
from mistudio.gui.tabs.features.feature_table import FeatureTable
from mistudio.gui.tabs.features.find_form import FindForm
from mistudio.gui.tabs.features.job_line import JobLine
from mistudio.gui.tabs.features.lists_dialog import ListsDialog
from mistudio.gui.tabs.features.overview import Overview, fit_warning, read_overview, remarks
from mistudio.gui.tabs.features.set_tiles import fill_tiles, set_tiles
from mistudio.gui.tabs.features.sources import SaeCombo
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import EmptyState, button, label, row
from mistudio.gui.widgets.elided import Elided
from mistudio.gui.widgets.flow import FlowRow
from mistudio.store.records import SaeRow

if TYPE_CHECKING:
    from mistudio.gui.tabs.features.text_dialog import TextDialog

NO_SAE, FIND, TABLE = range(3)
WATCHED = ("saes", "feature_sets", "jobs")


class FeaturesTab(Tab):
    """Shows one SAE at a time: the form while it has no features, then tiles and table."""

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(services, parent)
        self.overview: Overview | None = None
        self.detail: FeatureDetail | None = None
        self._pending: int | None = None  # feature to open once its set is read
        self._stale = True
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(150)
        self._soon.timeout.connect(self._reload)
        self.source = SaeCombo(services, "features.sae")
        self.chips = Elided("small")
        self.doubt = label("", "warning", wrap=True)
        self.doubt.hide()
        self.sets = SetChooser(services)
        self.again = button("Run again", self._on_again, icon="bolt", tip="Find features anew")
        self.health_button = button(
            "SAE health",
            self.open_health,
            icon="curve",
            tip="How the features do as a whole: dead, dense, duplicates, and what to do about it",
        )
        self.export_button = button("Export…", self.export, icon="upload", tip="Write features")
        self.import_button = button(
            "Import labels…", self.import_labels, icon="tag", tip="Explanations from Neuronpedia"
        )
        self.labels_button = button(
            "Labels…", self._on_labels, icon="tag", tip="Label features, and see how labels score"
        )
        self.ablate_button = button(
            "Ablate all…",
            self.ablate_all,
            icon="minus_circle",
            tip="Take each live feature out of the model and measure what changes",
        )
        self.own_text = button(
            "Own text", self.test_text, icon="text", tip="Which features fire on a text of yours"
        )
        self.text_dialog: TextDialog | None = None
        self.job = JobLine(services)
        self.form = FindForm(services)
        self.table = FeatureTable(services)
        self.tiles = set_tiles()
        self._lay_out()
        self._connect()

    def _lay_out(self) -> None:
        px = appearance().px
        no_sae = EmptyState(
            "features",
            "There is no SAE yet. Train one, or import one, and its features appear here.",
            "Go to Training",
            self._on_training,
            tip="Where an SAE is trained, or imported into the library",
        )
        no_sae.sentence.setMinimumWidth(px(560))
        no_sae.offer_tour(self.services.take_tour)
        area = QScrollArea(self)  # parents first: a later one makes Qt style all inside anew
        column = QWidget(area.viewport())
        self.pages = QStackedWidget(column)
        found = QWidget(self.pages)
        box = QVBoxLayout(found)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(px(8))
        box.addLayout(row(*self.tiles.values(), spacing=16))
        box.addWidget(self.table, 1)
        for page in (no_sae, self.form, found):
            self.pages.addWidget(page)
        column.setMaximumWidth(max(1280, px(1280)))
        inner = QVBoxLayout(column)
        inner.setContentsMargins(px(24), px(12), px(24), px(8))
        inner.setSpacing(px(8))
        self.heading = QWidget()
        top = row(label("Source", "label"), self.source, self.sets, self.again)
        top.setStretch(1, 3)
        top.setStretch(2, 2)
        self.heading.setLayout(top)
        self.tools = (
            self.health_button,
            self.labels_button,
            self.ablate_button,
            self.own_text,
            self.import_button,
            self.export_button,
        )
        inner.addWidget(self.heading)
        inner.addWidget(self.chips)
        inner.addLayout(FlowRow(*self.tools))
        for widget in (self.doubt, self.job):
            inner.addWidget(widget)
        inner.addWidget(self.pages, 1)
        # a large font on a small screen: the page scrolls rather than squeezing what is above rows
        self.table.view.setMinimumHeight(px(180))
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        area.setWidget(column)
        outer = QHBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(area)

    def _connect(self) -> None:
        self.source.chosen.connect(self._on_source)
        self.form.submitted.connect(self._on_submitted)
        self.form.closed.connect(self._show_table)
        self.table.opened.connect(self.open_feature)
        self.table.lists_wanted.connect(self.show_lists)
        self.table.map_wanted.connect(self.show_map)
        self.services.publisher.changed.connect(self._on_changed)
        self.services.lanes.finished.connect(self._on_finished)

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        if self._stale:
            self._reload()

    def select(self, **selection: Any) -> None:
        """`sae`: an id; `feature`: open its detail."""
        self._pending = selection.get("feature")
        if "sae" in selection:
            self.source.choose(str(selection["sae"]))
        if self._pending is not None and self.overview is not None:
            self._open_pending()

    def focus_search(self) -> None:
        self.table.filters.search.setFocus()
        self.table.filters.search.selectAll()

    def run_primary(self) -> None:
        if self.pages.currentIndex() == FIND:
            self.form.submit()

    def open_feature(self, index: int) -> None:
        """Show the detail of a feature; previous and next follow the table's order."""
        if self.overview is None or self.overview.feature_set is None:
            return
        if self.detail is None:
            self.detail = FeatureDetail(self.services, self)
            self.detail.stepped.connect(self.table.view.select_id)
            self.detail.lists_wanted.connect(self.show_lists)
            self.detail.finished.connect(self._on_detail_closed)
        self.detail.show_feature(self.overview.sae, index, self.table.ids())
        self.detail.open_window()

    def open_health(self) -> None:
        """Show the health report of the SAE."""
        if self.overview is not None and self.overview.feature_set is not None:
            from mistudio.gui.tabs.features.health_dialog import HealthDialog

            HealthDialog(self.services, self.overview.sae, self).show()

    def ablate_all(self) -> None:
        """Offer to measure the ablation of every live feature."""
        if self.overview is not None and self.overview.feature_set is not None:
            from mistudio.gui.tabs.features.ablate_dialog import AblateDialog

            dialog = AblateDialog(self.services, self.overview.sae, self)
            dialog.measured.connect(self._on_labelled)
            dialog.show()

    def show_lists(self) -> None:
        """Open the window of all lists."""
        dialog = ListsDialog(self.services, self)
        dialog.opened.connect(self._on_listed_feature)
        dialog.show()

    def show_map(self) -> None:
        """Open the map of the features listed."""
        if self.overview is None or self.overview.feature_set is None:
            return
        from mistudio.gui.tabs.features.map_dialog import MapDialog

        dialog = MapDialog(self.services, self.overview.sae, self.overview.feature_set, self)
        dialog.opened.connect(self.open_feature)
        dialog.chosen.connect(self._on_mapped)
        dialog.show()

    def _on_mapped(self, features: list[int]) -> None:
        self.table.show_only(features, "from the map")

    def _on_listed_feature(self, sae_id: str, index: int) -> None:
        self.select(sae=sae_id, feature=index)

    def export(self) -> None:
        """Write features of the table, or others, to a file or folder."""
        if self.overview is None or self.overview.feature_set is None:
            return
        from mistudio.gui.tabs.features.export_dialog import ExportFeaturesDialog

        choices = {"Those of the table, in its order": self.table.ids().tolist()}
        current = self.table.view.current_id()
        if current is not None:
            choices[f"Feature #{current}"] = [int(current)]
        ExportFeaturesDialog(self.services, self.overview.sae, choices, self).show()

    def import_labels(self) -> None:
        """Take explanations of another program as labels."""
        sae = self.source.sae()
        if sae is not None:
            from mistudio.gui.tabs.features.import_explanations_dialog import (
                ImportExplanationsDialog,
            )

            ImportExplanationsDialog(self.services, sae, self).show()

    def test_text(self) -> None:
        """Show which features fire on a text of one's own."""
        from mistudio.gui.tabs.features.text_dialog import TextDialog

        if self.overview is None or self.overview.feature_set is None:
            return
        if self.text_dialog is None:
            self.text_dialog = TextDialog(self.services, self.overview.sae, self)
            self.text_dialog.opened.connect(self.open_feature)
            self.text_dialog.finished.connect(self._on_text_closed)
        self.text_dialog.show()
        self.text_dialog.raise_()

    def _on_text_closed(self) -> None:
        self.text_dialog = None

    def _on_detail_closed(self) -> None:
        self.detail = None

    def _reload(self) -> None:
        self._stale = False
        self.source.reload()
        self._ask_overview()

    def _ask_overview(self) -> None:
        sae = self.source.sae()
        if sae is not None:
            self.services.query.ask(
                lambda db: read_overview(db, sae), self._show_overview, key="overview"
            )

    def _on_source(self, sae: SaeRow | None) -> None:
        self.heading.setVisible(sae is not None)
        if sae is None:
            self.overview = None
            self.chips.set_text("")
            self.doubt.hide()
            self.sets.hide()
            self.job.show_job(None)
            for tool in self.tools:
                tool.hide()
            self.pages.setCurrentIndex(NO_SAE)
        else:
            self._ask_overview()

    def _show_overview(self, found: Overview) -> None:
        before, self.overview = self.overview, found
        self.form.show_overview(found)
        self.job.show_job(found.job)
        for shown in (self.again, *self.tools):
            shown.setVisible(found.feature_set is not None)
        self.import_button.show()  # labels can come before features are found
        self.sets.show_overview(found)
        self._describe(found)
        old = before.feature_set.id if before and before.feature_set else ""
        new = found.feature_set.id if found.feature_set else ""
        labelled = before is not None and before.interpretable != found.interpretable
        if labelled and old == new:
            self.table.reload()
        if before is None or before.sae.id != found.sae.id or old != new:
            self.table.show_set(found.feature_set)
            self.pages.setCurrentIndex(TABLE if new else FIND)
        self._open_pending()

    def _describe(self, found: Overview) -> None:
        parts = [
            f"{found.sae.n_latents:,} latents",
            f"trained on {found.trained_on}" if found.trained_on else "",
            f"features read from {found.read_text}" if found.read_text else "",
            *remarks(found.feature_set),
        ]
        warning = fit_warning(found.feature_set)
        self.doubt.setText(warning)
        self.doubt.setVisible(bool(warning))
        self.chips.set_text(" · ".join(part for part in parts if part))
        fill_tiles(self.tiles, found)

    def _open_pending(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            self.open_feature(int(pending))

    def _show_table(self) -> None:
        if self.overview is not None and self.overview.feature_set is not None:
            self.pages.setCurrentIndex(TABLE)

    def _on_again(self) -> None:
        self.pages.setCurrentIndex(FIND)
        self.form.find_button.setFocus()

    def _on_labels(self) -> None:
        found = self.overview
        if found is None or found.feature_set is None:
            return
        from mistudio.gui.tabs.features.label_dialog import LabelDialog

        dialog = LabelDialog(self.services, found.sae, self.table.ids(), self)
        dialog.labelled.connect(self._on_labelled)
        dialog.show()

    def _on_labelled(self) -> None:
        self.table.reload()
        self._ask_overview()
        if self.detail is not None and self.detail.isVisible():
            self.detail.refresh(self.detail.index)

    def _on_submitted(self, job_id: str) -> None:
        self._show_table()
        self._ask_overview()

    def _on_training(self) -> None:
        self.services.open_tab("Training")

    def _on_finished(self, job_id: str, state: str) -> None:
        if job_id == self.job.job_id:
            self._stale = True
            self._soon.start()

    def _on_changed(self, kind: str, object_id: str) -> None:
        if kind in WATCHED:
            self._stale = True
            if self.isVisible():
                self._soon.start()
        elif kind == "feature_lists":
            self.table.reload()
        elif kind == "features" and self.overview is not None:
            self._refresh_feature(object_id)

    def _refresh_feature(self, object_id: str) -> None:
        if not object_id:  # a job wrote about many
            self.table.reload()
            return
        sae_id, index = parse_published(object_id)
        if self.overview is None or sae_id != self.overview.sae.id:
            return
        if index is None:
            self.table.reload()
            return
        self.table.refresh_feature(index)
        if self.detail is not None and self.detail.isVisible():
            self.detail.refresh(self.detail.index if index is None else index)
