"""Keeps Python's full collections out of the moments in which they take long.

A full collection looks at every container of the process under the interpreter lock: a tenth to a
third of a second once torch and transformers are imported, and importing them starts several. No
other thread, the window's included, gets a turn meanwhile. Young collections look only at what was
made a moment ago and stay on.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Generator
from contextlib import contextmanager

_NEVER = 1_000_000_000  # young collections of the middle generation before a full one
_lock = threading.Lock()
_inside = 0
_before = 0


@contextmanager
def no_full_collection() -> Generator[None]:
    """Within it, in whatever thread, no full collection starts by itself; `gc.collect` still does.

    Threads may be within it at the same time; the last to leave restores what the first found.
    """
    global _inside, _before
    with _lock:
        if _inside == 0:
            young, middle, _before = gc.get_threshold()
            gc.set_threshold(young, middle, _NEVER)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                young, middle, _ = gc.get_threshold()
                gc.set_threshold(young, middle, _before)


def keep_what_is_there() -> None:
    """Let later collections pass by all that exists now.

    For moments at which nearly all of it stays to the end, such as after imports: what is kept and
    becomes part of a cycle nobody uses is never collected. Counted references free it as ever.
    """
    gc.freeze()


def keep_more() -> None:
    """`keep_what_is_there` in a process that has done so before, as the window's does."""
    if gc.get_freeze_count():
        keep_what_is_there()
