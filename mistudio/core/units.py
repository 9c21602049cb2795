"""How numbers read on screen and in sentences."""

from __future__ import annotations

EM_DASH = "\u2014"


def format_bytes(count: float | None) -> str:
    """1,234 -> "1.2 kB"; decimal units, one digit after the point from kB on."""
    if count is None:
        return EM_DASH
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1000:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def format_count(count: float | None) -> str:
    """12345 -> "12,345"; an unknown count is an em-dash."""
    return EM_DASH if count is None else f"{count:,.0f}"


def format_short(count: float | None) -> str:
    """1,234,567 -> "1.2M"; for tight places."""
    if count is None:
        return EM_DASH
    for limit, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= limit:
            return f"{count / limit:.1f}{suffix}"
    return f"{count:.0f}"


def format_duration(seconds: float | None) -> str:
    """75 -> "1 min 15 s"; unknown is an em-dash."""
    if seconds is None:
        return EM_DASH
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60} s"
    return f"{total // 3600} h {total % 3600 // 60} min"


def format_percent(fraction: float | None, digits: int = 1) -> str:
    """0.1234 -> "12.3 %"; unknown is an em-dash."""
    return EM_DASH if fraction is None else f"{100 * fraction:.{digits}f} %"


def format_decimal(value: float | None, digits: int = 4) -> str:
    """A fixed number of digits; unknown is an em-dash."""
    return EM_DASH if value is None else f"{value:.{digits}f}"
