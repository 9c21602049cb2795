"""The life of a job row."""

from __future__ import annotations

import itertools
import os
import time

import pytest

from mistudio.core.errors import InUse
from mistudio.store import jobs
from mistudio.store.database import Store
from mistudio.store.jobs import FINAL, JobState, move
from mistudio.store.records import JobRow
from mistudio.store.tables import JOBS


def queued(store: Store, lane: str = "gpu", **values: str) -> JobRow:
    return jobs.add_job(store.db(), "train", lane, "a job", {"x": 1}, **values)


def test_a_lane_runs_one_job_at_a_time_in_order(store: Store) -> None:
    first, second, other = queued(store), queued(store), queued(store, "io")
    db = store.db()
    head = jobs.next_queued(db, "gpu")
    assert head is not None
    assert head.id == first.id
    assert jobs.claim(db, first.id, os.getpid())
    assert not jobs.claim(db, second.id, os.getpid())
    assert jobs.claim(db, other.id, os.getpid())
    assert move(db, first.id, JobState.RUNNING, JobState.COMPLETED)
    assert jobs.claim(db, second.id, os.getpid())


def test_a_queued_job_can_move_up(store: Store) -> None:
    first, second, third = queued(store), queued(store), queued(store)
    db = store.db()
    assert jobs.move_up(db, third.id)
    assert jobs.move_up(db, third.id)
    assert not jobs.move_up(db, third.id), "it is first already"
    order = [j.id for j in JOBS.select(db, "status = 'queued'", order="position")]
    assert order == [third.id, first.id, second.id]


def test_a_job_held_in_place_keeps_its_lane(store: Store) -> None:
    first, second = queued(store), queued(store)
    db = store.db()
    jobs.claim(db, first.id, os.getpid())
    move(db, first.id, JobState.RUNNING, JobState.PAUSED, pid=os.getpid())
    assert not jobs.claim(db, second.id, os.getpid())
    move(db, first.id, JobState.PAUSED, JobState.INTERRUPTED)
    assert jobs.claim(db, second.id, os.getpid())


def test_transitions_are_compare_and_set(store: Store) -> None:
    job = queued(store)
    db = store.db()
    assert move(db, job.id, JobState.QUEUED, JobState.CANCELLED)
    assert not move(db, job.id, JobState.QUEUED, JobState.CANCELLED)
    assert JOBS.get(db, job.id).finished_at is not None


def test_final_states_never_change(store: Store) -> None:
    job = queued(store)
    for source, target in itertools.product(FINAL, JobState):
        with pytest.raises(ValueError, match="never goes"):
            move(store.db(), job.id, source, target)


def test_a_lost_process_leaves_its_job_interrupted(store: Store) -> None:
    db = store.db()
    lost, alive, stale = queued(store), queued(store, "io"), queued(store, "other")
    gone = 2**22 - 3  # beyond any process id in use here
    for job, pid in ((lost, gone), (alive, os.getpid()), (stale, os.getpid())):
        assert jobs.claim(db, job.id, pid)
    JOBS.update(db, stale.id, heartbeat_at=time.time() - 3600)
    waiting = queued(store)
    assert {job.id for job in jobs.recover(db)} == {lost.id, stale.id}
    assert JOBS.get(db, lost.id).status == "interrupted"
    assert JOBS.get(db, alive.id).status == "running"
    assert JOBS.get(db, waiting.id).status == "queued"


def test_a_target_has_one_active_job(store: Store) -> None:
    first = queued(store, target_id="tr_1")
    with pytest.raises(InUse, match="already queued or running"):
        queued(store, target_id="tr_1")
    move(store.db(), first.id, JobState.QUEUED, JobState.CANCELLED)
    queued(store, target_id="tr_1")


def test_requests_cross_processes_once(store: Store) -> None:
    job = queued(store)
    jobs.claim(store.db(), job.id, os.getpid())
    jobs.ask(store.db(), job.id, "pause")
    assert jobs.beat(store.db(), job.id) == "pause"
    assert jobs.beat(store.db(), job.id) is None


def test_cleared_jobs_are_hidden_not_lost(store: Store) -> None:
    done, waiting = queued(store), queued(store)
    move(store.db(), done.id, JobState.QUEUED, JobState.CANCELLED)
    jobs.hide_finished(store.db())
    assert [j.id for j in jobs.list_jobs(store.db())] == [waiting.id]
    assert len(jobs.list_jobs(store.db(), hidden=True)) == 2
