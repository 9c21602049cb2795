"""Imports as Python has them: PySide6 replaces them by its own, which read every module's source.

PySide6 does so for `from __feature__ import ...`, which nothing here uses. With it a third of the
window's start went into reading sources, as much again of every library that a job imports, and
the texts stayed in memory.
"""

from __future__ import annotations

import builtins


def use_plain_import() -> None:
    """Load PySide6 and give Python its own `__import__` back, which PySide6 keeps."""
    import PySide6.QtCore  # noqa: F401 - puts its own import in place

    plain = getattr(builtins, "__orig_import__", None)
    if plain is not None:
        builtins.__import__ = plain
