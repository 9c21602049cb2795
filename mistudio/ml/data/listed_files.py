"""The files of a repository as a file system that the `datasets` library can read from.

Names and sizes come from a list that was fetched already; bytes come from a `FileSource`, so that
every request to the network stays with its owner: its token, its retries, its cancel.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import fsspec
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from mistudio.core.control import JobControl

PROTOCOL = "studiofiles"
_BLOCK_BYTES = 1 << 20
_BLOCKS = 32  # kept per open file: columns of a parquet file are read by turns


class FileSource(Protocol):
    """Where the bytes of listed files come from."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of every file, by its path in the repository."""
        ...

    @property
    def control(self) -> JobControl:
        """Asked before every read."""
        ...

    def local(self, path: str) -> Path | None:
        """The file on this machine, None if it is not here."""
        ...

    def read(self, path: str, start: int, end: int) -> bytes:
        """Bytes start..end-1 of a file that is not here; raises `StudioError` or `Cancelled`.

        The beginning of a file is asked for two or three times.
        """
        ...


class _Shared:
    """What all open files have in common: the source, what was read, why a read failed.

    The library deep-copies the options of file systems, this object among them: it stays one.
    """

    def __init__(self, source: FileSource, encoding: str) -> None:
        self.source = source
        self.encoding = encoding
        self.failure: BaseException | None = None
        self.bytes_read = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self

    def fetch(self, path: str, start: int, end: int) -> bytes:
        """Bytes of a remote file."""
        try:
            self.source.control.check()
            found = self.source.read(path, start, end)
        except BaseException as error:
            self.failure = error
            raise
        self.bytes_read += len(found)
        return found


class ListedFiles(AbstractFileSystem):
    """`studiofiles://repo/PATH`: a directory tree made of a list, its bytes from a source."""

    protocol = PROTOCOL
    root_marker = ""
    cachable = False

    def __init__(self, shared: _Shared, **options: Any) -> None:
        super().__init__(**options)
        self._shared = shared
        self._source = shared.source

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        return str(path).removeprefix(f"{PROTOCOL}://").removeprefix("repo").strip("/")

    def unstrip_protocol(self, name: str) -> str:
        return address(self._strip_protocol(name))

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        size = self._source.sizes.get(path)
        if size is not None:
            return {"name": path, "size": size, "type": "file"}
        if not path or any(name.startswith(path + "/") for name in self._source.sizes):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        path = self._strip_protocol(path)
        found = {path: self.info(path)} if path in self._source.sizes else self._below(path, 1)
        return list(found.values()) if detail else sorted(found)

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        **options: Any,
    ) -> Any:
        path = self._strip_protocol(path)
        found = self._below(path, maxdepth)
        if path in self._source.sizes:
            found = {path: self.info(path)}
        kept = {n: i for n, i in sorted(found.items()) if withdirs or i["type"] == "file"}
        return kept if detail else list(kept)

    def _below(self, path: str, depth: int | None) -> dict[str, dict[str, Any]]:
        prefix = path + "/" if path else ""
        found: dict[str, dict[str, Any]] = {}
        for name, size in self._source.sizes.items():
            if not name.startswith(prefix):
                continue
            parts = name[len(prefix) :].split("/")
            for i in range(1, len(parts)):
                folder = prefix + "/".join(parts[:i])
                if depth is None or i <= depth:
                    found[folder] = {"name": folder, "size": 0, "type": "directory"}
            if depth is None or len(parts) <= depth:
                found[name] = {"name": name, "size": size, "type": "file"}
        return found

    def open(self, path: str, mode: str = "rb", *args: Any, **options: Any) -> Any:
        """As fsspec's; text is read with the encoding of the mount, and bad bytes are replaced.

        The library drops both settings on the way to a file system that is not the disk's.
        """
        if "b" in mode:
            return super().open(path, mode, *args, **options)
        return io.TextIOWrapper(self._open(path), self._shared.encoding, errors="replace")

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        path = self._strip_protocol(path)
        size = self._source.sizes.get(path)
        if size is None:
            raise FileNotFoundError(path)
        here = self._source.local(path)
        if here is not None:
            return io.BufferedReader(_LocalFile(here, self._shared), _BLOCK_BYTES)
        return _RemoteFile(self, path, size, self._shared)


class _LocalFile(io.RawIOBase):
    """A file on this machine; what is read of it counts as progress.

    Closes itself when it is dropped: the library leaves files open that it stops reading.
    """

    def __init__(self, path: Path, shared: _Shared) -> None:
        super().__init__()
        self._handle = os.open(path, os.O_RDONLY)
        self._shared = shared

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._shared.source.control.check()
        count = os.readv(self._handle, [buffer])
        self._shared.bytes_read += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return os.lseek(self._handle, offset, whence)

    def close(self) -> None:
        if not self.closed:
            os.close(self._handle)
        super().close()


class _RemoteFile(AbstractBufferedFile):
    """One file read block by block through the source; a failure is kept for who started it."""

    def __init__(self, files: ListedFiles, path: str, size: int, shared: _Shared) -> None:
        self._shared = shared
        cache: dict[str, Any] = {
            "block_size": _BLOCK_BYTES,
            "cache_type": "blockcache",
            "cache_options": {"maxblocks": _BLOCKS},
        }
        super().__init__(files, path, "rb", size=size, **cache)

    def _fetch_range(self, start: int, end: int) -> bytes:
        return self._shared.fetch(self.path, start, min(end, self.size))


_registered = threading.Lock()


def address(path: str) -> str:
    """How the library names a listed file or, for "", their root."""
    return f"{PROTOCOL}://repo/{path}".rstrip("/")


def path_of(name: str) -> str:
    """The path in the repository that an address names."""
    return ListedFiles._strip_protocol(name.rsplit("::", 1)[-1])


class Mounted:
    """A source made readable for the library: the options that its calls take."""

    def __init__(self, source: FileSource, encoding: str = "utf-8") -> None:
        with _registered:
            fsspec.register_implementation(PROTOCOL, ListedFiles, clobber=True)
        self._shared = _Shared(source, encoding)
        self.options: dict[str, dict[str, Any]] = {PROTOCOL: {"shared": self._shared}}

    def open(self, path: str) -> Any:
        """A file of the list, opened to read bytes and to seek."""
        return ListedFiles(self._shared)._open(path)

    @property
    def bytes_read(self) -> int:
        """Bytes of files read so far, as stored in the repository."""
        return self._shared.bytes_read

    def failure(self) -> BaseException | None:
        """Why the last read from the source failed; libraries in between change exceptions."""
        return self._shared.failure
