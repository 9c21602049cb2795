"""Job rows: the states of a job, its queue and its lane; every transition is compare-and-set."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from enum import Enum
from typing import Any

from mistudio.core.errors import InUse
from mistudio.core.ids import now
from mistudio.store.connection import Db
from mistudio.store.records import JobRow
from mistudio.store.tables import JOBS

HEARTBEAT_STALE_S = 30.0


class JobState(str, Enum):
    """The state of a job row."""

    QUEUED = "queued"  # waits for its lane
    RUNNING = "running"  # working, heartbeat at most 2 s old
    PAUSED = "paused"  # held at a safe point; a training has given up its lane
    COMPLETED = "completed"  # final
    FAILED = "failed"  # final, with a sentence
    CANCELLED = "cancelled"  # final
    INTERRUPTED = "interrupted"  # its process had ended; can be queued again


# a job that is at work, or waits in place, holds its lane
_HOLDS = "({0}status = 'running' OR ({0}status = 'paused' AND {0}pid IS NOT NULL))"

FINAL = (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED)
ACTIVE = (JobState.QUEUED, JobState.RUNNING, JobState.PAUSED)

_ALLOWED: dict[JobState, tuple[JobState, ...]] = {
    JobState.QUEUED: (JobState.RUNNING, JobState.CANCELLED),
    JobState.RUNNING: (
        JobState.PAUSED,
        JobState.COMPLETED,
        JobState.FAILED,
        JobState.CANCELLED,
        JobState.INTERRUPTED,
    ),
    JobState.PAUSED: (
        JobState.RUNNING,
        JobState.QUEUED,
        JobState.CANCELLED,
        JobState.INTERRUPTED,
    ),
    # completed, if all that it was to make was there when its process ended
    JobState.INTERRUPTED: (JobState.QUEUED, JobState.CANCELLED, JobState.COMPLETED),
    JobState.COMPLETED: (),
    JobState.FAILED: (),
    JobState.CANCELLED: (),
}


def add_job(
    db: Db,
    kind: str,
    lane: str,
    title: str,
    config: dict[str, Any],
    *,
    target_id: str | None = None,
    retry_of: str | None = None,
    retry_count: int = 0,
) -> JobRow:
    """Queue a job at the end of its lane; raises `InUse` if its target has an active one."""
    if target_id is not None and _active_on(db, kind, target_id):
        raise InUse("A job of this kind is already queued or running for it.", code="active_job")
    return JOBS.insert(
        db,
        kind=kind,
        lane=lane,
        title=title,
        config=config,
        status=JobState.QUEUED.value,
        target_id=target_id,
        retry_of=retry_of,
        retry_count=retry_count,
        position=time.time(),
    )


def _active_on(db: Db, kind: str, target_id: str) -> bool:
    rows = db.query(
        "SELECT 1 FROM jobs WHERE kind = ? AND target_id = ? AND status IN ('queued', 'running')",
        [kind, target_id],
    )
    return next(iter(rows), None) is not None


def list_jobs(
    db: Db,
    states: Sequence[str] | None = None,
    *,
    limit: int = 200,
    hidden: bool = False,
) -> list[JobRow]:
    """Jobs at work, then the queue in its order, then newest; `hidden` adds cleared ones."""
    where = "1" if hidden else "hidden = 0"
    parameters: list[Any] = []
    if states:
        where += f" AND status IN ({', '.join('?' for _ in states)})"
        parameters += list(states)
    order = (
        "CASE status WHEN 'running' THEN 0 WHEN 'paused' THEN 0 WHEN 'queued' THEN 1 ELSE 2 END, "
        "CASE WHEN status = 'queued' THEN position END, created_at DESC"
    )
    return JOBS.select(db, where, parameters, order=order, limit=limit)


def move(db: Db, job_id: str, source: JobState, target: JobState, **values: Any) -> bool:
    """Compare-and-set the state; False if the job is no longer in `source`.

    Raises ValueError for a transition that the life of a job does not know.
    """
    if target not in _ALLOWED[source]:
        raise ValueError(f"a job never goes from {source.value} to {target.value}")
    stamp = now()
    changes: dict[str, Any] = {"status": target.value, "updated_at": stamp, **values}
    if target in FINAL:
        changes.setdefault("finished_at", stamp)
    if target is not JobState.RUNNING:
        changes.setdefault("pid", None)
    assignments = ", ".join(f"{name} = ?" for name in changes)
    with db.atomic():
        cursor = db.execute(
            f"UPDATE jobs SET {assignments} WHERE id = ? AND status = ?",
            [*changes.values(), job_id, source.value],
        )
        return cursor.rowcount == 1


def claim(db: Db, job_id: str, pid: int) -> bool:
    """Start a queued job if its lane is free on this machine; False if it must wait or is gone."""
    stamp = now()
    with db.atomic():
        cursor = db.execute(
            f"""UPDATE jobs SET status = 'running', pid = ?, heartbeat_at = ?,
                   error_code = NULL, error_message = NULL, error_details = NULL,
                   started_at = COALESCE(started_at, ?), updated_at = ?
               WHERE id = ? AND status = 'queued' AND NOT EXISTS (
                   SELECT 1 FROM jobs AS other
                   WHERE other.lane = jobs.lane AND {_HOLDS.format("other.")})""",
            [pid, time.time(), stamp, stamp, job_id],
        )
        return cursor.rowcount == 1


def next_queued(db: Db, lane: str) -> JobRow | None:
    """The job that the lane runs next."""
    found = JOBS.select(
        db, "status = 'queued' AND lane = ?", [lane], order="position, created_at", limit=1
    )
    return found[0] if found else None


def move_up(db: Db, job_id: str) -> bool:
    """Let a queued job change places with the one before it in its lane; False if it is first."""
    with db.atomic():
        job = JOBS.get(db, job_id)
        before = JOBS.select(
            db,
            "status = 'queued' AND lane = ? AND position < ?",
            [job.lane, job.position],
            order="position DESC",
            limit=1,
        )
        if job.status != JobState.QUEUED.value or not before:
            return False
        JOBS.update(db, job.id, position=before[0].position)
        JOBS.update(db, before[0].id, position=job.position)
    return True


def holder(db: Db, lane: str) -> JobRow | None:
    """The job that holds a lane, of whichever process."""
    found = JOBS.select(db, f"{_HOLDS.format('')} AND lane = ?", [lane], limit=1)
    return found[0] if found else None


def beat(db: Db, job_id: str) -> str | None:
    """Record that the job's process lives; returns the pending request, if any, and clears it."""
    with db.atomic():
        rows = list(db.query("SELECT request FROM jobs WHERE id = ?", [job_id]))
        db.execute(
            "UPDATE jobs SET heartbeat_at = ?, request = NULL WHERE id = ?", [time.time(), job_id]
        )
    return rows[0]["request"] if rows else None


def ask(db: Db, job_id: str, request: str) -> None:
    """Leave a request (pause, resume, cancel, stop, save) for the process that runs the job."""
    JOBS.update(db, job_id, request=request)


def recover(db: Db) -> list[JobRow]:
    """Mark jobs at work whose process has ended as interrupted; returns them."""
    lost = [job for job in JOBS.select(db, _HOLDS.format("")) if not _lives(job)]
    return [
        job
        for job in lost
        if move(db, job.id, JobState(job.status), JobState.INTERRUPTED, phase="interrupted")
    ]


def _lives(job: JobRow) -> bool:
    if job.pid is None:
        return False
    if job.pid != os.getpid():
        try:
            os.kill(job.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
    return job.heartbeat_at is not None and time.time() - job.heartbeat_at < HEARTBEAT_STALE_S


def hide_finished(db: Db) -> None:
    """Leave final jobs out of the panel; their rows stay."""
    with db.atomic():
        db.execute(
            "UPDATE jobs SET hidden = 1 WHERE status IN ('completed', 'failed', 'cancelled')"
        )
