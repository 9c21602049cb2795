"""When Python's cyclic garbage is collected: not within `paused`, and at once by `collect`.

The window's process collects in the window's thread alone (`gui.collector`), others where they are.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator
from contextlib import contextmanager

_ask: Callable[[], object] | None = None
_paused = 0


def collect() -> None:
    """Free all garbage that is there, such as tensors that a failed step's traceback holds."""
    if _ask is None:
        gc.collect()
    else:
        _ask()


def collect_by(ask: Callable[[], object] | None) -> None:
    """Let `collect` do this instead, from whatever thread; None: collect where it is called."""
    global _ask
    _ask = ask


@contextmanager
def paused() -> Generator[None]:
    """No collection starts by itself meanwhile: for work that makes many objects and no garbage."""
    global _paused
    by_itself = gc.isenabled()
    gc.disable()
    _paused += 1
    try:
        yield
    finally:
        _paused -= 1
        if by_itself and _ask is None:
            gc.enable()


def is_paused() -> bool:
    """Whether some thread is within `paused`."""
    return _paused > 0
