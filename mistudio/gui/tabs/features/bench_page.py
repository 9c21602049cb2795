"""Measures how long the page of a feature takes to open: the real window, drawn off screen."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PySide6.QtCore import QEvent, QEventLoop
from PySide6.QtWidgets import QApplication

from mistudio.core.settings import SettingsFile
from mistudio.gui import style
from mistudio.gui.lanes import Lanes
from mistudio.gui.publisher import Publisher
from mistudio.gui.query_lane import QueryLane
from mistudio.gui.services import Services
from mistudio.gui.tabs.features.detail import FeatureDetail
from mistudio.jobs.bench_features import World
from mistudio.jobs.runner import Studio
from mistudio.store.records import FeatureSetRow, SaeRow

LIMIT_S = 60.0
STEPS = 60


def measure(world: World) -> list[dict[str, Any]]:
    """The measurement as `mistudio bench features` asks for it."""
    return [bench_page(*world.made_up(), pages=world.arguments.pages)]


def bench_page(
    studio: Studio, sae: SaeRow, found: FeatureSetRow, pages: int = 500, seed: int = 0
) -> dict[str, Any]:
    """Open the pages of random features, each twice, in the real window drawn off screen.

    Counted from the call that asks for the feature to the end of the paint that shows it; "filled"
    adds what is laid out below the part in view afterwards, before the next page is asked for. The
    files were put out of the system's cache before; "cold" is the first showing of a feature,
    "warm" a later one; "step" goes to the next feature after a rest, in which its page was read.
    Milliseconds.
    """
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    app = QApplication.instance() or QApplication(["mistudio"])
    assert isinstance(app, QApplication)
    style.apply(app, "dark", 14)
    chance = np.random.default_rng(seed)
    order_N = np.arange(sae.n_latents)
    chosen = chance.permutation(sae.n_latents)[:pages].tolist()
    for folder in (found.path or "", "datasets"):
        put_out_of_cache(studio.paths.home / folder)
    with bench_services(studio) as services:
        detail = _Timed(services)
        detail.show()
        _show(app, detail, sae, chosen[0], order_N)
        cold = [_show(app, detail, sae, index, order_N) for index in chosen[1:]]
        warm = [_show(app, detail, sae, index, order_N) for index in chosen[1:]]
        steps = [_step(app, detail, sae, index, order_N) for index in chosen[:STEPS]]
        detail.close()
    return {
        "measurement": "open a feature's page",
        "features": sae.n_latents,
        "tokens": found.n_tokens,
        "pages": len(cold),
        "cold_p50_ms": _percentile([one.painted for one in cold], 50),
        "cold_p95_ms": _percentile([one.painted for one in cold], 95),
        "warm_p50_ms": _percentile([one.painted for one in warm], 50),
        "warm_p95_ms": _percentile([one.painted for one in warm], 95),
        "step_p50_ms": _percentile([one.painted for one in steps], 50),
        "step_p95_ms": _percentile([one.painted for one in steps], 95),
        "warm_filled_p95_ms": _percentile([one.filled for one in warm], 95),
    }


class _Timed(FeatureDetail):
    """The window, telling which feature was painted last and when that had ended."""

    painted = -1
    painted_at = 0.0

    def event(self, event: QEvent) -> bool:
        handled = super().event(event)
        if event.type() == QEvent.Type.UpdateRequest and self.page is not None:
            self.painted, self.painted_at = self.page.row.index, time.monotonic()
        return handled


class _Shown(NamedTuple):
    """Seconds until what is in view was painted, and until what is below it was filled too."""

    painted: float
    filled: float


def _show(
    app: QApplication, detail: _Timed, sae: SaeRow, index: int, order_N: np.ndarray
) -> _Shown:
    return _painted(app, detail, index, lambda: detail.show_feature(sae, index, order_N))


def _step(
    app: QApplication, detail: _Timed, sae: SaeRow, index: int, order_N: np.ndarray
) -> _Shown:
    """To the feature beside one, when what is read ahead is read."""
    first = index if index + 1 < len(order_N) else index - 1
    _show(app, detail, sae, first, order_N)
    while not detail.ahead.is_idle():
        app.processEvents(QEventLoop.ProcessEventsFlag.WaitForMoreEvents)
    return _painted(app, detail, first + 1, detail.go_next)


def _painted(app: QApplication, detail: _Timed, index: int, ask: Callable[[], object]) -> _Shown:
    began = time.monotonic()
    detail.painted = -1
    ask()
    while detail.painted != index:
        app.processEvents(QEventLoop.ProcessEventsFlag.WaitForMoreEvents)
        if detail.problem.isVisible() or time.monotonic() - began > LIMIT_S:
            raise RuntimeError(detail.problem.text() or "the page did not open")
    painted = detail.painted_at
    while detail.examples.column.is_filling():
        app.processEvents()
    app.processEvents()  # what that changed is drawn now, not in the next page's time
    return _Shown(painted - began, time.monotonic() - began)


def put_out_of_cache(folder: Path) -> None:
    """Ask the system to forget what it holds of the files below a folder (Linux only)."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _percentile(seconds: list[float], which: int) -> float:
    return round(1000 * float(np.percentile(seconds, which)), 1)


def _nowhere(name: str, **_selection: Any) -> None:
    """Stands for the window's tabs, which a measurement has none of."""


def _silent(sentence: str, **_options: Any) -> None:
    """Stands for the window's banner."""


@contextmanager
def bench_services(studio: Any) -> Generator[Services]:
    query, network, lanes = QueryLane(studio.db), QueryLane(studio.db), Lanes(studio)
    try:
        yield Services(
            studio=studio,
            lanes=lanes,
            query=query,
            network=network,
            publisher=Publisher(),
            settings=SettingsFile(studio.paths.settings),
            open_tab=_nowhere,
            banner=_silent,
        )
    finally:
        for lane in (lanes, network, query):
            lane.join()
