"""Which shared libraries a file asks the system for, read from the file itself.

Loading a library tells only the first one that is missing, and Qt ends the process over it; the
table of needs (ELF, 64 bit, System V gABI chapter 5) names them all.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

PT_LOAD, PT_DYNAMIC = 1, 2
DT_NEEDED, DT_STRTAB, DT_STRSZ, DT_RPATH, DT_RUNPATH = 1, 5, 10, 15, 29


class Needs(NamedTuple):
    """What the loader reads of a file before its code."""

    names: tuple[str, ...]  # of libraries, as `libxcb-cursor.so.0`
    folders: tuple[str, ...]  # where to look first; may begin with $ORIGIN


def needs_of(file: Path) -> Needs:
    """The needs of a shared library. Raises `ValueError` if it is none of this machine's kind."""
    try:
        with file.open("rb") as opened:
            return _read(opened)
    except (struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"{file.name} is cut short.") from error


def _read(file: BinaryIO) -> Needs:
    head = file.read(64)
    if head[:6] != b"\x7fELF\x02\x01":  # 64 bit, least significant byte first
        raise ValueError("This is no 64-bit library.")
    start, size, count = (*struct.unpack_from("<Q", head, 32), *struct.unpack_from("<2H", head, 54))
    file.seek(start)
    table = file.read(size * count)
    loads: list[tuple[int, int, int]] = []  # address, offset, bytes in the file
    dynamic = b""
    for number in range(count):
        kind, _flags, offset, address, _, length = struct.unpack_from("<2I4Q", table, number * size)
        if kind == PT_LOAD:
            loads.append((address, offset, length))
        elif kind == PT_DYNAMIC:
            file.seek(offset)
            dynamic = _whole(file, length)
    entries = [struct.unpack_from("<qQ", dynamic, at) for at in range(0, len(dynamic) - 15, 16)]
    single = {tag: value for tag, value in entries if tag != DT_NEEDED}
    if DT_STRTAB not in single:
        return Needs((), ())
    place = single[DT_STRTAB]
    for address, offset, length in loads:
        if address <= place < address + length:
            place += offset - address
            break
    file.seek(place)
    words = _whole(file, single.get(DT_STRSZ, 0))

    def word(at: int) -> str:
        return words[at : words.index(b"\0", at)].decode()

    names = tuple(word(value) for tag, value in entries if tag == DT_NEEDED)
    folders = word(single.get(DT_RUNPATH, single.get(DT_RPATH, 0))) if words else ""
    has_folders = DT_RUNPATH in single or DT_RPATH in single
    return Needs(names, tuple(folders.split(":")) if has_folders and folders else ())


def _whole(file: BinaryIO, count: int) -> bytes:
    content = file.read(count)
    if len(content) < count:
        raise ValueError("The file is cut short.")
    return content


def missing_libraries(files: Iterable[Path], loads: Callable[[str], bool]) -> list[str]:
    """Names that the files and the libraries beside them need and that cannot be loaded, sorted.

    `loads` says whether the system gives a library of that name.
    """
    waiting = list(files)
    seen: set[Path] = set()
    asked: dict[str, bool] = {}
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        needs = needs_of(file)
        for name in needs.names:
            beside = _beside(file, name, needs.folders)
            if beside is not None:
                waiting.append(beside)
            elif name not in asked:
                asked[name] = loads(name)
    return sorted(name for name, there in asked.items() if not there)


def _beside(file: Path, name: str, folders: Iterable[str]) -> Path | None:
    origin = str(file.parent)
    for folder in folders:
        own = folder.replace("$ORIGIN", origin).replace("${ORIGIN}", origin)
        found = Path(os.path.normpath(own)) / name
        if found.is_file():
            return found
    return None
