"""Reads pieces of a file on the Hub without storing it, going on where a connection broke."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx2

from mistudio.core.control import JobControl, Request
from mistudio.core.errors import NoAnswer, RateLimited, StudioError
from mistudio.hub import client, errors, setup
from mistudio.hub.client import RepoFacts
from mistudio.hub.errors import Subject
from mistudio.hub.fetch import Connection, Fetch

WAITS_S = (60.0, 120.0, 240.0)
SILENCE_S = 30.0
_POLL_S = 0.2


class _PausedHere(Exception):
    """The connection is given up for the time of a pause."""


class _NoRange(Exception):
    """The server refuses to begin in the middle, where there is one."""


class RangeReader:
    """Pieces of a repository's files; a context manager, for one thread at a time.

    What breaks off after some bytes goes on at once; what brings none is tried again after the
    waits. A server without ranges, or that refuses one, is read from the start, and on from there.
    """

    def __init__(
        self,
        facts: RepoFacts,
        token: str | None,
        control: JobControl,
        *,
        waits_s: tuple[float, ...] = WAITS_S,
        silence_s: float = SILENCE_S,
        waiting: Callable[[StudioError, float], object] = lambda error, left: None,
    ) -> None:
        """`waiting` hears why and for how many seconds yet, twice a second between two tries."""
        self.fetched = 0  # bytes taken from the network
        self._facts = facts
        self._token = token
        self._control = control
        self._waiting = waiting
        self._waits_s = waits_s
        self._silence_s = silence_s
        self._connection = Connection(client.open_client())
        self._fetch: Fetch | None = None  # an answer that is not read to its end
        self._path = ""
        self._place = 0  # of the next byte of that answer
        self._rest = b""  # of its last block
        self._has_ranges = True  # until the server refuses one

    def __enter__(self) -> RangeReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self._let_go()
        self._connection.close()

    def read(self, path: str, start: int, end: int) -> bytes:
        """Bytes start..end-1, which must exist.

        Raises `Cancelled`, `Offline`, `NoAnswer`, or what the Hub's refusal stands for.
        """
        if setup.is_offline():
            raise errors.offline()
        found = bytearray()
        failures = 0
        while len(found) < end - start:
            self._control.check()
            before = len(found)
            try:
                self._read_on(path, start + len(found), end, found)
            except (_PausedHere, _NoRange):
                self._let_go()
            except NoAnswer as error:
                self._let_go()
                failures = 0 if len(found) > before else failures + 1
                if failures:
                    self._wait(failures, error)
            except BaseException:
                self._let_go()
                raise
        return bytes(found)

    def _read_on(self, path: str, start: int, end: int, found: bytearray) -> None:
        fetch = self._answer(path, start, end)
        while start < end:
            block = self._rest or self._block(fetch)
            skipped = min(max(0, start - self._place), len(block))
            kept = block[skipped : skipped + end - start]
            self._place += skipped + len(kept)
            self._rest = block[skipped + len(kept) :]
            found += kept
            start += len(kept)
        if fetch.response is None or fetch.response.status_code == 206:
            if fetch.take(_POLL_S) is None and fetch.error is None:
                self._fetch = None  # read to its end: the connection serves the next piece
            self._let_go()

    def _answer(self, path: str, start: int, end: int) -> Fetch:
        if self._fetch is not None and self._path == path and self._place == start:
            return self._fetch
        self._let_go()
        facts = self._facts
        headers = client.headers_for(self._token)
        if self._has_ranges:
            headers["range"] = f"bytes={start}-{end - 1}"
        url = client.file_url(facts.kind, facts.id, facts.sha, path)
        fetch = self._fetch = Fetch(self._connection, url, headers, self._silence_s)
        self._path = path
        given_up = time.monotonic() + self._silence_s + 10
        while not fetch.wait_for_answer(_POLL_S):
            self._control.check()
            if time.monotonic() > given_up:
                raise self._silent()
        if fetch.response is None:
            raise self._broken(fetch)
        self._place = start if self._begins_there(fetch.response, path, start, headers) else 0
        return fetch

    def _begins_there(
        self, response: httpx2.Response, path: str, start: int, headers: dict[str, str]
    ) -> bool:
        """Whether the answer begins at `start`; False: at 0. Raises what a refusal stands for."""
        status, facts = response.status_code, self._facts
        if status >= 400:
            if status == 416 and self._has_ranges:
                self._has_ranges = False
                raise _NoRange
            raise errors.file_refusal(
                response,
                Subject(facts.kind, facts.id, facts.revision, path),
                had_token="authorization" in headers,
            )
        if status != 206:
            return False
        if not response.headers.get("content-range", "").startswith(f"bytes {start}-"):
            self._has_ranges = False
            raise _NoRange
        return True

    def _block(self, fetch: Fetch) -> bytes:
        silent_from = time.monotonic()
        while True:
            if setup.is_offline():
                raise errors.offline()
            if self._control.requested() is Request.PAUSE:
                raise _PausedHere
            self._control.check()
            block = fetch.take(_POLL_S)
            if block is None:
                raise self._broken(fetch)
            if block:
                self.fetched += len(block)
                return block
            if time.monotonic() - silent_from > self._silence_s:
                raise self._silent()

    def _silent(self) -> NoAnswer:
        return NoAnswer(f"No answer for {self._silence_s:.0f} s. Check the network and retry.")

    def _broken(self, fetch: Fetch) -> StudioError:
        if isinstance(fetch.error, (httpx2.HTTPError, httpx2.InvalidURL)):
            return errors.unreachable(fetch.error, setup.endpoint())
        return NoAnswer("The connection to the Hub broke off.", details=str(fetch.error or ""))

    def _wait(self, failures: int, error: NoAnswer) -> None:
        """Hold before the next try; raises the error when all were used up."""
        if failures > len(self._waits_s):
            raise error
        seconds = self._waits_s[failures - 1]
        if isinstance(error, RateLimited) and error.retry_after_s is not None:
            seconds = error.retry_after_s
        self._control.sleep(seconds, lambda left: self._waiting(error, left))

    def _let_go(self) -> None:
        fetch, self._fetch, self._rest = self._fetch, None, b""
        if fetch is not None:
            fetch.abort()
