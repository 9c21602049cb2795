"""Positions of a row that are left out: as a list in words, and as the slice of those that stay.

SAELens says the same by its `seqpos_slice`, the start, stop and step of a Python slice over the
positions of a row that are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from mistudio.core.errors import InvalidInput
from mistudio.core.index_ranges import format_ranges, parse_ranges

MOST = 1 << 17  # tokens of a row, far more than a model reads


def read_positions(text: str) -> tuple[int, ...]:
    """The positions of "0-3,127", rising; raises `InvalidInput` for text that is no such list."""
    return tuple(sorted(parse_ranges(text, MOST, "Position")))


def format_positions(positions: Sequence[int]) -> str:
    """The text that `read_positions` reads back."""
    return format_ranges(positions)


def check_positions(positions: Sequence[int], context: int) -> None:
    """Raise `InvalidInput` if rows of `context` tokens lack a position, or nothing is left."""
    beyond = [position for position in positions if position >= context]
    if beyond:
        raise InvalidInput(
            f"Position {beyond[0]:,} cannot be skipped: a row has {context:,} tokens, at positions "
            f"0 to {context - 1:,}.",
            code="invalid_config",
        )
    if positions and len(positions) >= context:
        raise InvalidInput(
            f"All {context:,} positions of a row are skipped, so that nothing is left to learn "
            "from; skip fewer.",
            code="invalid_config",
        )


def kept_slice(positions: Sequence[int], context: int) -> list[int | None] | None:
    """The slice that keeps all but these positions of a row; None where no slice says that.

    One that keeps the last position has an open end.
    """
    left_out = set(positions)
    kept = [position for position in range(context) if position not in left_out]
    if len(kept) == context:
        return [None]
    if not kept:
        return None
    step = kept[1] - kept[0] if len(kept) > 1 else 1
    stop = None if kept[-1] + step >= context else kept[-1] + 1
    found = [kept[0], stop] if step == 1 else [kept[0], stop, step]
    return found if list(range(context)[slice(*found)]) == kept else None


def read_slice(told: object) -> list[int | None]:
    """Start, stop and step, or fewer of them, of a slice that a file tells; none keeps all.

    Raises `InvalidInput` for what is no slice of positions that rise.
    """
    given = cast("Sequence[object]", told) if isinstance(told, (list, tuple)) else [told]
    parts = [part for part in given if part is None or type(part) is int]
    step = parts[2] if len(parts) == 3 else None
    if len(parts) < len(given) or not 1 <= len(parts) <= 3 or (step is not None and step < 1):
        raise InvalidInput(f"{told!r} is no slice of positions such as [1, null].")
    return parts


def left_out_by(
    kept: Sequence[int | None], context_size: int | None, context: int
) -> tuple[int, ...]:
    """The positions of a row of `context` tokens that a slice of kept ones leaves out, rising.

    An end that counts backwards counts from `context_size`, where that is known: the length of the
    rows the slice was meant for. An open end stays open on longer rows.
    """
    size = context_size or context
    ends = [end if end is None or end >= 0 else max(0, end + size) for end in kept[:2]]
    stays = set(range(context)[slice(*ends, *kept[2:])])
    return tuple(position for position in range(context) if position not in stays)
