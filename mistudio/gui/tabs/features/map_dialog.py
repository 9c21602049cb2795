"""The map of features: near points have decoder directions alike in the two components shown."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QPointF, Qt, Signal
from PySide6.QtGui import QColor
from PySide6.QtWidgets import QComboBox, QWidget

from mistudio.core.errors import StudioError
from mistudio.core.feature_search_configs import MapFeaturesConfig
from mistudio.core.units import format_percent
from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.tabs.features.job_line import JobLine
from mistudio.gui.tabs.features.list_menu import ListButton
from mistudio.gui.theme import appearance, mix
from mistudio.gui.widgets.cards import button, label, row
from mistudio.gui.widgets.layout import guard_wheel
from mistudio.jobs import map_features
from mistudio.jobs.map_features import FeatureMap
from mistudio.store.feature_conditions import LABEL_STATES, LabelState
from mistudio.store.feature_keys import keys_of
from mistudio.store.feature_masks import satisfying
from mistudio.store.features import feature_rows
from mistudio.store.records import FeatureSetRow, SaeRow
from mistudio.store.tables import JOBS

MOST_DRAWN = 20_000  # points; of more an even sample is drawn, selection takes all
SHADES = 12
DENSITY, LABELS = range(2)
STATE_ROLES = {"none": "muted", "auto": "blue", "model": "purple", "user": "yellow"}
STATE_NAMES = {"none": "no label", "auto": "automatic", "model": "by a model", "user": "yours"}


class Shown(NamedTuple):
    """A map with what colours it; arrays are aligned with its features."""

    placed: FeatureMap
    log_density: np.ndarray
    state: np.ndarray
    """place of the label's source in `LABEL_STATES`"""


def read_map(db: Any, studio: Any, sae: SaeRow, found: FeatureSetRow) -> Shown | None:
    """The map if it was computed; called in the query thread."""
    placed = map_features.known(studio, sae)
    if placed is None:
        return None
    keys = keys_of(db, found)
    at = keys.places_of(placed.features)
    with np.errstate(divide="ignore"):
        density = np.log10(keys.values("frequency")[at])
    state = np.zeros(len(at), np.int64)
    for number, name in enumerate(LABEL_STATES):
        state[satisfying(keys, LabelState(name))[at]] = number
    return Shown(placed, density, state)


