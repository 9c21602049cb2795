"""A path as a user writes it."""

from __future__ import annotations

from pathlib import Path

from mistudio.core.errors import InvalidInput, NotFound, from_os_error


def local_path(written: str) -> Path:
    """The file or folder that is meant, which exists; ~ is the home directory.

    Raises `NotFound`, or `InvalidInput` for what no path can be.
    """
    written = written.strip()
    if any(0xD800 <= ord(character) <= 0xDFFF for character in written):
        plain = written.encode("utf-8", "replace").decode()
        raise InvalidInput(f"The name {plain!r} has bytes that are no UTF-8. Rename it first.")
    try:
        path = Path(written).expanduser()
        exists = path.exists()
    except OSError as error:
        raise from_os_error(error, "look for the file") from error
    except (RuntimeError, ValueError):  # the home of nobody, a zero byte
        exists, path = False, Path()
    if not exists:
        raise NotFound(f"There is no file {written!r}.")
    return path
