"""Pause, stop and cancel requests that reach a busy worker: plain events, never queued slots."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import Enum

from mistudio.core.errors import Cancelled, Left


class Request(Enum):
    """What the user last asked of a running job."""

    NONE = "none"  # go on
    PAUSE = "pause"  # hold at a safe point (a training writes a checkpoint and ends its turn)
    STOP = "stop"  # finish early and keep a usable result
    CANCEL = "cancel"  # end without a result


class JobControl:
    """Requests to one running job; any thread may set them, the job reads them once per step."""

    def __init__(self, poll: Callable[[], Request] | None = None) -> None:
        """`poll` is asked at most every 0.3 s for requests made by other processes."""
        self._lock = threading.Lock()
        self._request = Request.NONE
        self._save = False
        self._hurry = threading.Event()
        self._leaving = False
        self._changed = threading.Event()
        self._poll = poll
        self._polled_at = 0.0

    def ask(self, request: Request) -> None:
        """Record a request. A cancel is never withdrawn; a stop only by a cancel."""
        with self._lock:
            if self._request is Request.CANCEL:
                return
            if self._request is Request.STOP and request is not Request.CANCEL:
                return
            self._request = request
        self._changed.set()

    def pause(self) -> None:
        """Ask the job to hold at its next safe point."""
        self.ask(Request.PAUSE)

    def resume(self) -> None:
        """Let a held job go on."""
        self.ask(Request.NONE)

    def stop(self) -> None:
        """Ask the job to finish early with a usable result."""
        self.ask(Request.STOP)

    def cancel(self) -> None:
        """Ask the job to end without a result."""
        self.ask(Request.CANCEL)

    def leave(self) -> None:
        """End the job because the program closes: `check` raises `Left`, a kind of `Cancelled`."""
        self._leaving = True
        self.cancel()

    @property
    def is_leaving(self) -> bool:
        """Whether the job was ended by the closing program, not by the user."""
        return self._leaving

    def save_now(self) -> None:
        """Ask a training for a checkpoint at its next step."""
        self._save = True

    def take_save(self) -> bool:
        """Whether a checkpoint was asked for since the last call."""
        asked, self._save = self._save, False
        return asked

    def hurry(self) -> None:
        """End the waiting of a job that is in `sleep`: try again now."""
        self._hurry.set()

    def sleep(self, seconds: float, tick: Callable[[float], object] | None = None) -> None:
        """Wait before another try; `tick` gets the seconds left, about twice a second.

        Ends early after `hurry`; raises `Cancelled` as `check` does.
        """
        self._hurry.clear()
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check()
            if tick is not None:
                tick(left)
            if self._hurry.wait(min(0.5, left)):
                return

    def requested(self) -> Request:
        """The request in force, including one from another process."""
        if self._poll is not None and time.monotonic() - self._polled_at > 0.3:
            self._polled_at = time.monotonic()
            foreign = self._poll()
            if foreign is not Request.NONE:
                self.ask(foreign)
        return self._request

    def check(self) -> None:
        """Call once per step, batch or file: waits while paused, raises `Cancelled` if cancelled.

        A stop is treated as a cancel by jobs that know no early finish; those that do read
        `requested()` themselves.
        """
        while (request := self.requested()) is Request.PAUSE:
            self._changed.clear()
            if self._request is Request.PAUSE:
                self._changed.wait(0.2)
        if request in (Request.CANCEL, Request.STOP):
            raise Left if self._leaving else Cancelled


class ControlView(JobControl):
    """Another reading of the same requests; what is asked goes to the one within."""

    def __init__(self, inner: JobControl) -> None:
        super().__init__()
        self._inner = inner

    def ask(self, request: Request) -> None:
        self._inner.ask(request)

    def save_now(self) -> None:
        self._inner.save_now()

    def take_save(self) -> bool:
        return self._inner.take_save()

    def hurry(self) -> None:
        self._inner.hurry()

    def leave(self) -> None:
        self._inner.leave()

    @property
    def is_leaving(self) -> bool:
        return self._inner.is_leaving

    def sleep(self, seconds: float, tick: Callable[[float], object] | None = None) -> None:
        self._inner.sleep(seconds, tick)


class EndsTurn(ControlView):
    """For a job that ends its turn on a pause: `check` raises `Cancelled` on any request."""

    def requested(self) -> Request:
        return self._inner.requested()

    def check(self) -> None:
        if self.requested() is not Request.NONE:
            raise Cancelled


class HoldsInPlace(ControlView):
    """For a job inside another one: a pause is waited out, so that it never shows.

    What does show as a pause is a program that closes: the job holds at its next safe point, from
    which it can go on by itself.
    """

    def requested(self) -> Request:
        while self._inner.requested() is Request.PAUSE:
            time.sleep(0.1)
        found = self._inner.requested()
        return Request.PAUSE if self._inner.is_leaving else found

    def check(self) -> None:
        if self.requested() is not Request.NONE:
            raise Cancelled
