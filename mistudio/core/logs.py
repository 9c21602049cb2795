"""The program's log: JSON lines in a file that rolls over."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timezone
from logging.handlers import RotatingFileHandler
from pathlib import Path

from mistudio.core.redact import without_tokens


class JsonLines(logging.Formatter):
    """One JSON object per record: time, level, operation, text, and what went wrong."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = datetime.fromtimestamp(record.created, timezone.utc)
        entry = {
            "time": stamp.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "operation": record.name,
            "text": record.getMessage(),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return without_tokens(json.dumps(entry, ensure_ascii=False))


def start_log(folder: Path, level: str = "info") -> logging.Handler:
    """Send the log to `folder/mistudio.jsonl` (2 MB, three old ones kept); returns the handler."""
    handler = RotatingFileHandler(
        folder / "mistudio.jsonl", maxBytes=2_000_000, backupCount=3, encoding="utf-8"
    )
    handler.setFormatter(JsonLines())
    # a log that cannot be written (full disk) must not print tracebacks in the user's terminal
    logging.raiseExceptions = False
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(getattr(logging, level.upper(), logging.INFO))
    return handler
