"""Short reads of the database off the window's thread, with the answer delivered back into it."""

from __future__ import annotations

import itertools
import logging
import threading
import traceback
import weakref
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from PySide6.QtCore import QObject, QThread, Signal, Slot
from shiboken6 import isValid

from mistudio.core.errors import StudioError
from mistudio.gui.collector import collect_anywhere, collect_here

log = logging.getLogger(__name__)


class _Question(NamedTuple):
    ticket: int
    function: Callable[[Any], Any]
    key: Hashable


class _QueryWorker(QObject):
    """Runs questions in the query thread; those that a newer one replaced are skipped."""

    answered = Signal(int, object)
    failed = Signal(int, str, str)

    def __init__(self, open_database: Callable[[], Any], is_current: Callable[[_Question], bool]):
        super().__init__()
        self._open_database = open_database
        self._is_current = is_current

    @Slot(object)
    def run(self, question: _Question) -> None:
        if not self._is_current(question):
            self.answered.emit(question.ticket, None)
            return
        try:
            answer = question.function(self._open_database())
        except StudioError as error:
            self.failed.emit(question.ticket, error.sentence, error.details)
        except Exception as error:
            log.exception("a query failed")
            details = "".join(traceback.format_exception(error))
            self.failed.emit(question.ticket, f"Reading failed: {error}", details)
        else:
            self.answered.emit(question.ticket, answer)


class QueryLane(QObject):
    """Asks questions of the database in its own thread.

    `open_database` is called in that thread and gives its connection (`Studio.db`).
    `failed(sentence, details)` is emitted for errors whose asker named no error slot.
    """

    failed = Signal(str, str)
    _asked = Signal(object)

    def __init__(
        self,
        open_database: Callable[[], Any],
        parent: QObject | None = None,
        *,
        name: str = "query lane",
        at_once: bool = True,
    ) -> None:
        """With `at_once=False` questions wait until `start`."""
        super().__init__(parent)
        self._tickets = itertools.count(1)
        self._waiting: dict[int, tuple[Hashable, Any, Any]] = {}
        self._newest: dict[Hashable, int] = {}
        self._lock = threading.Lock()
        self._thread = QThread(self)
        self._thread.setObjectName(name)
        self._worker = _QueryWorker(open_database, self._is_current)
        self._worker.moveToThread(self._thread)
        self._asked.connect(self._worker.run)
        self._worker.answered.connect(self._on_answered)
        self._worker.failed.connect(self._on_failed)
        if at_once:
            self.start()

    def start(self) -> None:
        """Begin to answer."""
        collect_here(self)
        self._thread.start()

    def ask(
        self,
        function: Callable[[Any], Any],
        receiver: Callable[[Any], object],
        *,
        on_error: Callable[[str, str], object] | None = None,
        key: str = "",
    ) -> None:
        """Run `function(db)` in the query thread and pass its result to `receiver` in this one.

        `receiver` (and `on_error(sentence, details)`) must be bound methods of a QObject: the
        answer is dropped if it is gone by then. With a `key`, a newer question of the same
        receiver and key replaces the older one, whose answer is dropped.
        """
        ticket = next(self._tickets)
        method = weakref.WeakMethod(receiver)  # type: ignore[arg-type]
        owner = getattr(receiver, "__self__", None)
        if not isinstance(owner, QObject):
            raise TypeError("the receiver of an answer must be a method of a QObject")
        error_method = None if on_error is None else weakref.WeakMethod(on_error)  # type: ignore[arg-type]
        group: Hashable = (id(owner), key) if key else ticket
        with self._lock:
            self._newest[group] = ticket
        self._waiting[ticket] = (group, method, error_method)
        self._asked.emit(_Question(ticket, function, group))

    def is_idle(self) -> bool:
        """Whether every question has been answered."""
        return not self._waiting

    def _is_current(self, question: _Question) -> bool:
        with self._lock:
            return self._newest.get(question.key) == question.ticket

    def _take(self, ticket: int) -> tuple[bool, Any, Any]:
        """Whether the answer is still wanted, and who takes it."""
        if ticket not in self._waiting:  # the lane was joined meanwhile
            return False, None, None
        group, method, error_method = self._waiting.pop(ticket)
        with self._lock:
            current = self._newest.get(group) == ticket
            if current:
                del self._newest[group]
        return current, _alive(method), None if error_method is None else _alive(error_method)

    @Slot(int, object)
    def _on_answered(self, ticket: int, answer: object) -> None:
        current, receiver, _ = self._take(ticket)
        if current and receiver is not None:
            receiver(answer)

    @Slot(int, str, str)
    def _on_failed(self, ticket: int, sentence: str, details: str) -> None:
        current, _, on_error = self._take(ticket)
        if current and on_error is not None:
            on_error(sentence, details)
        elif current:
            self.failed.emit(sentence, details)

    def join(self) -> None:
        """End the thread after the question under way; open ones go unanswered."""
        self._thread.quit()
        self._thread.wait()
        self._waiting.clear()
        self._newest.clear()
        collect_anywhere(self)


def _alive(method: Any) -> Any:
    """The bound method of a weak one, None if its QObject is gone."""
    bound = method()
    return bound if bound is not None and isValid(bound.__self__) else None
