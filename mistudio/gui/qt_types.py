"""Makes the Python types of Qt's classes in the window's thread, before other threads ask for one.

PySide6 makes a type when it is first asked for. While one thread does, another can get the
interpreter lock and meet a type that is half made, which ends the process: pyqtgraph asks for all
of them at once, in the thread that imports the tabs, while the window makes its widgets.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator

MODULES = ("QtCore", "QtGui", "QtWidgets", "QtSvg", "QtNetwork")
PIECE_S = 0.02  # after which the window has its turn; one type may take twice as long


class TypeMaker:
    """Makes them a few at a time, as it takes a quarter of a second in all."""

    def __init__(self) -> None:
        self._left = _names()
        self.done = False

    def make_some(self) -> bool:
        """Go on for a fiftieth of a second; whether all are made."""
        end = time.perf_counter() + PIECE_S
        while not self.done and time.perf_counter() < end:
            found = next(self._left, None)
            if found is None:
                self.done = True
            else:
                getattr(*found, None)
        return self.done


def _names() -> Iterator[tuple[object, str]]:
    for name in MODULES:
        module = importlib.import_module(f"PySide6.{name}")
        yield from ((module, name) for name in dir(module))
