"""The program in the desktop's menu: entry, icons and description in the user's data folder.

After the Desktop Entry and Icon Theme specifications of freedesktop.org: what lies in
`applications`, `icons/hicolor` and `metainfo` below XDG_DATA_HOME is seen by every desktop.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mistudio.core.atomic import atomic_file
from mistudio.core.errors import InvalidInput
from mistudio.core.paths import resources

ENTRY = "mistudio.desktop"
_QUOTED = '"`$\\'


def data_home(environ: Mapping[str, str] = os.environ) -> Path:
    """XDG_DATA_HOME, where the user's own menu entries lie."""
    return Path(environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser()


def pieces() -> Iterator[tuple[Path, Path]]:
    """Each bundled file with its place below the data folder."""
    source = resources() / "desktop"
    yield source / ENTRY, Path("applications") / ENTRY
    for file in sorted(source.glob("*.metainfo.xml")):
        yield file, Path("metainfo") / file.name
    for file in sorted((source / "icons").rglob("mistudio.*")):
        yield file, file.relative_to(source)


def install(command: Sequence[str], base: Path) -> list[Path]:
    """Write the entry, which starts `command`, and what belongs to it below `base`.

    Returns the files. Raises `InvalidInput` if they cannot be written.
    """
    made: list[Path] = []
    for source, place in pieces():
        target = base / place
        content = source.read_bytes()
        if target.name == ENTRY:
            content = entry(content.decode(), command).encode()
        try:
            with atomic_file(target) as temporary:
                temporary.write_bytes(content)
            target.chmod(0o644)
        except OSError as error:
            raise InvalidInput(
                f"{target} cannot be written ({error.strerror}). Set XDG_DATA_HOME to a folder "
                "that can be.",
                details=str(error),
            ) from error
        made.append(target)
    _tell_desktop(base)
    return made


def remove(base: Path) -> list[Path]:
    """Delete what `install` wrote, and folders that are empty then; returns the files deleted.

    Raises `InvalidInput` if one cannot be deleted.
    """
    gone: list[Path] = []
    for _, place in pieces():
        target = base / place
        if not target.is_file():
            continue
        try:
            target.unlink()
        except OSError as error:
            raise InvalidInput(f"{target} cannot be deleted ({error.strerror}).") from error
        gone.append(target)
        for folder in list(target.parents)[: len(place.parts) - 1]:
            with contextlib.suppress(OSError):  # others' files are in it
                folder.rmdir()
    if gone:
        _tell_desktop(base)
    return gone


def installed_program(base: Path) -> Path | None:
    """The program that the user's menu entry starts; None if there is no entry."""
    try:
        text = (base / "applications" / ENTRY).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if key == "TryExec":
            return Path(value.replace("\\\\", "\\"))
    return None


def entry(text: str, command: Sequence[str]) -> str:
    """The entry's text with the program that it starts put in."""
    lines = []
    for line in text.splitlines():
        key = line.partition("=")[0]
        if key == "Exec":
            line = "Exec=" + " ".join(quoted(word) for word in command)
        elif key == "TryExec":
            line = "TryExec=" + command[0].replace("\\", "\\\\")
        lines.append(line)
    return "\n".join(lines) + "\n"


def quoted(word: str) -> str:
    """A word of an Exec line: in quotes, its special characters escaped, twice as the file needs.

    The backslash before a special character is itself escaped in a string of the file.
    """
    plain = word.replace("%", "%%")
    if plain and all(c.isalnum() or c in "/._-+%:@," for c in plain):
        return plain
    escaped = "".join(f"\\{c}" if c in _QUOTED else c for c in plain)
    return '"' + escaped.replace("\\", "\\\\") + '"'


def _tell_desktop(base: Path) -> None:
    """Have GTK's cache of icons made anew where there is one: it hides what came later."""
    theme = base / "icons" / "hicolor"
    program = shutil.which("gtk-update-icon-cache")
    if program and (theme / "icon-theme.cache").is_file():
        subprocess.run(
            [program, "-q", "-t", str(theme)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=20,
            check=False,
        )
