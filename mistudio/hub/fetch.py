"""One GET whose bytes arrive through a queue, so that whoever waits for them can stop at once."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Mapping
from typing import Any

import httpx2

_ENDED = None


class Connection:
    """A client whose open sockets can be taken away from a thread that waits for them."""

    def __init__(self, client: httpx2.Client) -> None:
        self.client = client
        self._sockets: list[socket.socket] = []

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Told by the client of each step; keeps the sockets, as encrypted ones replace plain."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            wire = info["return_value"].get_extra_info("socket")
            if isinstance(wire, socket.socket):
                self._sockets = [s for s in self._sockets if s.fileno() >= 0] + [wire]

    def break_off(self) -> None:
        """End every open connection; whoever reads from it gets an error."""
        for wire in self._sockets:
            with contextlib.suppress(OSError):  # it may be closed already
                wire.shutdown(socket.SHUT_RDWR)
        self._sockets = []

    def close(self) -> None:
        """Let go of everything."""
        self.break_off()
        self.client.close()


class Fetch:
    """A request that runs in a thread of its own; at most a few blocks wait to be taken.

    A socket that waits for a silent server cannot be interrupted from inside; here the reader
    waits instead, and `abort` takes its socket away.
    """

    def __init__(
        self, connection: Connection, url: str, headers: Mapping[str, str], silence_s: float
    ) -> None:
        """Starts at once; `silence_s` bounds the wait for each answer of the server."""
        self.response: httpx2.Response | None = None
        self.error: Exception | None = None
        """why the answer ended before its end"""
        self._connection = connection
        self._url = url
        self._headers = dict(headers)
        self._timeout = httpx2.Timeout(silence_s, connect=min(silence_s, 10.0))
        self._blocks: queue.Queue[bytes | None] = queue.Queue(maxsize=8)
        self._answered = threading.Event()
        self._aborted = threading.Event()
        self._thread = threading.Thread(target=self._read, name="hub fetch", daemon=True)
        self._thread.start()

    def wait_for_answer(self, seconds: float) -> bool:
        """Whether the status and headers (`response`) or an `error` are there by then."""
        return self._answered.wait(seconds)

    def take(self, seconds: float) -> bytes | None:
        """The next block; b"" if none came in time, None at the end (see `error`)."""
        try:
            return self._blocks.get(timeout=seconds)
        except queue.Empty:
            return b""

    def abort(self) -> bool:
        """Break the connection; whether the thread has ended."""
        self._aborted.set()
        if self._thread.is_alive():
            self._connection.break_off()
        self._thread.join(0.3)
        return not self._thread.is_alive()

    def _read(self) -> None:
        try:
            with self._connection.client.stream(
                "GET",
                self._url,
                headers=self._headers,
                timeout=self._timeout,
                extensions={"trace": self._connection.trace},
            ) as response:
                self.response = response
                self._answered.set()
                if response.status_code < 300:
                    # as they arrive: gathering larger blocks would lose the last of a broken answer
                    for block in response.iter_raw():
                        if not self._put(block):
                            return
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, RuntimeError) as error:
            # RuntimeError: the client was closed meanwhile
            self.error = error
        finally:
            self._answered.set()
            self._put(_ENDED)

    def _put(self, block: bytes | None) -> bool:
        while not self._aborted.is_set():
            try:
                self._blocks.put(block, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False
