"""For every test: no display, loopback only, and nothing left behind."""

from __future__ import annotations

import gc
import itertools
import os
import threading
from collections.abc import Iterator

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import pytest_socket

from tests.helpers.hub import hf_home, hub

__all__ = ["hf_home", "hub"]

# threads that libraries keep for the life of the process
KEPT_THREADS = ("ThreadPoolExecutor", "pydev", "tqdm_monitor", "pynvml")


def pytest_runtest_setup() -> None:
    pytest_socket.socket_allow_hosts(["127.0.0.1", "::1", "localhost"], allow_unix_socket=True)


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread, a running timer or a visible window."""
    before = set(threading.enumerate())
    shows = "qtbot" in request.fixturenames or "qapp" in request.fixturenames
    if shows:
        # in the midst of destroying a widget a collection that destroys another may wait for ever
        gc.disable()
    yield
    if shows:
        _collect()
    gc.enable()
    left = [
        thread.name
        for thread in set(threading.enumerate()) - before
        if not thread.name.startswith(KEPT_THREADS) and not _ends(thread)
    ]
    assert not left, f"threads left running: {left}"
    if shows:
        _check_qt()


_collected = itertools.count(1)


def _collect() -> None:
    """What the test left in cycles; all that there is only now and then, which takes long."""
    gc.collect(2 if next(_collected) % 25 == 0 else 1)


def _ends(thread: threading.Thread) -> bool:
    if isinstance(thread, threading._DummyThread):  # one of Qt's, looked for below
        return True
    thread.join(2.0)
    return not thread.is_alive()


def _check_qt() -> None:
    from PySide6.QtCore import QEvent, QObject, QThread, QTimer
    from PySide6.QtTest import QTest
    from PySide6.QtWidgets import QApplication
    from shiboken6 import isValid

    app = QApplication.instance()
    assert isinstance(app, QApplication)
    app.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)
    shown = [w for w in app.topLevelWidgets() if isValid(w) and w.isVisible()]
    names = [f"{type(w).__name__} {w.windowTitle()!r}" for w in shown]
    for window in shown:
        window.close()
    assert not names, f"windows left open: {names}"
    # by type: isinstance would ask proxy objects of other libraries, which answer with warnings
    objects = [o for o in gc.get_objects() if issubclass(type(o), QObject) and isValid(o)]
    timers = [o for o in objects if isinstance(o, QTimer) and o.isActive()]
    # a short single shot (the plotting library defers with them) ends by itself
    ending = [t.remainingTime() for t in timers if t.isSingleShot() and t.interval() <= 100]
    if ending:
        QTest.qWait(max(ending) + 20)
        timers = [t for t in timers if isValid(t) and t.isActive()]
    owners = [type(timer.parent()).__name__ for timer in timers]
    for timer in timers:
        timer.stop()
    assert not owners, f"timers left running in: {owners}"
    own = app.thread()  # which some versions hand out as an object like any other
    threads = [
        o.objectName() for o in objects if isinstance(o, QThread) and o.isRunning() and o is not own
    ]
    assert not threads, f"Qt threads left running: {threads}"
