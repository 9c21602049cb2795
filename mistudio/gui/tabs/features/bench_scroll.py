"""Measures how the feature table opens and scrolls: the real table of 131k rows, off screen."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PySide6.QtCore import QEvent, QEventLoop
from PySide6.QtWidgets import QApplication

from mistudio.core.paths import Paths
from mistudio.gui import style
from mistudio.gui.tabs.features.bench_page import LIMIT_S, bench_services
from mistudio.gui.tabs.features.feature_table import FeatureTable
from mistudio.jobs.bench_feature_parts import TABLE_ROWS
from mistudio.jobs.bench_feature_table import add_made_up
from mistudio.jobs.bench_features import World
from mistudio.jobs.runner import Studio
from mistudio.store.records import FeatureSetRow

FRAMES = 600
FRAME_S = 1 / 60
FIRST_PAINT_S = 0.2


def measure(world: World) -> list[dict[str, Any]]:
    """The measurement as `mistudio bench features` asks for it."""
    with tempfile.TemporaryDirectory(prefix="mistudio-bench-") as home:
        studio = Studio(Paths.at(Path(home)))
        try:
            return bench_scroll(studio, add_made_up(studio.db(), TABLE_ROWS))
        finally:
            studio.close()


def bench_scroll(
    studio: Studio, found: FeatureSetRow, frames: int = FRAMES
) -> list[dict[str, Any]]:
    """Open the table and scroll by one viewport per frame. Milliseconds; a frame is from the
    moving of the bar to the end of the paint.

    The first paint is that of a new window with a connection of its own: once with the sort keys
    that a set keeps, as when it is opened from day to day, and once without, as at the first
    opening after its figures were written anew.

    "scroll" paints what there is: rows that are not loaded yet show a placeholder, and their share
    is told. "scroll at 60 Hz" waits for the next frame's time, as a display does. "scroll, rows
    awaited" counts each frame until all its rows are loaded and painted.
    """
    app = QApplication.instance() or QApplication(["mistudio"])
    assert isinstance(app, QApplication)
    style.apply(app, "dark", 14)
    first = [_opened(app, studio, found, "first paint of the table")]
    with studio.db().atomic():
        studio.db().execute("DELETE FROM feature_keys")
    first.append(_opened(app, studio, found, "first paint, no sort keys kept"))
    with bench_services(studio) as services:
        table = _shown(app, services, found)
        rows = [
            _scrolled(app, table, "scroll", frames),
            _scrolled(app, table, "scroll at 60 Hz", frames, every=FRAME_S),
            _scrolled(app, table, "scroll, rows awaited", frames, awaited=True),
        ]
        table.close()
    return [*first, *rows]


def _opened(app: QApplication, studio: Studio, found: FeatureSetRow, what: str) -> dict[str, Any]:
    with bench_services(studio) as services:
        began = time.monotonic()
        table = _shown(app, services, found)
        row = {
            "measurement": what,
            "rows": table.model.rowCount(),
            "ms": round(1000 * (table.painted_at - table.asked_at), 1),
            "window_ms": round(1000 * (table.asked_at - began), 1),
            "met": table.painted_at - table.asked_at <= FIRST_PAINT_S,
        }
        table.close()
    return row


def _shown(app: QApplication, services: Any, found: FeatureSetRow) -> _Timed:
    """A new table, all of whose rows in view are painted."""
    table = _Timed(services)
    table.resize(1240, 560)
    table.show()
    app.processEvents()
    table.asked_at = time.monotonic()
    table.show_set(found)
    _wait(app, table, lambda: table.painted_at > table.asked_at and table.missing == 0)
    return table


class _Timed(FeatureTable):
    """The table, telling when its last paint had ended and how many rows it had no content for."""

    def __init__(self, services: Any) -> None:
        super().__init__(services)
        self.asked_at = self.painted_at = 0.0
        self.missing = -1
        self.seen = 0

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.UpdateRequest:
            first, last = self._in_view()
            self.seen = last - first + 1
            self.missing = sum(not self.model.has(at) for at in range(first, last + 1))
            if not self.seen:
                self.missing = -1
        handled = super().event(event)
        if event.type() == QEvent.Type.UpdateRequest:
            self.painted_at = time.monotonic()
        return handled

    def _in_view(self) -> tuple[int, int]:
        first, last = self.view.rowAt(0), self.view.rowAt(self.view.viewport().height() - 1)
        return max(first, 0), self.model.rowCount() - 1 if last < 0 else last


def _wait(app: QApplication, table: _Timed, done: Any) -> None:
    began = time.monotonic()
    while not done():
        app.processEvents(QEventLoop.ProcessEventsFlag.WaitForMoreEvents)
        if table.problem.isVisible() or time.monotonic() - began > LIMIT_S:
            raise RuntimeError(table.problem.text() or "the table was not painted")


def _scrolled(
    app: QApplication,
    table: _Timed,
    what: str,
    frames: int,
    *,
    every: float = 0.0,
    awaited: bool = False,
) -> dict[str, Any]:
    bar = table.view.verticalScrollBar()
    bar.setValue(0)
    app.processEvents()
    table.model.refresh()
    app.processEvents()
    step, took, missing, seen = table.view.viewport().height(), list[float](), 0, 0
    started, processor = time.monotonic(), time.thread_time()
    for number in range(frames):
        began = time.monotonic()
        bar.setValue(min((number + 1) * step, bar.maximum()))
        _wait(
            app,
            table,
            lambda since=began: table.painted_at > since and not (awaited and table.missing),
        )
        took.append(table.painted_at - began)
        missing += table.missing
        seen += table.seen
        while every and time.monotonic() < started + (number + 1) * every:
            app.processEvents(QEventLoop.ProcessEventsFlag.AllEvents, 1)
    spent = time.thread_time() - processor
    frame_p95 = 1000 * float(np.percentile(took, 95))
    return {
        "measurement": what,
        "frames": frames,
        "frames_per_second": round(frames / sum(took), 1),
        "p50_ms": round(1000 * float(np.percentile(took, 50)), 1),
        "p95_ms": round(frame_p95, 1),
        "window_cpu_ms": round(1000 * spent / frames, 1),
        "rows_painted": seen,
        "placeholders": missing,
        "met": frames / sum(took) >= 60,
    }
