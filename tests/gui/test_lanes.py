"""Job lanes and the query lane: order, one terminal signal, dropped answers, errors."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import QObject, QThread, Slot
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot
from shiboken6 import delete

from mistudio.core.control import JobControl
from mistudio.core.errors import Cancelled, NotFound
from mistudio.core.events import Reporter
from mistudio.gui.lanes import Lanes
from mistudio.gui.query_lane import QueryLane
from mistudio.gui.reporting import BufferedReporter, Drained
from mistudio.jobs import meaning_search
from mistudio.store.database import Store


class Script:
    """Jobs by name that do what a test says, in one lane."""

    def __init__(self, lane: str = "gpu") -> None:
        self.lane = lane
        self.queue: list[str] = []
        self.ran: list[str] = []
        self.go = threading.Event()
        self.threads: set[int] = set()

    def next_job(self, lane: str) -> str | None:
        return self.queue.pop(0) if lane == self.lane and self.queue else None

    def execute(self, job_id: str, reporter: Reporter, control: JobControl) -> str:
        self.threads.add(threading.get_ident())
        self.ran.append(job_id)
        if job_id == "bug":
            raise RuntimeError("broken on purpose")
        for step in range(1000):
            reporter.metric("training", {"step": step})
        reporter.progress(0.5, "half")
        if job_id == "long":
            try:
                while not self.go.wait(0.005):
                    control.check()
            except Cancelled:
                return "cancelled"
        return "completed"

    def request(self, job_id: str, request: str) -> None:
        return


class Seen(QObject):
    def __init__(self, lanes: Lanes) -> None:
        super().__init__()
        self.events: list[tuple[str, str]] = []
        self.steps: list[Any] = []
        self.threads: list[QThread] = []
        lanes.finished.connect(self.on_finished)
        lanes.drained.connect(self.on_drained)

    @Slot(str, str)
    def on_finished(self, job_id: str, state: str) -> None:
        self.events.append((job_id, state))
        self.threads.append(QThread.currentThread())

    @Slot(str, object)
    def on_drained(self, job_id: str, drained: Drained) -> None:
        assert not any(job == job_id for job, _ in self.events), "drained after its end"
        self.steps += [values["step"] for _, values in drained.metrics]


@pytest.fixture
def lanes_of(qapp: QApplication) -> Any:
    made: list[Lanes] = []

    def make(script: Script) -> Lanes:
        lanes = Lanes(script)
        made.append(lanes)
        return lanes

    yield make
    for lanes in made:
        lanes.join()


def test_jobs_run_in_order_and_end_once_each(lanes_of: Any, qtbot: QtBot) -> None:
    script = Script()
    script.queue = ["a", "b"]
    lanes = lanes_of(script)
    seen = Seen(lanes)
    lanes.start()
    qtbot.waitUntil(lambda: len(seen.events) == 2)
    script.queue = ["c"]
    lanes.nudge()
    qtbot.waitUntil(lambda: len(seen.events) == 3)
    assert seen.events == [("a", "completed"), ("b", "completed"), ("c", "completed")]
    assert seen.steps == list(range(1000)) * 3  # every metric, in order, none twice
    assert len(script.threads) == 1
    assert threading.get_ident() not in script.threads
    assert all(thread is lanes.thread() for thread in seen.threads)


def test_a_bug_in_a_job_leaves_the_lane_working(lanes_of: Any, qtbot: QtBot) -> None:
    script = Script("io")
    script.queue = ["bug", "after"]
    lanes = lanes_of(script)
    seen = Seen(lanes)
    told: list[str] = []
    lanes.broke.connect(lambda sentence, details: told.append(details))
    lanes.start()
    qtbot.waitUntil(lambda: len(seen.events) == 2)
    assert seen.events == [("bug", "failed"), ("after", "completed")]
    assert "broken on purpose" in told[0]


def test_a_running_job_is_cancelled_at_once(lanes_of: Any, qtbot: QtBot) -> None:
    script = Script()
    script.queue = ["long"]
    lanes = lanes_of(script)
    seen = Seen(lanes)
    lanes.start()
    qtbot.waitUntil(lambda: lanes.running() == ["long"])
    lanes.request("long", "cancel")
    qtbot.waitUntil(lambda: seen.events == [("long", "cancelled")], timeout=1000)


def test_closing_cancels_what_runs_and_leaves_the_queue(lanes_of: Any, qtbot: QtBot) -> None:
    script = Script()
    script.queue = ["long", "next"]
    lanes = lanes_of(script)
    seen = Seen(lanes)
    lanes.start()
    qtbot.waitUntil(lambda: lanes.running() == ["long"])
    lanes.close(lambda job_id: False)
    qtbot.waitUntil(lanes.is_idle)
    lanes.join()
    assert script.queue == ["next"]
    assert script.ran == ["long"]
    qtbot.waitUntil(lambda: seen.events == [("long", "cancelled")])


def test_the_buffer_keeps_the_newest_progress_and_empties() -> None:
    reporter = BufferedReporter()
    reporter.progress(0.1, "a")
    reporter.progress(0.2, "b", rate="3/s", eta_s=4.0)
    reporter.note("careful", level="warning")
    reporter.partial("baseline", "text")
    taken = reporter.drain()
    assert taken.progress is not None
    assert (taken.progress.fraction, taken.progress.phase) == (0.2, "b")
    assert taken.notes[0].level == "warning"
    assert taken.partials == [("baseline", "text")]
    assert not reporter.drain()


class Asker(QObject):
    def __init__(self) -> None:
        super().__init__()
        self.answers: list[Any] = []
        self.errors: list[str] = []

    @Slot(object)
    def on_answer(self, answer: Any) -> None:
        self.answers.append(answer)

    def on_error(self, sentence: str, details: str) -> None:
        self.errors.append(sentence)


@pytest.fixture
def query(qapp: QApplication) -> Any:
    lane = QueryLane(lambda: {"thread": threading.get_ident()})
    yield lane
    lane.join()


def test_a_question_is_answered_in_this_thread(query: QueryLane, qtbot: QtBot) -> None:
    asker = Asker()
    query.ask(lambda db: db["thread"], asker.on_answer)
    qtbot.waitUntil(query.is_idle)
    assert asker.answers[0] != threading.get_ident()


def test_questions_share_a_connection_and_an_encoder(
    tmp_path: Path, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's thread-local values do not outlast a call into a thread of Qt's."""
    store = Store(tmp_path / "mistudio.db", tmp_path / "backups")
    made: list[Path] = []
    monkeypatch.setattr("mistudio.ml.embedding.Encoder", lambda folder: made.append(folder) or made)
    lane, asker = QueryLane(store.db), Asker()
    for _ in range(3):
        lane.ask(lambda db: (db, meaning_search._encoder(tmp_path)), asker.on_answer)
        qtbot.waitUntil(lane.is_idle)
    lane.join()
    connections = {id(db) for db, _ in asker.answers}
    assert len(connections) == 1
    assert id(store.db()) not in connections
    assert made == [tmp_path]
    store.close()


