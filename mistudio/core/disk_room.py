"""How much of a disk may be filled: some of it always stays free."""

from __future__ import annotations

import shutil
from pathlib import Path

from mistudio.core.errors import DiskFull
from mistudio.core.units import format_bytes

_MOST_RESERVED = 10_000_000_000
FULL_SHARE = 0.8  # of the disk in use, from which the window speaks up


def is_nearly_full(free: int, total: int) -> bool:
    """Whether more than 80 % of a disk are in use."""
    return total > 0 and (total - free) / total > FULL_SHARE


def free_bytes(path: Path) -> int:
    """Free bytes of the disk that `path` lies on, or will lie on."""
    return shutil.disk_usage(_existing(path)).free


def reserved_bytes(path: Path) -> int:
    """Bytes of that disk to keep free: the smaller of a tenth of it and 10 GB."""
    return min(_MOST_RESERVED, shutil.disk_usage(_existing(path)).total // 10)


def require_room(path: Path, needed: int = 0) -> None:
    """Raises `DiskFull` if `needed` more bytes would eat into what is kept free."""
    if (problem := shortage(path, needed)) is not None:
        raise problem


def shortage(path: Path, needed: int = 0) -> DiskFull | None:
    """The error that `require_room` would raise, None if there is room."""
    free, reserved = free_bytes(path), reserved_bytes(path)
    if free - needed >= reserved:
        return None
    if needed:
        sentence = f"Needs {format_bytes(needed)}, {format_bytes(max(0, free - reserved))} are free"
    else:
        sentence = f"Only {format_bytes(free)} are free"
    return DiskFull(f"{sentence} ({format_bytes(reserved)} of the disk are kept free).")


def _existing(path: Path) -> Path:
    while not path.exists() and path.parent != path:
        path = path.parent
    return path
