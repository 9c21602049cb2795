"""The SQLite database."""

from __future__ import annotations

from mistudio.store.light_import import load_sqlite_utils

load_sqlite_utils()
