"""A file mapped into memory for Arrow, whose pages can be given back."""

from __future__ import annotations

import mmap
from pathlib import Path

import pyarrow as pa


class MappedFile:
    """`source` is what Arrow reads; arrays made from it point into the file, without a copy."""

    def __init__(self, path: Path) -> None:
        """Raises OSError, and ValueError for an empty file."""
        with path.open("rb") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self.source = pa.BufferReader(pa.py_buffer(self._map))

    def forget(self) -> None:
        """Take the pages that were read out of this process' memory; arrays stay valid."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
