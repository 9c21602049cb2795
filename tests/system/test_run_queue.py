"""What the kernel tells of the turns of this process's threads."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest

from mistudio.system.run_queue import ProcessorTurns, threads_named

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells it")


def test_work_of_the_first_thread_is_seen_and_ended_threads_do_no_harm() -> None:
    thread = threading.Thread(target=lambda: told.append(threading.get_native_id()))
    told: list[int] = []
    thread.start()
    thread.join()
    turns = ProcessorTurns([threading.get_native_id(), *told])
    until = time.thread_time() + 0.03
    while time.thread_time() < until:
        pass
    worked, waited = turns.take()
    assert worked > 0.02
    assert waited >= 0
    turns.close()
    assert turns.take() == (0.0, 0.0)


def test_the_first_thread_has_the_name_of_its_program() -> None:
    with open("/proc/self/comm", encoding="utf-8") as file:
        assert os.getpid() in threads_named([file.read().strip()])
    assert threads_named(["no such thread"]) == []
