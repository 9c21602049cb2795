"""Collects Python's cyclic garbage in the window's thread, between events, and nowhere else.

Python collects wherever an object happens to be made, and destroys the widgets and signals that a
closed dialog left in a cycle. In a lane's thread Qt does not allow that, and with PySide6 6.8 both
threads can wait for each other for ever: one holds Qt's lock of a signal and waits for the
interpreter's, the other the reverse. In the window's own thread it may happen while Qt destroys
another object, under a lock that the two share, which then waits for itself.
"""

from __future__ import annotations

import gc
import threading
import time

from PySide6.QtCore import QCoreApplication, QObject, Qt, QThread, QTimer, Signal, Slot

from mistudio.core import collecting

LOOK_MS = 100
FULL_S = 30.0  # least time between two looks whether a full collection is due
GROWTH = 1.25  # of the old objects since the last full one, before there is another
BUSY_GROWTH = 4.0  # the same while jobs or questions are under way: it may take a tenth of a second
PATIENCE_S = 5.0  # that a thread waits for a collection it asks for

_holding: list[QObject] = []
_collectors: list[Collector] = []  # one, from the first need to the end of the process


class Collector(QObject):
    """Looks a few times a second whether a collection is due, by Python's own thresholds."""

    _asked = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self._old = 0  # objects that the last full collection left
        self._next_full = 0.0
        self._by_itself = False  # whether Python did it before
        self._timer = QTimer(self)
        self._timer.setInterval(LOOK_MS)
        self._timer.timeout.connect(self.look)
        self._asked.connect(self._on_asked, Qt.ConnectionType.QueuedConnection)

    def start(self) -> None:
        """No collection starts by itself from now on."""
        self._by_itself = gc.isenabled()
        gc.disable()
        # what there is at a start is no garbage, and looking through it would be felt
        self._old = len(gc.get_objects(generation=2))
        self._next_full = time.monotonic() + FULL_S
        self._timer.start()
        collecting.collect_by(self.ask)

    def stop(self) -> None:
        """Leave it as it was found; what is due is collected here, where nothing is destroyed."""
        collecting.collect_by(None)
        self._timer.stop()
        if self._by_itself:
            gc.collect(1)
            gc.enable()

    @Slot()
    def look(self) -> None:
        """Collect what is young, if some is due, and seldom all.

        What survives is old at once: what is made within a tenth of a second takes some hundredths
        of a second to look through, and would take ten times as long if it were left to pile up.
        """
        most, count = gc.get_threshold(), gc.get_count()
        if collecting.is_paused() or not most[0] or count[0] <= most[0]:
            return
        gc.collect(1)
        if count[2] > most[2] and time.monotonic() >= self._next_full:
            self._next_full = time.monotonic() + FULL_S
            growth = GROWTH if all(_is_idle(owner) for owner in _holding) else BUSY_GROWTH
            if len(gc.get_objects(generation=2)) > growth * self._old:
                self._collect_all()

    def ask(self) -> None:
        """Collect all now, in the window's thread, from whatever thread; waits until it is done."""
        if QThread.currentThread() is self.thread():
            self._collect_all()
            return
        done = threading.Event()
        self._asked.emit(done)
        done.wait(PATIENCE_S)  # a window that is being closed may not answer

    @Slot(object)
    def _on_asked(self, done: threading.Event) -> None:
        self._collect_all()
        done.set()

    def _collect_all(self) -> None:
        gc.collect()
        self._old = len(gc.get_objects(generation=2))


def collect_here(owner: QObject) -> None:
    """From now on garbage is collected in this thread, the window's; `owner` runs another one."""
    app = QCoreApplication.instance()
    assert app is not None
    assert QThread.currentThread() is app.thread()
    if not _collectors:
        _collectors.append(Collector())
    if not _holding:
        _collectors[0].start()
    if not any(one is owner for one in _holding):
        _holding.append(owner)


def collect_anywhere(owner: QObject) -> None:
    """`owner` runs no other thread any more."""
    left = [one for one in _holding if one is not owner]
    if len(left) == len(_holding):
        return
    _holding[:] = left
    if not left:
        _collectors[0].stop()


def _is_idle(owner: QObject) -> bool:
    asked = getattr(owner, "is_idle", None)
    return asked is None or bool(asked())
