"""What a bug report needs: versions, device, what broke; no access tokens, no private paths."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections import deque
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import mistudio
from mistudio.core.redact import without_private_paths, without_tokens
from mistudio.core.units import format_bytes
from mistudio.system.monitor import Sample

PACKAGES = ("PySide6-Essentials", "pyqtgraph", "numpy", "torch", "transformers", "safetensors")
LAST_LINES, LAST_ERRORS = 30, 10


def report(details: str, log_file: Path | None = None, device: str = "") -> str:
    """The report as text; `log_file` lies in the data folder's logs."""
    lines = [f"miStudio {mistudio.__version__}, Python {platform.python_version()}"]
    lines.append(platform.platform())
    if device:
        lines.append(device)
    for package in PACKAGES:
        try:
            lines.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            lines.append(f"{package} not installed")
    if details:
        lines += ["", details.rstrip()]
    if log_file is not None and log_file.exists():
        errors, tail = _last_of(log_file)
        if errors:
            lines += ["", "Last errors:", *errors]
        lines += ["", "End of the log:", *tail]
    return clean("\n".join(lines) + "\n", log_file.parent.parent if log_file else None)


def clean(text: str, home: Path | None = None) -> str:
    """A text without access tokens and private paths; `home` is the data folder."""
    package = str(Path(mistudio.__file__).resolve().parent)
    known = {package: "<program>/mistudio", sys.prefix: "<python>", sys.base_prefix: "<python>"}
    if home is not None:
        known[str(home)] = "<data>"
    known.setdefault(os.path.expanduser("~"), "~")
    return without_private_paths(without_tokens(text), known)


def device_line(sample: Sample | None, chosen: str) -> str:
    """Where models compute here, from the newest reading of the machine."""
    parts = [f"Device: {chosen}", f"{os.cpu_count()} processor cores"]
    if sample is not None:
        parts.append(f"{format_bytes(sample.memory_total)} of memory")
        parts.append(f"GPU {sample.gpu.name}" if sample.gpu else "no GPU found")
    return ", ".join(parts)


def _last_of(log_file: Path) -> tuple[list[str], list[str]]:
    """The newest errors and the newest lines of a log of JSON lines."""
    errors: deque[str] = deque(maxlen=LAST_ERRORS)
    tail: deque[str] = deque(maxlen=LAST_LINES)
    with log_file.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            tail.append(line.rstrip())
            if '"error"' in line.lower() or '"critical"' in line.lower():
                errors.append(_told(line))
    return list(errors), list(tail)


def _told(line: str) -> str:
    try:
        entry = json.loads(line)
        return f"{entry['time']} {entry.get('text', '')}".strip()
    except (ValueError, KeyError, TypeError):
        return line.rstrip()
