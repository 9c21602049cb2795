"""Numbers written short, such as "3,17,40-60", in an order that is kept."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mistudio.core.errors import InvalidInput


def parse_ranges(text: str, below: int, noun: str = "Feature") -> list[int]:
    """The numbers of "3,17,40-60" in the order written, each once; "60-40" counts down.

    `noun` is what sentences call what is numbered. Raises `InvalidInput` for anything else, and
    for a number that is not less than `below`.
    """
    found: dict[int, None] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        match = re.fullmatch(r"#?(\d{1,9})(?:\s*[-–]\s*#?(\d{1,9}))?", part)
        if match is None:
            raise InvalidInput(f"{part!r} is no {noun.lower()} number; write them as 3,17,40-60.")
        first, last = int(match[1]), int(match[2] or match[1])
        if max(first, last) >= below:
            raise InvalidInput(
                f"{noun} {max(first, last):,} does not exist; there are {below:,} (0 to "
                f"{below - 1:,})."
            )
        step = 1 if last >= first else -1
        found.update(dict.fromkeys(range(first, last + step, step)))
    return list(found)


def format_ranges(numbers: Sequence[int]) -> str:
    """The shortest text that `parse_ranges` reads back as these numbers, order kept."""
    parts: list[str] = []
    start = previous = -2
    for number in [*numbers, -2]:
        if number == previous + 1 and number > 0:
            previous = number
            continue
        if start >= 0:
            parts.append(str(start) if start == previous else f"{start}-{previous}")
        start = previous = number
    return ",".join(parts)