def inside(polygon_P2: np.ndarray, points_N2: np.ndarray) -> np.ndarray:
    """Which points lie in a polygon, by the parity of the edges that a ray to the right crosses."""
    found = np.zeros(len(points_N2), bool)
    x, y = points_N2[:, 0], points_N2[:, 1]
    for (x0, y0), (x1, y1) in zip(polygon_P2, np.roll(polygon_P2, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        crosses = (y0 > y) != (y1 > y)
        found ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return found


class LassoView(pg.ViewBox):
    """Dragging with the left button draws a line around points, with another one moves the map."""

    drawn = Signal(object)  # polygon [P, 2]
    clicked = Signal(object)

    def __init__(self) -> None:
        super().__init__(enableMenu=False)
        self._points: list[tuple[float, float]] = []
        self.line = pg.PlotCurveItem()
        self.addItem(self.line, ignoreBounds=True)
        self.setAspectLocked(True)

    def mouseDragEvent(self, ev: Any, axis: Any = None) -> None:
        if ev.button() != Qt.MouseButton.LeftButton:
            super().mouseDragEvent(ev, axis)
            return
        ev.accept()
        if ev.isStart():
            self._points = [self._place(ev.buttonDownPos())]
        self._points.append(self._place(ev.pos()))
        outline = np.array([*self._points, self._points[0]])
        self.line.setData(outline[:, 0], outline[:, 1])
        if ev.isFinish():
            self.drawn.emit(np.array(self._points))

    def mouseClickEvent(self, ev: Any) -> None:
        if ev.button() == Qt.MouseButton.LeftButton:
            ev.accept()
            self.clicked.emit(self._place(ev.pos()))

    def _place(self, at: Any) -> tuple[float, float]:
        point = self.mapToView(at)
        return float(point.x()), float(point.y())


class MapDialog(Dialog):
    """`opened(index)` asks for a feature, `chosen(indices)` for a table of those in the lasso."""

    opened = Signal(int)
    chosen = Signal(object)

    def __init__(
        self, services: Services, sae: SaeRow, found: FeatureSetRow, parent: QWidget | None = None
    ) -> None:
        super().__init__("Map of features", parent, width=1040, height_share=0.9, scroll=False)
        self._services, self._sae, self._set = services, sae, found
        self.shown: Shown | None = None
        self.selected: list[int] = []
        self._points_N2 = np.empty((0, 2))
        self._hovered = -1
        self._legend = ""
        self.view = LassoView()
        self.plot = pg.PlotWidget(viewBox=self.view, enableMenu=False)
        self.plot.setAccessibleName("Map of features")
        self.points = pg.ScatterPlotItem(pxMode=True, pen=None)
        self.marked = pg.ScatterPlotItem(pxMode=True)
        self.color = QComboBox()
        self.color.addItems(["Colour: density", "Colour: label"])
        self.color.setAccessibleName("What the colours show")
        self.color.setToolTip("What the colour of a point stands for")
        guard_wheel(self.color)
        self.told = label("", "small", wrap=True)
        self.under = label("", "label")
        self.problem = label("", "error", wrap=True)
        self.problem.hide()
        self.job = JobLine(services, working="running")
        self.anew = button(
            "Compute again",
            self._on_anew,
            icon="retry",
            tip="Lay the map out anew, with these settings",
        )
        self.lists = ListButton(services, self._subject, "Add to list")
        self.table_button = button(
            "Show in the table",
            self._on_table,
            variant="primary",
            icon="table",
            tip="Narrow the table to the features inside the lasso",
        )
        self._lay_out()
        self._connect()
        self._recolor()
        self._tell_selected()
        self.read()

    def _lay_out(self) -> None:
        px = appearance().px
        self.box.setContentsMargins(px(20), px(12), px(20), 0)
        self.box.setSpacing(px(8))
        self.plot.hideButtons()
        self.plot.hideAxis("left")
        self.plot.hideAxis("bottom")
        self.plot.addItem(self.points)
        self.plot.addItem(self.marked)
        top = row(self.color, self.told, self.anew)
        top.setStretch(1, 1)
        self.box.addLayout(top)
        self.box.addWidget(self.job)
        self.box.addWidget(self.problem)
        self.box.addWidget(self.plot, 1)
        self.box.addWidget(self.under)
        hint = label("Drag: lasso · click: open · wheel: zoom · right button: move", "small")
        self.buttons.insertWidget(0, hint)
        self.buttons.addWidget(self.lists)
        self.buttons.addWidget(self.table_button)
        self.add_close()

    def _connect(self) -> None:
        self.color.currentIndexChanged.connect(self._draw)
        self.view.drawn.connect(self.select_inside)
        self.view.clicked.connect(self._on_click)
        scene: Any = self.plot.scene()
        scene.sigMouseMoved.connect(self._on_moved)
        self.lists.problem.connect(self._tell_problem)
        self.lists.lists_menu.aboutToShow.connect(self.lists.read)
        self._services.lanes.finished.connect(self._on_finished)
        appearance().changed.connect(self._recolor)

    def read(self) -> None:
        """Read the map; a job makes it if there is none."""
        studio, sae, found = self._services.studio, self._sae, self._set
        self._services.query.ask(
            lambda db: read_map(db, studio, sae, found),
            self._show,
            on_error=self._on_error,
            key="map",
        )

    def _show(self, shown: Shown | None) -> None:
        if shown is None:
            self._start(anew=False)
            return
        self.shown = shown
        placed = shown.placed
        self._points_N2 = np.array([placed.xs, placed.ys]).T
        first, second = (format_percent(share) for share in placed.shares)
        total = len(placed.features)
        drawn = f", {MOST_DRAWN:,} of them drawn" if total > MOST_DRAWN else ""
        self.told.setText(
            f"{total:,} live features{drawn} by the first two principal components of their unit "
            f"decoder directions, which hold {first} and {second} of the variance: far apart here "
            f"is far apart, near here need not be near. Computed {placed.made_at[:16]} UTC."
        )
        self._draw()
        self.plot.autoRange()

    def _start(self, *, anew: bool) -> None:
        try:
            config = MapFeaturesConfig(sae=self._sae.id, anew=anew)
            job_id = self._services.submit("map_features", config)
        except StudioError as error:
            self._tell_problem(error.sentence)
            return
        self.job.show_job(JOBS.find(self._services.studio.db(), job_id))

    def _on_anew(self) -> None:
        self._start(anew=True)

    def _on_finished(self, job_id: str, state: str) -> None:
        if job_id == self.job.job_id:
            self.job.show_job(None)
            if state == "completed":
                self.read()

    def _draw(self) -> None:
        if self.shown is None:
            return
        total = len(self._points_N2)
        drawn = np.linspace(0, total - 1, min(total, MOST_DRAWN)).astype(np.int64)
        brushes, which = self._brushes()
        at = self._points_N2[drawn]
        self.points.setData(
            x=at[:, 0],
            y=at[:, 1],
            size=appearance().px(5),
            brush=[brushes[i] for i in which[drawn]],
        )

    def _brushes(self) -> tuple[list[Any], np.ndarray]:
        """The colours there are, and which of them each feature has."""
        assert self.shown is not None
        colors = appearance().colors
        if self.color.currentIndex() == LABELS:
            names = [STATE_ROLES.get(state, "emerald") for state in LABEL_STATES]
            counted = np.bincount(self.shown.state, minlength=len(LABEL_STATES))
            parts = [
                f"{counted[i]:,} {STATE_NAMES.get(state, state)} ({names[i]})"
                for i, state in enumerate(LABEL_STATES)
                if counted[i]
            ]
            self._legend = "Colour: " + ", ".join(parts)
            self._tell_selected()
            return [pg.mkBrush(colors.role(name)) for name in names], self.shown.state
        density = self.shown.log_density
        low, high = float(density.min()), float(density.max())
        share = (density - low) / max(high - low, 1e-9)
        which = np.clip((share * SHADES).astype(np.int64), 0, SHADES - 1)
        shades = [mix(colors.yellow, colors.blue, i / (SHADES - 1)) for i in range(SHADES)]
        self._legend = (
            f"Colour: from blue, fires on {100 * 10**low:.2g} % of tokens, to yellow, on "
            f"{100 * 10**high:.2g} %"
        )
        self._tell_selected()
        return [pg.mkBrush(shade) for shade in shades], which

    def select_inside(self, polygon_P2: np.ndarray) -> None:
        """Select the features in a polygon of the map."""
        if self.shown is None or len(polygon_P2) < 3:
            return
        held = inside(polygon_P2, self._points_N2)
        features = np.array(self.shown.placed.features)
        self.selected = features[held].tolist()
        at = self._points_N2[held][:MOST_DRAWN]
        self.marked.setData(x=at[:, 0], y=at[:, 1], size=appearance().px(7))
        self._tell_selected()

    def _tell_selected(self) -> None:
        count = len(self.selected)
        self.lists.setEnabled(bool(count))
        self.table_button.setEnabled(bool(count))
        self.under.setText(f"{count:,} features in the lasso" if count else self._legend)

    def _subject(self) -> tuple[str, list[int]] | None:
        return (self._sae.id, self.selected) if self.selected else None

    def _on_table(self) -> None:
        self.chosen.emit(self.selected)

    def _nearest(self, place: tuple[float, float]) -> int:
        """The feature drawn within a few pixels of a place; -1 if there is none."""
        if self.shown is None or not len(self._points_N2):
            return -1
        width, height = self.view.viewPixelSize()
        off = (self._points_N2 - np.array(place)) / np.array([width, height])
        distance = (off**2).sum(axis=1)
        best = int(distance.argmin())
        near = float(distance[best]) <= appearance().px(8) ** 2
        return int(self.shown.placed.features[best]) if near else -1

    def _on_click(self, place: tuple[float, float]) -> None:
        feature = self._nearest(place)
        if feature >= 0:
            self.opened.emit(feature)

    def _on_moved(self, at: QPointF) -> None:
        point = self.view.mapSceneToView(at)
        self.hover(self._nearest((float(point.x()), float(point.y()))))

    def hover(self, feature: int) -> None:
        """Tell what a feature is about, -1: of none."""
        if feature == self._hovered:
            return
        self._hovered = feature
        if feature < 0:
            self._tell_selected()
            return
        found = self._set
        self._services.query.ask(
            lambda db: feature_rows(db, found, [feature]), self._show_hovered, key="hover"
        )

    def _show_hovered(self, rows: list[Any]) -> None:
        if rows and rows[0].index == self._hovered:
            shown = rows[0]
            about = shown.label or f"top tokens: {shown.top_tokens}"
            percent = format_percent(shown.frequency, 2)
            self.under.setText(f"#{shown.index} · {about} · fires on {percent} of tokens")

    def _recolor(self) -> None:
        colors = appearance().colors
        self.plot.setBackground(colors.card_settings)
        self.view.line.setPen(pg.mkPen(colors.emerald, width=1))
        self.marked.setPen(pg.mkPen(colors.text, width=1))
        self.marked.setBrush(pg.mkBrush(QColor(0, 0, 0, 0)))
        self._draw()

    def _on_error(self, sentence: str, details: str) -> None:
        self._tell_problem(sentence)

    def _tell_problem(self, sentence: str) -> None:
        self.problem.setText(sentence)
        self.problem.show()
