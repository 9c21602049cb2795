"""Full collections do not start by themselves while libraries are imported."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest

from mistudio.system.garbage import no_full_collection

KEEP = """
import gc
from mistudio.system.garbage import keep_more, keep_what_is_there
keep_more()
assert gc.get_freeze_count() == 0, "a command freezes nothing"
keep_what_is_there()
first = gc.get_freeze_count()
more = [[] for _ in range(1000)]
keep_more()
assert gc.get_freeze_count() >= first + 1000
"""


@pytest.fixture
def full() -> Iterator[list[int]]:
    """One entry for each full collection; one is due after two young ones."""
    before, seen = gc.get_threshold(), []

    def look(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] == 2:
            seen.append(1)

    gc.collect()
    gc.callbacks.append(look)
    gc.set_threshold(50, 1, 1)
    yield seen
    gc.callbacks.remove(look)
    gc.set_threshold(*before)


def test_none_starts_within_and_the_outermost_end_restores(full: list[int]) -> None:
    with no_full_collection():
        with no_full_collection():
            held = [[[]] for _ in range(100_000)]
        held += [[[]] for _ in range(100_000)]
        assert not full
    assert gc.get_threshold() == (50, 1, 1)
    held += [[[]] for _ in range(100_000)]
    assert full
    assert len(held) == 300_000


def test_only_a_process_that_keeps_its_start_keeps_more() -> None:
    done = subprocess.run([sys.executable, "-c", KEEP], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
