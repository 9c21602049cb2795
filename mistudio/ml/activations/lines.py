"""What follows the forward passes: at once on a processor, on threads beside a GPU.

Writing, hashing and counting take longer than a GPU needs for its next pass. They let go of the
interpreter's lock, so a few threads do them while the passes go on.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Protocol

Call = Callable[[], object]
_LOOK_S = 0.1  # how often somebody who waits asks whether to go on


class Lines(Protocol):
    """Numbered lines of calls. Those of one line run in the order in which they were put."""

    @property
    def waiting_bytes(self) -> int:
        """Bytes held by calls that have not run yet."""
        ...

    def put(self, line: int, call: Call, held_bytes: int = 0) -> None:
        """Run `call` behind all others of its line; raises what an earlier call raised."""
        ...

    def wait(self, done: Callable[[], bool]) -> None:
        """Return when `done()` holds; raises what a call raised."""
        ...

    def check(self) -> None:
        """For long calls: raises if the rest is not wanted any more."""
        ...

    def close(self) -> None:
        """Run nothing more that still waits."""
        ...


class DirectLines:
    """Every call runs where it is put."""

    waiting_bytes = 0

    def __init__(self, check: Call) -> None:
        """`check` may raise, so that a long call breaks off."""
        self._check = check

    def put(self, line: int, call: Call, held_bytes: int = 0) -> None:
        """Run `call` now."""
        call()

    def wait(self, done: Callable[[], bool]) -> None:
        """Every call has run already."""

    def check(self) -> None:
        """Raises if the rest is not wanted any more."""
        self._check()

    def close(self) -> None:
        """Nothing waits."""


class ThreadLines:
    """Each line belongs to one of a few threads.

    `put` waits while calls hold more than `most_bytes`, so that memory stays bounded when the disk
    is slower than the passes. `check` is asked by whoever waits and may raise.
    """

    def __init__(self, threads: int, most_bytes: int, check: Call) -> None:
        self._waiting_bytes = 0
        self._most_bytes = most_bytes
        self._check = check
        self._failure: BaseException | None = None
        self._changed = threading.Condition()
        self._queues = [queue.SimpleQueue[tuple[Call, int] | None]() for _ in range(threads)]
        self._threads = [
            threading.Thread(target=self._work, args=(own,), name=f"shard writer {i}", daemon=True)
            for i, own in enumerate(self._queues)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting_bytes(self) -> int:
        """Bytes held by calls that have not run yet."""
        return self._waiting_bytes

    def put(self, line: int, call: Call, held_bytes: int = 0) -> None:
        """Run `call` on its line's thread once there is room; raises what an earlier one raised."""
        self.wait(
            lambda: (
                not held_bytes
                or not self._waiting_bytes
                or self._waiting_bytes + held_bytes <= self._most_bytes
            )
        )
        with self._changed:
            self._waiting_bytes += held_bytes
        self._queues[line % len(self._queues)].put((call, held_bytes))

    def wait(self, done: Callable[[], bool]) -> None:
        """Return when `done()` holds; raises what a call or the asked check raised."""
        while True:
            with self._changed:
                self.check()
                if done():
                    return
                self._changed.wait(_LOOK_S)
            self._check()

    def check(self) -> None:
        """Raises if a call failed or the lines are closed."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Skip the calls that still wait and end the threads."""
        with self._changed:
            self._failure = self._failure or RuntimeError("the lines are closed")
        for own in self._queues:
            own.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self, own: queue.SimpleQueue[tuple[Call, int] | None]) -> None:
        while (given := own.get()) is not None:
            call, held_bytes = given
            failure: BaseException | None = None
            if self._failure is None:
                try:
                    call()
                except BaseException as error:  # noqa: BLE001 - raised again where calls are put
                    failure = error
            del given, call  # what it holds is free before the next one is waited for
            with self._changed:
                self._failure = self._failure or failure
                self._waiting_bytes -= held_bytes
                self._changed.notify_all()
