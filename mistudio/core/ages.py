"""How long ago something was, from a time as the database keeps it."""

from __future__ import annotations

from datetime import datetime, timezone

from mistudio.core.units import format_duration

_JUST_NOW = 60  # seconds
_A_DAY = 86_400


def age(made_at: str, now: datetime | None = None) -> str:
    """ "just now", "3 min 10 s ago", "2 h 5 min ago", "4 days ago"; `made_at` is UTC, ISO 8601."""
    made = datetime.fromisoformat(made_at.replace("Z", "+00:00"))
    if made.tzinfo is None:
        made = made.replace(tzinfo=timezone.utc)
    seconds = ((now or datetime.now(timezone.utc)) - made).total_seconds()
    if seconds < _JUST_NOW:
        return "just now"
    if seconds < _A_DAY:
        return f"{format_duration(seconds)} ago"
    days = int(seconds // _A_DAY)
    return f"{days} day{'s' if days > 1 else ''} ago"
