"""Arrays on disk: appended while a harvest runs, memory-mapped afterwards."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mistudio.core.errors import Damaged

HEADER_BYTES = 128


class AppendArray:
    """A one-dimensional `.npy` file that grows at its end; its header is written by `close`.

    An existing file is cut to `length` entries, so that a run goes on from its checkpoint.
    """

    def __init__(self, path: Path, dtype: DTypeLike, *, length: int = 0) -> None:
        self.dtype = np.dtype(dtype)
        self.length = length
        exists = path.exists()
        end = HEADER_BYTES + length * self.dtype.itemsize
        if length and (not exists or path.stat().st_size < end):
            raise Damaged(f"{path.name} is shorter than its checkpoint says; start the run anew.")
        self._file = path.open("r+b" if exists else "w+b")
        self._file.truncate(end)
        self._file.seek(end)

    def append(self, values: NDArray[np.generic]) -> None:
        """Write `values` (cast to the array's type) at the end."""
        self._file.write(np.ascontiguousarray(values, dtype=self.dtype).tobytes())
        self.length += values.size

    def sync(self) -> None:
        """Force what was appended onto the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self, *, finished: bool = True) -> None:
        """Close the file; `finished` writes the header that makes it readable."""
        if self._file.closed:
            return
        if finished:
            self._file.flush()
            self._file.seek(0)
            self._file.write(_header(self.dtype, self.length))
            self.sync()
        self._file.close()


def _header(dtype: np.dtype[np.generic], length: int) -> bytes:
    """A version 1.0 `.npy` header padded to `HEADER_BYTES`."""
    fields = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': ({length},), }}"
    body = fields.encode("ascii").ljust(HEADER_BYTES - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body


def create_array(path: Path, dtype: DTypeLike, length: int) -> NDArray[Any]:
    """A writable memory-mapped `.npy` array of `length` zeros; an empty one has no mapping.

    The room is taken at once: a disk that fills up under a mapping would kill the process, here
    it is an OSError.
    """
    if length == 0:
        np.save(path, np.empty(0, dtype))
        return np.empty(0, dtype)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=(length,))
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def open_array(path: Path) -> NDArray[Any]:
    """An existing `.npy` array, memory-mapped and read-only; raises `Damaged` if it is broken."""
    try:
        # a plain view of the mapping: numpy's memmap class makes small look-ups slow
        return np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    except FileNotFoundError:
        raise Damaged(
            f"The feature set lacks {path.name}; find the features again.", details=str(path)
        ) from None
    except ValueError as error:
        # numpy cannot map an array without entries
        try:
            return np.load(path, allow_pickle=False)
        except ValueError:
            raise Damaged(
                f"{path.name} of the feature set is broken; find the features again.",
                details=str(error),
            ) from error


def hash_files(folder: Path, names: Iterable[str]) -> str:
    """SHA-256 over names and bytes of files, in the given order."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode())
        with (folder / name).open("rb") as stream:
            for block in iter(lambda: stream.read(1 << 22), b""):
                digest.update(block)
    return digest.hexdigest()
