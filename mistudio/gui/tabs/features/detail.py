"""The window of one feature: what is known and written of it; J and K follow the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from PySide6.QtCore import Signal
from PySide6.QtGui import QGuiApplication, QKeySequence, QShortcut
from PySide6.QtWidgets import QTabWidget, QWidget

from mistudio.core.units import format_count, format_percent
from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.tabs.features import edits
from mistudio.gui.tabs.features.detail_head import DetailHead
from mistudio.gui.tabs.features.examples_page import ExamplesPage
from mistudio.gui.tabs.features.labels_page import LabelsPage
from mistudio.gui.tabs.features.list_menu import ListButton
from mistudio.gui.tabs.features.pages_ahead import PagesAhead
from mistudio.gui.tabs.features.tile_tips import tile_tips
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import MetricTile, button, label, row
from mistudio.gui.widgets.layout import replace_page
from mistudio.jobs import feature_pages, feature_samples
from mistudio.store.records import SaeRow

if TYPE_CHECKING:
    from mistudio.gui.tabs.features.ablation_page import AblationPage
    from mistudio.gui.tabs.features.correlations_page import CorrelationsPage
    from mistudio.gui.tabs.features.lens_page import LensPage
    from mistudio.gui.tabs.features.statistics_page import StatisticsPage
    from mistudio.gui.tabs.features.try_page import TryPage

EXAMPLES, LENS, CORRELATIONS, ABLATION, STATISTICS, TRY_TEXT, LABELS = range(7)  # its tabs


class FeatureDetail(Dialog):
    """Shows one feature of an SAE at a time; destroyed when closed."""

    stepped = Signal(object)  # index of the feature gone to
    lists_wanted = Signal()

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__("Feature", parent, width=1152, height_share=0.9, scroll=False)
        self._services = services
        self._sae: SaeRow | None = None
        self._order = np.empty(0, dtype=np.int64)
        self.index = -1
        self.page: feature_pages.FeaturePage | None = None
        self.head = DetailHead()
        self.lists = ListButton(services, self._subject)
        self.examples = ExamplesPage(services)
        self.labels = LabelsPage(services)
        self.lens: LensPage | None = None
        self.correlations: CorrelationsPage | None = None
        self.statistics: StatisticsPage | None = None
        self._came_from: list[int] = []  # features that led to this one by its partners
        self.ablation: AblationPage | None = None
        self.try_text: TryPage | None = None
        self.ahead = PagesAhead(services, self.examples.column.is_filling, self)
        self._way = 1  # in which direction of the table the last step went
        self._own: tuple[int, float] | None = None  # feature, and its largest on one's own text
        self.tiles = {
            "frequency": MetricTile("Activation frequency", color="emerald"),
            "interpretability": MetricTile("Interpretability", color="blue"),
            "max": MetricTile("Max activation", color="purple"),
            "samples": MetricTile("Active samples", color="yellow"),
        }
        self._lay_out()
        self._connect()

    def _lay_out(self) -> None:
        px = appearance().px
        self.box.setContentsMargins(px(20), px(12), px(20), 0)
        self.box.setSpacing(px(8))
        self.problem = label("", "error", wrap=True)
        self.problem.hide()
        self.pages = QTabWidget()
        for page, title in (
            (self.examples, "Examples"),
            (QWidget(), "Logit lens"),
            (QWidget(), "Correlations"),
            (QWidget(), "Ablation"),
            (QWidget(), "Statistics"),
            (QWidget(), "Try text"),
            (self.labels, "Labels"),
        ):
            self.pages.addTab(page, title)
        self.head.add_tool(self.lists)
        self.box.addWidget(self.head)
        self.box.addLayout(row(*self.tiles.values(), spacing=12))
        self.box.addWidget(self.problem)
        self.box.addWidget(self.pages, 1)
        self.place = label("", "muted")
        self.buttons.insertWidget(0, self.place)
        tip = "Any other feature of the table: an unbiased look at the SAE"
        self.random = button("Random (R)", self.go_random, variant="ghost", tip=tip)
        self.buttons.insertWidget(1, self.random)
        tip = "The feature from which this one was opened"
        self.back = button("Back", self.go_back, variant="link", icon="chevron_left", tip=tip)
        self.back.hide()
        self.buttons.insertWidget(2, self.back)
        self.buttons.addWidget(button("Copy", self.copy, icon="copy", tip="Copy as text"))
        self.buttons.addWidget(button("Export…", self.export, icon="upload", tip="Write it"))
        self.steer_button = button(
            "Steer",
            self.steer,
            variant="primary",
            icon="sliders",
            tip="Add the feature as a card of the Steering tab",
        )
        self.buttons.addWidget(self.steer_button)
        self.add_close()

    def _connect(self) -> None:
        self.head.label_edited.connect(self._on_label)
        self.head.note_edited.connect(self._on_note)
        self.head.star_clicked.connect(self._on_star)
        self.head.hide_clicked.connect(self._on_hide)
        self.head.colour.painted.connect(self._on_painted)
        self.head.previous.clicked.connect(self.go_previous)
        self.head.next.clicked.connect(self.go_next)
        self.lists.problem.connect(self._on_list_problem)
        self.lists.manage.connect(self.lists_wanted)
        self.examples.width_changed.connect(self._ask)
        self.examples.column.sample_wanted.connect(self._on_sample)
        self.examples.column.try_wanted.connect(self.try_this)
        self.labels.chosen.connect(self._on_choose)
        self.labels.regenerate.connect(self._on_regenerate)
        self.pages.currentChanged.connect(self._on_tab)
        onward, back = ("J", "Right", "Alt+Right"), ("K", "Left", "Alt+Left")
        ways = ((onward, self.go_next), (back, self.go_previous), (("R",), self.go_random))
        for keys, slot in ways:
            for key in keys:
                QShortcut(QKeySequence(key), self, slot)

    def open_window(self) -> None:
        """Show it, or bring it to the front."""
        self.show()
        self.raise_()
        self.activateWindow()
        self.examples.column.setFocus()

    def show_feature(self, sae: SaeRow, index: int, order: np.ndarray) -> None:
        """Show a feature; `order` holds the indices that previous and next go through."""
        self._sae, self._order = sae, order
        self._came_from = []
        self._go(index)

    def refresh(self, index: int) -> None:
        """Read the feature again if it is the one shown."""
        if index == self.index:
            self._ask()

    def _go(self, index: int) -> None:
        self.head.commit()
        self.index = index
        self.setWindowTitle(f"Feature #{index}")
        self.head.title.setText(f"Feature #{index}")
        at = self._position()
        self.head.previous.setEnabled(at > 0)
        self.head.next.setEnabled(0 <= at < len(self._order) - 1)
        shown = f"{at + 1:,} of {len(self._order):,} in table order" if at >= 0 else ""
        self.place.setText(shown)
        self.random.setEnabled(len(self._order) > 1)
        self.back.setVisible(bool(self._came_from))
        if self._came_from:
            self.back.setText(f"Back to #{self._came_from[-1]}")
        self._ask()
        self.lists.read()

    def _subject(self) -> tuple[str, list[int]] | None:
        """What the lists' button puts into lists."""
        return None if self._sae is None else (self._sae.id, [self.index])

    def _on_list_problem(self, sentence: str) -> None:
        self._on_error(sentence, "")

    def _position(self) -> int:
        found = np.flatnonzero(self._order == self.index)
        return int(found[0]) if len(found) else -1

    def go_next(self) -> None:
        """The feature after this one in table order."""
        self._step(1)

    def go_previous(self) -> None:
        """The feature before this one in table order."""
        self._step(-1)

    def open_partner(self, index: int) -> None:
        """Go to a feature that goes together with this one; `go_back` returns."""
        if index != self.index:
            self._came_from.append(self.index)
            self._go(index)
            self.stepped.emit(index)

    def go_random(self) -> None:
        """Any other feature of the table, each as likely; `go_back` returns."""
        others = self._order[self._order != self.index]
        if len(others):
            self.open_partner(int(np.random.default_rng().choice(others)))

    def go_back(self) -> None:
        """The feature from which this one was opened."""
        if self._came_from:
            self._go(self._came_from.pop())
            self.stepped.emit(self.index)

    def _step(self, by: int) -> None:
        target = self._position() + by
        if self._position() >= 0 and 0 <= target < len(self._order):
            self._came_from, self._way = [], by
            self._go(int(self._order[target]))
            self.stepped.emit(self.index)

    def _ask(self) -> None:
        read, index = self._reader(), self.index
        self.ahead.stop()
        if read is not None:
            self._services.query.ask(
                lambda db: read(index), self._show, on_error=self._on_error, key="page"
            )

    def _reader(self) -> Callable[[int], feature_pages.FeaturePage] | None:
        """Reads a feature's page as it is shown now; None without an SAE."""
        sae, width = self._sae, self.examples.width_tokens()
        studio, groups = self._services.studio, self.examples.groups_shown()
        if sae is None:
            return None
        return lambda index: feature_pages.page(
            studio, sae, index, before=width, after=width, groups=groups
        )

    def _read_ahead(self) -> None:
        """The next and the previous page, first the one in the direction of the last step."""
        read, at = self._reader(), self._position()
        if read is None or at < 0:
            return
        beside = [at + self._way, at - self._way]
        features = [int(self._order[i]) for i in beside if 0 <= i < len(self._order)]
        self.ahead.read(features, read)

    def _show(self, page: feature_pages.FeaturePage) -> None:
        self.page = page
        self.problem.hide()
        self.head.show_row(page.row)
        row_ = page.row
        self.tiles["frequency"].set_value(format_percent(row_.frequency, 2))
        self.tiles["max"].set_value(f"{row_.max:.3f}" if row_.count else "never fired")
        self.tiles["samples"].set_value(format_count(row_.active_samples))
        self.tiles["interpretability"].set_value(format_percent(row_.label_score))
        for name, tip in tile_tips(page).items():
            self.tiles[name].setToolTip(tip)
        self.examples.show_page(page)
        self._on_tab(self.pages.currentIndex())
        self._read_ahead()

    def _on_error(self, sentence: str, details: str) -> None:
        self.problem.setText(sentence)
        self.problem.setToolTip(details)
        self.problem.show()

    def _on_tab(self, number: int) -> None:
        """Charts, and the library that draws them, come when they are first looked at."""
        if number == LENS and self.lens is None:
            from mistudio.gui.tabs.features.lens_page import LensPage

            self.lens = LensPage(self._services)
            replace_page(self.pages, number, self.lens)
        elif number == CORRELATIONS and self.correlations is None:
            from mistudio.gui.tabs.features.correlations_page import CorrelationsPage

            self.correlations = CorrelationsPage(self._services)
            self.correlations.opened.connect(self.open_partner)
            self.correlations.opened_elsewhere.connect(self._on_elsewhere)
            replace_page(self.pages, number, self.correlations)
        elif number == STATISTICS and self.statistics is None:
            from mistudio.gui.tabs.features.statistics_page import StatisticsPage

            self.statistics = StatisticsPage(self._services)
            replace_page(self.pages, number, self.statistics)
        elif number == ABLATION and self.ablation is None:
            from mistudio.gui.tabs.features.ablation_page import AblationPage

            self.ablation = AblationPage(self._services)
            replace_page(self.pages, number, self.ablation)
        elif number == TRY_TEXT and self.try_text is None:
            from mistudio.gui.tabs.features.try_page import TryPage

            self.try_text = TryPage(self._services)
            self.try_text.opened.connect(self._go)
            self.try_text.read.connect(self._on_own_text)
            replace_page(self.pages, number, self.try_text)
        if number == CORRELATIONS and self.correlations is not None and self._sae is not None:
            self.correlations.show_feature(self._sae, self.index)
            return
        shown = {
            LENS: self.lens,
            ABLATION: self.ablation,
            STATISTICS: self.statistics,
            TRY_TEXT: self.try_text,
            LABELS: self.labels,
        }.get(number)
        if shown is not None and self.page is not None:
            shown.show_page(self.page)
        if number == STATISTICS and self.statistics is not None and self._sae is not None:
            self.statistics.ask(self._sae, self.index)
            own = self._own
            self.statistics.mark_own(own[1] if own and own[0] == self.index else None)

    def _on_sample(self, example: feature_pages.Example) -> None:
        """Read the document that an example comes from, and show it."""
        sae, studio = self._sae, self._services.studio
        if sae is not None:
            self._services.query.ask(
                lambda _db: feature_samples.sample_of(studio, sae, example.row, example.position),
                self._show_sample,
                on_error=self._on_error,
                key="sample",
            )

    def _show_sample(self, found: feature_samples.ExampleSample) -> None:
        from mistudio.gui.tabs.features.sample_dialog import SampleDialog

        SampleDialog(self._services, found, self).show()

    def try_this(self, text: str) -> None:
        """Read a text in Try text."""
        self.pages.setCurrentIndex(TRY_TEXT)
        if self.try_text is not None:
            self.try_text.read_text(text)

    def _on_own_text(self, largest: float | None) -> None:
        self._own = None if largest is None else (self.index, largest)

    def _on_elsewhere(self, sae_id: str, index: int) -> None:
        self._services.open_tab("Features", sae=sae_id, feature=index)

    def copy(self) -> None:
        """Put the feature on the clipboard as text."""
        if self.page is not None:
            QGuiApplication.clipboard().setText("\n".join(feature_pages.lines(self.page)))

    def export(self) -> None:
        """Write this feature to a file."""
        if self._sae is not None:
            from mistudio.gui.tabs.features.export_dialog import ExportFeaturesDialog

            ExportFeaturesDialog(
                self._services, self._sae, {f"Feature #{self.index}": [self.index]}, self
            ).show()

    def steer(self) -> None:
        """Go to the Steering tab with this feature added."""
        if self._sae is not None:
            self._services.open_tab("Steering", sae=self._sae.id, feature=self.index)

    def _write(self, change: Callable[..., str], *text: str, index: int | None = None) -> None:
        if self._sae is None:
            return
        sae_id, at = self._sae.id, self.index if index is None else index
        self._services.query.ask(lambda db: change(db, sae_id, at, *text), self._on_written)

    def _on_written(self, changed: str) -> None:
        self._services.publisher.publish("features", changed)

    def _on_label(self, index: int, text: str) -> None:
        self._write(edits.write_label, text, index=index)

    def _on_choose(self, index: int, label_id: str) -> None:
        self._write(edits.choose_label, label_id, index=index)

    def _on_regenerate(self, index: int) -> None:
        if self._sae is None:
            return
        from mistudio.gui.tabs.features.label_dialog import LabelDialog

        dialog = LabelDialog(self._services, self._sae, self._order, self, feature=index)
        dialog.labelled.connect(self._ask)
        dialog.show()

    def _on_note(self, index: int, text: str) -> None:
        self._write(edits.write_note, text, index=index)

    def _on_star(self) -> None:
        self._write(edits.turn_favorite)

    def _on_painted(self, colour: str) -> None:
        self._write(lambda db, sae_id, at: edits.paint(db, sae_id, [at], colour))

    def _on_hide(self) -> None:
        self._write(edits.turn_hidden)

    def done(self, result: int) -> None:
        self.ahead.stop()
        self.head.commit()
        super().done(result)
