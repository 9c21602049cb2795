"""Loads sqlite-utils without what it would import for its own command line and for input.

Nothing here hands it a DataFrame, an array's number or a date to read, and its commands are not
ours. Together they cost a window long to start: pandas alone as much as all else.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _Later(ModuleType):
    """Stands for a module until something of it is used, but for what is `known` of it."""

    def __init__(self, name: str, **known: Any) -> None:
        super().__init__(name)
        self.__dict__.update(known)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system asks
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


def load_sqlite_utils() -> None:
    """Import `sqlite_utils` with those of them hidden that are not loaded already."""
    if "sqlite_utils" in sys.modules:
        return
    stand_ins: dict[str, ModuleType | None] = {
        "pandas": None,  # makes the import raise ImportError
        "numpy": None,
        "dateutil": _Later("dateutil", parser=_Later("dateutil.parser")),
        "click": _Later("click", Group=object),  # an annotation names it
    }
    hidden = {name: module for name, module in stand_ins.items() if name not in sys.modules}
    sys.modules.update(hidden)  # type: ignore[arg-type]
    try:
        importlib.import_module("sqlite_utils")
    finally:
        for name in hidden:
            del sys.modules[name]
