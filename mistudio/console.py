"""What the command line prints: events as JSON lines, or progress and tables for people."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from mistudio.core.units import EM_DASH, format_duration


def plain(value: Any) -> Any:
    """`value` with non-finite numbers as null, so that every line is standard JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value


class Console:
    """The reporter of a headless job, and the place where results and errors go."""

    def __init__(
        self, *, as_json: bool, out: TextIO | None = None, err: TextIO | None = None
    ) -> None:
        self.as_json = as_json
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self._shown_at = 0.0
        self._line_open = False

    def progress(
        self, fraction: float, phase: str, *, rate: str = "", eta_s: float | None = None
    ) -> None:
        if time.monotonic() - self._shown_at < (0.2 if self._live else 2.0):
            return
        self._shown_at = time.monotonic()
        if self.as_json:
            self._event(
                "progress", {"fraction": fraction, "phase": phase, "rate": rate, "eta_s": eta_s}
            )
            return
        parts = [f"{100 * fraction:5.1f} %", phase, rate]
        if eta_s is not None:
            parts.append(f"{format_duration(eta_s)} left")
        text = "  ".join(part for part in parts if part)
        if self._live:
            self._err.write(f"\r\x1b[K{text}")
            self._line_open = True
        else:
            self._err.write(text + "\n")
        self._err.flush()

    @property
    def _live(self) -> bool:
        return not self.as_json and self._err.isatty()

    def metric(self, name: str, values: Mapping[str, float | int | str | None]) -> None:
        if self.as_json:
            self._event("metric", {"name": name, **values})

    def note(self, sentence: str, *, level: str = "info") -> None:
        if self.as_json:
            self._event("note", {"level": level, "text": sentence})
        elif level != "error":  # the failure itself is told once, at the end
            self._end_line()
            self._err.write(sentence + "\n")

    def partial(self, name: str, value: object) -> None:
        return

    def result(self, values: Mapping[str, Any], lines: Sequence[str] = ()) -> None:
        """The outcome: the last JSON line, or `lines` for people (all values if empty)."""
        self._end_line()
        if self.as_json:
            self._event("result", values)
            return
        for line in lines or [f"{k}: {_shown(v)}" for k, v in values.items()]:
            self._out.write(line + "\n")

    def check(self, name: str, ok: bool, seconds: float, found: str, details: str = "") -> None:
        """One check of an installation: a line with its time; `details` in JSON only."""
        if self.as_json:
            values = {"check": name, "ok": ok, "seconds": round(seconds, 3), "found": found}
            self._event("check", {**values, "details": details})
            return
        self._out.write(f"{'ok' if ok else 'FAILED':6} {name:13}{seconds:7.2f} s  {found}\n")
        self._out.flush()

    def table(self, key: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
        """A list of rows under `key`; for people the named columns, aligned."""
        if self.as_json:
            self.result({key: list(rows)})
            return
        cells = [list(columns)] + [[_shown(row.get(c)) for c in columns] for row in rows]
        widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
        for line in cells if rows else cells[:1]:
            aligned = (text.ljust(width) for text, width in zip(line, widths, strict=True))
            self._out.write("  ".join(aligned).rstrip() + "\n")

    def error(self, code: str, sentence: str, details: str = "") -> None:
        """A failure as one sentence on stderr, and as the last JSON line."""
        self._end_line()
        if self.as_json:
            self._event("error", {"code": code, "message": sentence, "details": details})
        self._err.write(" ".join(sentence.split()) + "\n")

    def _event(self, kind: str, values: Mapping[str, Any]) -> None:
        line = {"event": kind, **plain(values)}
        self._out.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        self._out.flush()

    def _end_line(self) -> None:
        if self._line_open:
            self._err.write("\n")
            self._line_open = False


def _shown(value: Any) -> str:
    if value is None:
        return EM_DASH
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_shown(v)}" for k, v in value.items())
    return str(value)
