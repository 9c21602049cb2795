"""Goes through the real window as a user would, and writes down what it measured.

Started by `mistudio bench window` in a process of its own, through an environment variable that
names a plan (JSON); otherwise never loaded.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QCoreApplication, QEvent, QObject, QTimer, Slot

from mistudio.core.atomic import write_json
from mistudio.gui.actions import TAB_NAMES
from mistudio.gui.heartbeat import Heartbeat
from mistudio.gui.paint_counter import PaintCounter
from mistudio.gui.theme import appearance
from mistudio.store.tables import JOBS, TRAININGS
from mistudio.system.process import resident_bytes
from mistudio.system.run_queue import ProcessorTurns, threads_named

if TYPE_CHECKING:
    from mistudio.gui.main_window import MainWindow

Script = Generator[Any, None, None]  # yields seconds, or a function that must become true
LOOK_MS = 20
PATIENCE_S = 900.0
ROUNDS = 4
LANE_THREADS = ("gpu lane", "io lane")
FIRST_LOAD = "first load of torch"  # the job is taken, its lane imports what it needs


class WindowBench(QObject):
    """Runs the plan's script; each yield waits while the event loop goes on."""

    def __init__(self, window: MainWindow, plan: Path) -> None:
        super().__init__(window)
        self._window = window
        self._plan: dict[str, Any] = json.loads(plan.read_text(encoding="utf-8"))
        self.found: dict[str, Any] = {"profile": "remote" if appearance().remote else "local"}
        self._painted_at = 0.0
        self._script: Script = getattr(self, f"_{self._plan['script']}")()
        self._until: Callable[[], object] = lambda: True
        self._since = time.monotonic()
        self._timer = QTimer(self)
        self._timer.setInterval(LOOK_MS)
        self._timer.timeout.connect(self._look)
        window.installEventFilter(self)
        self._timer.start()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Lets the window paint first, then notes when that had ended."""
        if event.type() == QEvent.Type.UpdateRequest and watched is self._window:
            self._window.removeEventFilter(self)
            QCoreApplication.sendEvent(self._window, event)
            self._window.installEventFilter(self)
            if not self._window.pacer.is_holding():
                self._painted_at = time.monotonic()
            return True
        return False

    @Slot()
    def _look(self) -> None:
        if not self._until():
            if time.monotonic() - self._since > PATIENCE_S:
                self._end("something did not come about in time")
            return
        try:
            wait = next(self._script)
        except StopIteration:
            self._end()
        except Exception as error:  # noqa: BLE001 - told to who started the measurement
            self._end("".join(traceback.format_exception(error)))
        else:
            self._since = time.monotonic()
            self._until = wait if callable(wait) else _after(self._since + float(wait))

    def _end(self, problem: str = "") -> None:
        self._timer.stop()
        write_json(Path(self._plan["report"]), {**self.found, "problem": problem})
        self._window.end_without_asking()

    def _is_calm(self) -> bool:
        """Painted, and nothing asked for is still on its way."""
        return bool(self._painted_at) and self._window.query.is_idle()

    def _open(self) -> Script:
        """Nothing but the window and all its tabs."""
        yield self._is_calm
        yield self._window.tabs.is_complete

    def _start(self) -> Script:
        """From the start of the process to an idle window, its memory, then the tabs."""
        yield self._is_calm
        self.found["first_paint_s"] = round(self._painted_at - self._plan["began"], 3)
        self.found["usable_s"] = round(time.monotonic() - self._plan["began"], 3)
        self.found["processor_s"] = round(sum(os.times()[:2]), 3)
        yield self._window.tabs.is_complete
        self.found["tabs_built_s"] = round(time.monotonic() - self._plan["began"], 3)
        yield 5.0
        self.found["idle_memory_mb"] = round(resident_bytes() / 1e6, 1)
        self.found["torch_loaded"] = "torch" in sys.modules
        yield from self._idle()
        yield from self._tabs()
        yield 2.0
        self.found["visited_memory_mb"] = round(resident_bytes() / 1e6, 1)
        self.found["torch_loaded"] |= "torch" in sys.modules

    def _idle(self) -> Script:
        counter = PaintCounter(self._window)
        counter.start()
        yield float(self._plan["idle_s"])
        self.found["idle"] = counter.stop()

    def _tabs(self) -> Script:
        """Each tab once for the first time, then again; milliseconds to the end of its paint."""
        first: dict[str, float] = {}
        again: dict[str, list[float]] = {name: [] for name in TAB_NAMES}
        for number in range(ROUNDS + 1):
            for name in (*TAB_NAMES[1:], TAB_NAMES[0]):
                began, self._painted_at = time.monotonic(), 0.0
                self._window.pacer.stir()  # as the key would that the user presses
                self._window.tabs.show_tab(name)
                yield lambda: bool(self._painted_at)
                took = round(1000 * (self._painted_at - began), 1)
                if number:
                    again[name].append(took)
                else:
                    first[name] = took
                yield lambda: self._window.query.is_idle()
                yield 0.3
        self.found["tab_first_ms"] = first
        self.found["tab_again_ms"] = {name: max(values) for name, values in again.items()}

    def _load(self) -> Script:
        """The sample's whole path beside a download, while the user goes from tab to tab."""
        from mistudio.core.configs import DemoConfig  # a start does not need them
        from mistudio.core.model_configs import DownloadModelConfig

        yield self._is_calm
        yield self._window.tabs.is_complete  # building them is measured as their first visit
        yield 1.0
        services = self._window.services
        wanted = DownloadModelConfig(repo=self._plan["repo"])
        download = services.submit("download_model", wanted)
        job = services.submit("demo", DemoConfig(tokens=int(self._plan["tokens"])))
        beats: dict[str, list[dict[str, float]]] = {}
        turns = ProcessorTurns([os.getpid(), *threads_named(LANE_THREADS)])
        heartbeat = Heartbeat(self, turns=turns)
        phase, place, beside = FIRST_LOAD, 0, set[str]()
        heartbeat.start()
        db = services.studio.db()
        while (row := JOBS.get(db, job)).status in ("queued", "running"):
            now = FIRST_LOAD if row.status == "queued" else _phase(row.phase)
            if now != phase:
                beats.setdefault(phase, []).append(heartbeat.summary())
                phase = now
                heartbeat.start()
            if (fetched := JOBS.get(db, download)).status == "running":
                beside.add(phase)
            elif fetched.status != "queued":  # it ended before the jobs: once more
                download = services.submit("download_model", wanted)
            place = (place + 1) % len(TAB_NAMES)
            self._window.tabs.show_tab(TAB_NAMES[place])
            yield 1.0
        beats.setdefault(phase, []).append(heartbeat.summary())
        heartbeat.stop()
        turns.close()
        gaps = {name: joined(parts) for name, parts in beats.items()}
        self.found["job"] = row.status
        self.found["gaps"] = gaps
        self.found["first_load"] = gaps.get(FIRST_LOAD)
        self.found["rest"] = joined(
            [gaps[name] for name in gaps if name != FIRST_LOAD] or [Heartbeat().summary()]
        )
        self.found["longest_in"] = max(gaps, key=lambda name: gaps[name]["max_ms"])
        self.found["download_beside"] = [name for name in gaps if name in beside]
        self.found["memory_mb"] = round(resident_bytes() / 1e6, 1)
        yield from self._drop_downloads()

    def _drop_downloads(self) -> Script:
        lanes = self._window.lanes
        for job in lanes.running():
            lanes.request(job, "cancel")
        yield lanes.is_idle

    def _training(self) -> Script:
        """What a running training repaints: the tab in view, its live curves open."""
        from mistudio.core.training_configs import TrainConfig

        yield self._is_calm
        services = self._window.services
        self._window.tabs.show_tab("Training")
        config = TrainConfig(
            model="sample", dataset="sample", layer=2, width=1024, k=32,
            tokens=int(self._plan["tokens"]), eval_tokens=1024, name="bench",
        )  # fmt: skip
        job = services.submit("train", config)
        db = services.studio.db()
        yield lambda: bool(TRAININGS.select(db, "current_step > 5 AND status = 'training'"))
        run = TRAININGS.select(db, "status = 'training'")[0].id
        tab = self._window.tabs.tab("Training")
        assert tab is not None
        tab.select(run=run)
        yield 1.0
        card = tab.runs.list.cards[run]  # type: ignore[attr-defined]
        card.open_pane("metrics")
        tab.runs.list.select(run)  # type: ignore[attr-defined]
        yield 5.0
        counter = PaintCounter(self._window)
        counter.start()
        yield float(self._plan["idle_s"])
        self.found["training"] = counter.stop()
        self._window.lanes.request(job, "cancel")
        yield self._window.lanes.is_idle


def _phase(told: str | None) -> str:
    return (told or "starting").partition(":")[0]


def joined(parts: list[dict[str, float]]) -> dict[str, float]:
    """Of several stretches: what is counted of all together, the worst of the other figures."""
    return {
        name: (max if name.endswith("_ms") else sum)(part[name] for part in parts)
        for name in parts[0]
    }


def _after(moment: float) -> Callable[[], bool]:
    return lambda: time.monotonic() >= moment
