"""Loads sqlite-utils without pandas, which it would import, if installed, for DataFrame input.

Nothing here hands it a DataFrame, and pandas alone costs a window as long to start as all else.
"""

from __future__ import annotations

import importlib
import sys


def load_sqlite_utils() -> None:
    """Import `sqlite_utils` with pandas hidden, unless either is loaded already."""
    if "sqlite_utils" in sys.modules or "pandas" in sys.modules:
        return
    sys.modules["pandas"] = None  # type: ignore[assignment]  # makes the import raise ImportError
    try:
        importlib.import_module("sqlite_utils")
    finally:
        del sys.modules["pandas"]
