"""The sign of life of a running job, and the way requests of other processes reach it."""

from __future__ import annotations

import logging
import sqlite3
import threading
from typing import TYPE_CHECKING

from mistudio.core.control import JobControl
from mistudio.store import jobs as rows

if TYPE_CHECKING:
    from mistudio.jobs.runner import Studio

log = logging.getLogger(__name__)

PERIOD_S = 1.0


class Heartbeat(threading.Thread):
    """Says in the job's row that its process lives, and brings requests of other processes."""

    def __init__(self, studio: Studio, job_id: str, control: JobControl) -> None:
        super().__init__(name=f"heartbeat-{job_id[:12]}", daemon=True)
        self._studio = studio
        self._job_id = job_id
        self._control = control
        self._ended = threading.Event()

    def beat(self) -> None:
        try:
            request = rows.beat(self._studio.db(), self._job_id)
            if request:
                self._studio.deliver(self._job_id, self._control, request)
        except sqlite3.OperationalError:
            log.warning("the heartbeat of %s was not written", self._job_id, exc_info=True)

    def run(self) -> None:
        try:
            while not self._ended.wait(PERIOD_S):
                self.beat()
        finally:
            self._studio.store.release()

    def stop(self) -> None:
        self._ended.set()
        self.join()
