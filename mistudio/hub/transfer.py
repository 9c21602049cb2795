"""Fills a part file over the network: resumes, waits and tries again, yields to requests."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import httpx2

from mistudio.core.control import JobControl, Request
from mistudio.core.disk_room import free_bytes, reserved_bytes
from mistudio.core.errors import DiskFull, NoAnswer, RateLimited, StudioError, from_os_error
from mistudio.core.events import Reporter
from mistudio.core.units import format_bytes
from mistudio.hub import errors, setup
from mistudio.hub.client import open_client
from mistudio.hub.errors import Subject
from mistudio.hub.fetch import Connection, Fetch
from mistudio.hub.part_file import PartFile
from mistudio.hub.progress import Progress

_LOOK_S = 0.1
_SMALL_GAIN = 65_536


@dataclass(frozen=True)
class Patience:
    """How long a download waits, in seconds."""

    silence_s: float = 30.0
    """without a byte before a try counts as failed"""
    waits_s: tuple[float, ...] = (60.0, 120.0, 240.0)
    """before the next tries; after the last one the download fails"""
    breath_s: float = 1.0
    """before going on after a connection that broke almost at once"""
    disk_period_s: float = 1.0
    """between two looks at the free disk"""


class Broken(NoAnswer):
    """The connection ended before the file did."""


class Transfer:
    """The network side of one download: one client, one file at a time."""

    def __init__(
        self,
        headers: Mapping[str, str],
        report: Reporter,
        control: JobControl,
        progress: Progress,
        patience: Patience,
        hold: Callable[[], object],
    ) -> None:
        self.fetched_bytes = 0
        self._headers = dict(headers)
        self._report = report
        self._control = control
        self._progress = progress
        self._patience = patience
        self._hold = hold
        self._connection: Connection | None = None
        self._without_ranges: set[str] = set()
        self._disk_seen_at = float("-inf")

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def fill(self, part: PartFile, url: str, subject: Subject) -> None:
        """Fetch what is missing of a part file.

        Raises `NoAnswer` (also `RateLimited`) after the last try, other errors of the Hub at once,
        `DiskFull` if nobody holds the job when the disk is full, `Cancelled`.
        """
        tries, best = 0, part.position
        while not part.is_full:
            if self._control.requested() is Request.PAUSE:
                self._progress.phase(f"Paused; {self._progress.done_text} are kept")
            self._control.check()
            try:
                self._attempt(part, url, subject)
                continue  # full, held, or to be started again
            except NoAnswer as failure:
                gained, best = part.position - best, max(best, part.position)
                if gained > 0:
                    tries = 0
                if isinstance(failure, Broken) and gained > 0:
                    if gained < _SMALL_GAIN:
                        self._control.sleep(self._patience.breath_s)
                    continue
                if tries >= len(self._patience.waits_s):
                    raise
                self._wait(failure, self._patience.waits_s[tries])
                tries += 1

    def _wait(self, failure: NoAnswer, seconds: float) -> None:
        if isinstance(failure, RateLimited) and failure.retry_after_s is not None:
            seconds = failure.retry_after_s
        self._report.note(f"{failure.sentence} Trying again in {seconds:.0f} s.", level="warning")
        self._progress.still()
        self._control.sleep(
            seconds, lambda left: self._progress.phase(f"Waiting {left:.0f} s to try again")
        )

    def _attempt(self, part: PartFile, url: str, subject: Subject) -> None:
        """One request; returns when the part is full or the request was broken off on purpose."""
        self._require_network()
        if self._disk_is_low(part):
            return
        headers = dict(self._headers)
        if part.position and url in self._without_ranges:
            self._start_again(part)
        if part.position:
            headers["range"] = f"bytes={part.position}-"
        self._connection = self._connection or Connection(open_client())
        fetch = Fetch(self._connection, url, headers, self._patience.silence_s)
        try:
            while not fetch.wait_for_answer(_LOOK_S):
                self._require_network()
                if self._is_asked():
                    return
            if fetch.response is None:
                raise self._failed(fetch, part)
            if self._accepts(fetch.response, part, url, subject):
                self._receive(fetch, part)
        finally:
            self._progress.still()
            if not fetch.abort():
                self._connection = None  # its thread still waits for a name or a connection

    def _accepts(
        self, response: httpx2.Response, part: PartFile, url: str, subject: Subject
    ) -> bool:
        """Whether the answer's body continues the part; False: ask again from the beginning."""
        status = response.status_code
        if part.position and status == 416:
            self._without_ranges.add(url)
            self._start_again(part)
            return False
        if status == 206:
            said = response.headers.get("content-range", "")
            if said.startswith(f"bytes {part.position}-"):
                return True
            self._without_ranges.add(url)
            self._start_again(part)
            return False
        if status == 200:
            if part.position:
                said = response.headers.get("content-length", "")
                if said and said != str(part.file.size):
                    # a page that some network shows instead: what has arrived is not given up
                    raise NoAnswer("What came is another file. Check the network.")
                self._without_ranges.add(url)
                self._start_again(part)
            return True
        raise errors.file_refusal(response, subject, had_token="authorization" in self._headers)

    def _start_again(self, part: PartFile) -> None:
        lost = format_bytes(part.position)
        part.restart()
        self._progress.at(part.file.path, 0)
        self._report.note(
            f"The server cannot go on in the middle of a file; {part.file.path} starts again "
            f"({lost} lost).",
            level="warning",
        )

    def _receive(self, fetch: Fetch, part: PartFile) -> None:
        while not part.is_full:
            self._require_network()
            if self._is_asked() or self._disk_is_low(part):
                return
            block = fetch.take(_LOOK_S)
            if block is None:
                raise self._failed(fetch, part)
            self.fetched_bytes += len(block)
            try:
                part.write(block[: part.file.size - part.position])
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                self._pause_for_disk(from_os_error(error, "go on with the download"))
                return
            self._progress.at(part.file.path, part.position)

    def _failed(self, fetch: Fetch, part: PartFile) -> StudioError:
        if isinstance(fetch.error, httpx2.ReadTimeout):
            kept = f"; {self._progress.done_text} are kept" if part.position else ""
            return NoAnswer(f"No answer for {self._patience.silence_s:.0f} s{kept}.")
        if isinstance(fetch.error, (httpx2.ReadError, httpx2.RemoteProtocolError)):
            return Broken(
                f"The connection broke off; {self._progress.done_text} are kept.",
                details=str(fetch.error),
            )
        if isinstance(fetch.error, (httpx2.HTTPError, httpx2.InvalidURL)):
            return errors.unreachable(fetch.error, setup.endpoint())
        return Broken(
            f"The connection broke off; {self._progress.done_text} are kept.",
            details=str(fetch.error or "the answer ended early"),
        )

    def _require_network(self) -> None:
        """Raises `Offline` once the user works offline, also in the middle of a file."""
        if setup.is_offline():
            raise errors.offline()

    def _is_asked(self) -> bool:
        """Whether a pause or an end is asked for; then the connection must not stay open."""
        return self._control.requested() is not Request.NONE

    def _disk_is_low(self, part: PartFile) -> bool:
        if time.monotonic() - self._disk_seen_at < self._patience.disk_period_s:
            return False
        self._disk_seen_at = time.monotonic()
        free, reserved = free_bytes(part.path), reserved_bytes(part.path)
        if free >= reserved:
            return False
        self._pause_for_disk(
            DiskFull(
                f"Only {format_bytes(free)} are free ({format_bytes(reserved)} of the disk are "
                "kept free). Free some space and retry."
            )
        )
        return True

    def _pause_for_disk(self, problem: StudioError) -> None:
        """Hold the job until there is room; raises the problem if nobody can hold it."""
        self._hold()
        if self._control.requested() is not Request.PAUSE:
            raise problem
        self._disk_seen_at = float("-inf")  # look again before going on
        sentence = f"{problem.sentence.split('. ')[0].rstrip('.')}; the download is paused."
        self._report.note(f"{sentence} Free some space, then resume.", level="warning")
