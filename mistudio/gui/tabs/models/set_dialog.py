"""One activation set: what it holds, and its statistics per layer and hook, plotted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtWidgets import QTabWidget, QVBoxLayout, QWidget

from mistudio.core.units import (
    EM_DASH,
    format_bytes,
    format_count,
    format_duration,
    format_percent,
)
from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.tabs.models.formats import format_name
from mistudio.gui.tabs.models.layer_grid import HOOK_TEXTS
from mistudio.gui.tabs.models.set_rows import is_imported
from mistudio.gui.tabs.models.tables import FigureTable
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import MetricTile, button, label, row
from mistudio.gui.widgets.elided import Combo, Elided
from mistudio.gui.widgets.layout import guard_wheel
from mistudio.jobs import activation_pages
from mistudio.jobs.activation_pages import HookStatistics, SetPage, StrongToken

if TYPE_CHECKING:
    from mistudio.gui.tabs.models.set_plots import SetPlots

_STRONGEST = ("Norm", "Token", "In its text", "Row", "Position", "Id")
_OF_TOKENS = (1, 2, 4, 5)  # columns that vectors without text have nothing for
_OUTLIERS = ("Dimension", "Mean", "Standard deviation", "Times the median")
_SINKS = ("Position", "Median norm", "Times the median over all tokens")
_SINK_NOTE = (
    "Positions whose tokens are far stronger than the rest, usually the first: attention rests "
    "there when it has nothing to read. Training masks them by default."
)
_OUTLIER_NOTE = (
    "Dimensions whose mean or spread is far from the others'; a few of them often carry most of "
    "the norm."
)


class ActivationSetDialog(Dialog):
    """The page of a completed set; the plots are made with the dialog, not with the window."""

    def __init__(self, services: Services, page: SetPage, parent: QWidget | None = None) -> None:
        super().__init__(page.row.name, parent, width=1040, height_share=0.94)
        self._services, self._page = services, page
        self.box.setSpacing(appearance().px(10))
        self.box.addWidget(label(summary(page), "muted", wrap=True, selectable=True))
        self.place = Elided("small")
        self.place.set_text(str(page.folder))
        self.place.setAccessibleName("Where the files are")
        self.box.addWidget(self.place)
        self.which = Combo()
        self.which.setAccessibleName("Layer and hook")
        self.which.setToolTip("Whose statistics are shown")
        guard_wheel(self.which)
        for found in page.hooks:
            name = HOOK_TEXTS.get(found.hook, (found.hook, ""))[0]
            self.which.addItem(f"Layer {found.layer} · {name} ({found.hook})")
        self.previous = button("", self._back, icon="chevron_left", tip="Previous layer or hook")
        self.next = button("", self._on, icon="chevron_right", tip="Next layer or hook")
        chooser = (label("Layer and hook", "label"), self.which, self.previous, self.next)
        self.box.addLayout(row(*chooser, None))
        for part in chooser if is_imported(page.row) else ():
            part.hide()  # it holds one, which may be unknown
        self.tiles = {
            "tokens": MetricTile("Vectors" if is_imported(page.row) else "Tokens", color="emerald"),
            "mean": MetricTile("Mean norm", color="blue"),
            "max": MetricTile("Largest norm", color="purple"),
            "zero": MetricTile("Near zero", color="yellow"),
        }
        self.box.addLayout(row(*self.tiles.values(), spacing=12))
        self.pages = QTabWidget()
        self.plots: SetPlots
        self._add_pages()
        self.box.addWidget(self.pages, 1)
        self.add_close()
        self.which.currentIndexChanged.connect(self._show)
        self._show()

    def _add_pages(self) -> None:
        from mistudio.gui.tabs.models.set_plots import SetPlots

        self.plots = SetPlots()
        self.strongest = FigureTable(
            _STRONGEST, "Strongest tokens", numeric=(0, 3, 4, 5), stretch=2, fills=True
        )
        self.outliers = FigureTable(
            _OUTLIERS, "Outlier dimensions", numeric=range(4), stretch=-1, yields=True
        )
        self.sinks = FigureTable(
            _SINKS, "Sink positions", numeric=range(3), stretch=-1, yields=True
        )
        self.no_outliers = label("No dimension stands out here.", "label")
        self.no_sinks = label("No position stands out here.", "label")
        self.pages.addTab(self.plots, "Plots")
        known = not is_imported(self._page.row)
        for column in () if known else _OF_TOKENS:
            self.strongest.setColumnHidden(column, True)
        self.pages.addTab(_page(self.strongest), "Strongest tokens" if known else "Strongest")
        self.pages.addTab(
            _page(label(_OUTLIER_NOTE, "muted", wrap=True), self.no_outliers, self.outliers),
            "Outlier dimensions",
        )
        sinks = _page(label(_SINK_NOTE, "muted", wrap=True), self.no_sinks, self.sinks)
        self.pages.addTab(sinks, "Sink positions")
        self.pages.setTabVisible(self.pages.indexOf(sinks), known)  # vectors alone have none

    def current(self) -> HookStatistics | None:
        """The layer and hook shown."""
        position = self.which.currentIndex()
        return self._page.hooks[position] if 0 <= position < len(self._page.hooks) else None

    def _back(self) -> None:
        self.which.setCurrentIndex(max(0, self.which.currentIndex() - 1))

    def _on(self) -> None:
        self.which.setCurrentIndex(min(self.which.count() - 1, self.which.currentIndex() + 1))

    def _show(self, *told: object) -> None:
        found = self.current()
        self.previous.setEnabled(self.which.currentIndex() > 0)
        self.next.setEnabled(self.which.currentIndex() < self.which.count() - 1)
        if found is None:
            return
        self._show_tiles(found)
        self.plots.show_statistics(found)
        self.outliers.set_rows(
            [
                (f"{o.dimension:,}", f"{o.mean:.4g}", f"{o.std:.4g}", f"{o.times:,.1f}")
                for o in found.outliers
            ]
        )
        self.sinks.set_rows(
            [(f"{s.position:,}", f"{s.median_norm:.4g}", f"{s.times:,.1f}") for s in found.sinks]
        )
        for table, note, lines in (
            (self.outliers, self.no_outliers, found.outliers),
            (self.sinks, self.no_sinks, found.sinks),
        ):
            table.setVisible(bool(lines))
            note.setVisible(not lines)
        self.strongest.set_rows([])
        studio, page = self._services.studio, self._page
        self._services.query.ask(
            lambda _: activation_pages.strong_tokens(studio, page, found.layer, found.hook),
            self._on_strong,
            key="strong",
        )

    def _show_tiles(self, found: HookStatistics) -> None:
        odd = [f"{found.width:,} dimensions"]
        odd += [f"{found.non_finite:,} not finite"] if found.non_finite else []
        odd += [f"{found.clipped:,} values clipped"] if found.clipped else []
        self.tiles["tokens"].set_value(format_count(found.tokens), ", ".join(odd))
        self.tiles["mean"].set_value(f"{found.norm_mean:.4g}", f"median {found.norm_median:.4g}")
        self.tiles["max"].set_value(f"{found.norm_max:.4g}", f"smallest {found.norm_min:.4g}")
        self.tiles["zero"].set_value(
            format_percent(found.near_zero_share, 2), f"|x| < {found.near_zero_below:.3g}"
        )

    def _on_strong(self, found: list[StrongToken]) -> None:
        self.strongest.set_rows([_strong_cells(token) for token in found])


def _strong_cells(token: StrongToken) -> list[str]:
    place = token.place
    text = f"{token.text} (special)" if token.special else token.text
    around = f"{token.before[-60:].lstrip()}⟦{token.text}⟧{token.after[:60]}"
    return [
        f"{place.norm:.4g}",
        _plain(text) or EM_DASH,
        _plain(around),
        f"{place.row:,}",
        f"{place.position:,}",
        f"{place.token_id:,}",
    ]


def _plain(text: str) -> str:
    """A text in one line."""
    return text.replace("\n", "↵").replace("\t", "⇥").replace("\r", "⇤")


def summary(page: SetPage) -> str:
    """What the set is, in a line."""
    row_ = page.row
    if is_imported(row_):
        parts = [
            f"vectors of {Path(str(row_.config['path'])).name}",
            f"model {page.model}" if page.model else "",
            f"{format_count(row_.n_tokens)} vectors",
            f"stored as {(row_.dtype or EM_DASH).upper()}, {row_.container}",
            format_bytes(row_.size_bytes),
        ]
        return " · ".join(part for part in parts if part)
    rate = EM_DASH if page.tokens_per_s is None else f"{format_count(page.tokens_per_s)} tokens/s"
    parts = [
        f"model {page.model or 'deleted'} in {format_name(row_.model_format)}",
        f"text {page.dataset or 'deleted'}",
        f"{format_count(row_.n_tokens)} tokens",
        f"stored as {(row_.dtype or EM_DASH).upper()}, {row_.container}",
        format_bytes(row_.size_bytes),
        f"took {format_duration(page.seconds)} at {rate}",
        f"peak memory {format_bytes(page.peak_memory_bytes)}",
    ]
    return " · ".join(parts)


def _page(*parts: QWidget) -> QWidget:
    made = QWidget()
    box = QVBoxLayout(made)
    box.setContentsMargins(0, appearance().px(8), 0, 0)
    for part in parts:
        box.addWidget(part, int(isinstance(part, FigureTable)))
    if len(parts) > 1:
        box.addStretch(1)
    return made
