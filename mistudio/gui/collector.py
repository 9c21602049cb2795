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

from PySide6.QtCore import QCoreApplication, QObject, Qt, QThread, QTimer, Signal, Slot

from mistudio.core import collecting

LOOK_MS = 200
GROWTH = 1.25  # old objects since the last full collection, before there is another
PATIENCE_S = 5.0  # that a thread waits for a collection it asks for

_holding: set[int] = set()
_collectors: list[Collector] = []  # one, from the first need to the end of the process


class Collector(QObject):
    """Looks a few times a second whether a collection is due, by Python's own thresholds."""

    _asked = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self._old = 0  # objects that the last full collection left
        self._by_itself = False  # whether Python did it before
        self._timer = QTimer(self)
        self._timer.setInterval(LOOK_MS)
        self._timer.timeout.connect(self.look)
        self._asked.connect(self._on_asked, Qt.ConnectionType.QueuedConnection)

    def start(self) -> None:
        """No collection starts by itself from now on."""
        self._by_itself = gc.isenabled()
        gc.disable()
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
        """Collect the generations that are due."""
        most, count = gc.get_threshold(), gc.get_count()
        if collecting.is_paused() or not most[0] or count[0] <= most[0]:
            return
        if count[1] <= most[1]:
            gc.collect(0)
        elif count[2] <= most[2] or len(gc.get_objects(generation=2)) <= GROWTH * self._old:
            gc.collect(1)
        else:
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
    _holding.add(id(owner))


def collect_anywhere(owner: QObject) -> None:
    """`owner` runs no other thread any more."""
    if id(owner) not in _holding:
        return
    _holding.remove(id(owner))
    if not _holding:
        _collectors[0].stop()
