"""Thousands of texts begun, cancelled, stopped, paused: no hook, no stuck job, no growing memory.

MISTUDIO_CYCLES says how many; 10,000 without it, about ten minutes on a quiet machine.
"""

from __future__ import annotations

import gc
import os
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from mistudio.core.configs import SteerConfig
from mistudio.core.training_configs import TrainConfig
from mistudio.jobs import lookup, sample
from mistudio.jobs.runner import Studio
from mistudio.store.tables import JOBS
from tests.helpers.studio import new_studio, run

pytestmark = pytest.mark.heavy

CYCLES = int(os.environ.get("MISTUDIO_CYCLES", "10000"))
GROWTH_MB = 48.0  # that memory may grow by from a tenth of the way to the end
LATEST_S = 0.5  # from a cancel to the end of its job
ENDED = {"completed", "cancelled"}
WAYS = ("cancel", "cancel", "cancel", "stop", "pause", "queued", "finish")


class Asked(NamedTuple):
    """A request to a running job: what, of which one, after how many seconds, and when it was."""

    what: str
    job: str
    after: float
    sent: list[float]


class Asker:
    """A second thread, as the window is to its lane: sends requests while a job runs."""

    def __init__(self, studio: Studio) -> None:
        self._studio, self._asked = studio, queue.SimpleQueue[Asked | None]()
        self._thread = threading.Thread(target=self._work, name="asker")
        self.failed: list[BaseException] = []
        self._thread.start()

    def ask(self, asked: Asked) -> None:
        self._asked.put(asked)

    def end(self) -> None:
        self._asked.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (asked := self._asked.get()) is not None:
            try:
                time.sleep(asked.after)
                if asked.what == "pause":
                    self._studio.request(asked.job, "pause")
                    time.sleep(0.002)
                asked.sent.append(time.perf_counter())
                self._studio.request(asked.job, "stop" if asked.what == "stop" else "cancel")
            except Exception as error:  # noqa: BLE001 - told by the test
                self.failed.append(error)
        self._studio.store.release()


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    """The sample's model with a small SAE of its layer 2."""
    made = new_studio(tmp_path / "data")
    sample.ensure(made)
    config = TrainConfig(
        model="sample", dataset="sample", layer=2, width=256, k=8, tokens=20_000, context=128,
        batch=512, eval_tokens=1024,
    )  # fmt: skip
    run(made, "train", config)
    yield made
    made.close()


def test_nothing_is_left_by_thousands_of_runs(
    studio: Studio,
    record_property: Callable[[str, object], None],
    request: pytest.FixtureRequest,
) -> None:
    chance = random.Random(0)
    model = lookup.model_of(studio, lookup.sae(studio, "last"))
    loaded = studio.models.get(model, studio.paths.absolute(model.path))
    modules = list(loaded.model.modules())

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)

    before, threads = hooks(), 0
    asker = Asker(studio)
    request.addfinalizer(asker.end)
    memory, late, ended = list[float](), list[float](), Counter[str]()
    begun = time.monotonic()
    process = psutil.Process()
    for cycle in range(CYCLES):
        way = chance.choice(WAYS)
        config = SteerConfig(
            feature=("3=40:add", "10=5:clamp"), unit="raw", prompt="The captain looked at the sea",
            max_tokens=2 if way == "finish" else 24, seed=cycle, time_limit=60.0,
        )  # fmt: skip
        job = studio.submit("steer", config)
        sent: list[float] = []
        if way == "queued":
            studio.request(job, "cancel")
        elif way != "finish":
            asker.ask(Asked(way, job, chance.random() * 0.03, sent))
        state = studio.execute(job)
        now = time.perf_counter()
        if sent and state == "cancelled":
            late.append(now - sent[0])
        while way not in ("queued", "finish") and not sent:
            time.sleep(0.001)  # the request came after the end
        assert state in ENDED, (cycle, way, state)
        assert JOBS.get(studio.db(), job).status == state
        assert hooks() == before, (cycle, way)
        ended[f"{way} {state}"] += 1
        if (cycle + 1) % max(1, CYCLES // 10) == 0:
            gc.collect()
            memory.append(process.memory_info().rss / 1e6)
            threads = threads or threading.active_count()
    asker.end()
    assert asker.failed == []
    stuck = JOBS.select(studio.db(), "status IN ('running', 'queued', 'paused')")
    assert stuck == []
    assert threading.active_count() <= threads
    late.sort()
    record_property("cycles", CYCLES)
    record_property("seconds", round(time.monotonic() - begun))
    record_property("ended", dict(ended))
    record_property(
        "cancel ms", [round(1000 * late[int(q * (len(late) - 1))]) for q in (0.5, 0.99, 1)]
    )
    record_property("rss MB", [round(value) for value in memory])
    assert memory[-1] - memory[0] < GROWTH_MB
    assert late[len(late) // 2] <= LATEST_S  # the slowest depends on what else the machine does