def test_the_newest_question_of_a_key_wins(query: QueryLane, qtbot: QtBot) -> None:
    asker, ran = Asker(), []
    hold = threading.Event()
    query.ask(lambda db: hold.wait(5), asker.on_answer)
    for number in range(20):
        query.ask(lambda db, n=number: ran.append(n) or n, asker.on_answer, key="search")
    hold.set()
    qtbot.waitUntil(query.is_idle)
    assert asker.answers == [True, 19]
    assert ran == [19]  # the replaced ones were not even run


def test_an_answer_for_a_destroyed_receiver_is_dropped(query: QueryLane, qtbot: QtBot) -> None:
    asker, other, hold = Asker(), Asker(), threading.Event()
    query.ask(lambda db: hold.wait(5), asker.on_answer)
    query.ask(lambda db: 2, other.on_answer)
    delete(asker)
    hold.set()
    qtbot.waitUntil(query.is_idle)
    assert asker.answers == []
    assert other.answers == [2]


def test_errors_reach_the_asker_or_the_banner(query: QueryLane, qtbot: QtBot) -> None:
    def missing(db: Any) -> None:
        raise NotFound("There is no dataset x.")

    asker, banner = Asker(), []
    query.failed.connect(lambda sentence, details: banner.append((sentence, details)))
    query.ask(missing, asker.on_answer, on_error=asker.on_error)
    query.ask(lambda db: 1 / 0, asker.on_answer)
    qtbot.waitUntil(query.is_idle)
    assert asker.errors == ["There is no dataset x."]
    assert asker.answers == []
    assert len(banner) == 1
    assert "ZeroDivisionError" in banner[0][1]


def test_only_methods_of_qobjects_may_receive(query: QueryLane) -> None:
    class Plain:
        def on_answer(self, answer: Any) -> None:
            return

    plain = Plain()
    with pytest.raises(TypeError, match="QObject"):
        query.ask(lambda db: 1, plain.on_answer)
