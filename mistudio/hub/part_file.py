"""The part of a content that has arrived: grows at its end, and knows whether it is right."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from io import FileIO
from pathlib import Path

from mistudio.core.atomic import fsync_path
from mistudio.hub.client import RemoteFile

_BLOCK = 1 << 20


class PartFile:
    """A file beside the blob it will become. Use as a context; it is closed, not removed."""

    def __init__(self, path: Path, file: RemoteFile, check: Callable[[], object]) -> None:
        """`check` is called while an earlier part is read again; it may raise to end that."""
        self.path = path
        self.file = file
        self.position = 0
        """bytes that have arrived"""
        self._check = check
        self._digest = self._fresh()
        self._stream: FileIO | None = None

    def __enter__(self) -> PartFile:
        self._stream = FileIO(self.path, "a+")
        if self.path.stat().st_size > self.file.size:
            self.restart()
        self._stream.seek(0)
        try:
            while block := self._stream.read(_BLOCK):
                self._digest.update(block)
                self.position += len(block)
                self._check()
        except BaseException:
            self._stream.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _fresh(self) -> hashlib._Hash:
        if self.file.sha256:
            return hashlib.sha256()
        # the Hub names small files as git does; a checksum here, not a protection
        return hashlib.sha1(b"blob %d\0" % self.file.size, usedforsecurity=False)

    @property
    def is_full(self) -> bool:
        return self.position >= self.file.size

    @property
    def is_right(self) -> bool:
        """Whether everything has arrived and has the checksum that the Hub named."""
        return self.position == self.file.size and self._digest.hexdigest() == self.file.etag

    def write(self, block: bytes) -> None:
        """Append bytes; raises OSError, with what fitted counted."""
        stream = self._opened()
        view = memoryview(block)
        while view:
            written = stream.write(view)
            self._digest.update(view[:written])
            self.position += written
            view = view[written:]

    def restart(self) -> None:
        """Forget what has arrived."""
        self._opened().truncate(0)
        self.position = 0
        self._digest = self._fresh()

    def finish(self, blob: Path) -> None:
        """Take the final name; the bytes are on the disk first."""
        os.fsync(self._opened().fileno())
        self.path.replace(blob)
        fsync_path(blob.parent)

    def drop(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)

    def _opened(self) -> FileIO:
        if self._stream is None:
            raise ValueError("the part file is not open")
        return self._stream
