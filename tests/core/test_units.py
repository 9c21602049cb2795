"""How numbers read."""

from __future__ import annotations

from mistudio.core import units


def test_numbers_read_as_a_person_would_write_them() -> None:
    assert units.format_bytes(999) == "999 B"
    assert units.format_bytes(1_250_000) == "1.2 MB"
    assert units.format_count(1234567) == "1,234,567"
    assert units.format_short(1_234_567) == "1.2M"
    assert units.format_duration(75) == "1 min 15 s"
    assert units.format_duration(7260) == "2 h 1 min"
    assert units.format_percent(0.0512) == "5.1 %"


def test_the_unknown_is_a_dash_and_never_zero() -> None:
    for shown in (
        units.format_bytes(None),
        units.format_count(None),
        units.format_short(None),
        units.format_duration(None),
        units.format_percent(None),
        units.format_decimal(None),
    ):
        assert shown == units.EM_DASH
    assert units.format_count(0) == "0"
