"""Requests reach a busy worker and act in the right order."""

from __future__ import annotations

import threading

import pytest

from mistudio.core.control import HoldsInPlace, JobControl, Request
from mistudio.core.errors import Cancelled, Left


def test_a_cancel_is_never_withdrawn() -> None:
    control = JobControl()
    control.cancel()
    control.resume()
    control.pause()
    assert control.requested() is Request.CANCEL
    with pytest.raises(Cancelled):
        control.check()


def test_check_waits_while_paused_and_goes_on() -> None:
    control = JobControl()
    control.pause()
    passed = threading.Event()

    def work() -> None:
        control.check()
        passed.set()

    worker = threading.Thread(target=work)
    worker.start()
    assert not passed.wait(0.1)
    control.resume()
    assert passed.wait(5)
    worker.join()


def test_a_paused_job_can_be_cancelled() -> None:
    control = JobControl()
    control.pause()
    ended = threading.Event()

    def work() -> None:
        with pytest.raises(Cancelled):
            control.check()
        ended.set()

    worker = threading.Thread(target=work)
    worker.start()
    control.cancel()
    assert ended.wait(5)
    worker.join()


def test_a_save_is_taken_once() -> None:
    control = JobControl()
    control.save_now()
    assert control.take_save()
    assert not control.take_save()


def test_requests_of_other_processes_arrive() -> None:
    control = JobControl(poll=lambda: Request.STOP)
    assert control.requested() is Request.STOP


def test_waiting_ends_when_asked_to_hurry() -> None:
    control = JobControl()
    waiting = threading.Event()
    left: list[float] = []

    def tick(seconds: float) -> None:
        left.append(seconds)
        waiting.set()

    worker = threading.Thread(target=control.sleep, args=(600.0, tick))
    worker.start()
    assert waiting.wait(5)
    control.hurry()
    worker.join(5)
    assert not worker.is_alive()
    assert 590 < left[0] <= 600


def test_waiting_ends_with_a_cancel() -> None:
    control = JobControl()
    control.cancel()
    with pytest.raises(Cancelled):
        control.sleep(600.0)


def test_leaving_is_a_cancel_that_can_be_told_apart() -> None:
    control = JobControl()
    control.leave()
    with pytest.raises(Left):
        control.check()
    assert control.is_leaving
    inside = HoldsInPlace(control)
    assert inside.is_leaving
    assert inside.requested() is Request.PAUSE, "what is inside another job holds at a safe point"
