"""An .npy file that grows by rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_HEADER = 128  # bytes; numpy's own header for these shapes, rewritten once the length is known


class ArrayFile:
    """Rows are appended as they come; the header gets the final shape at the end."""

    def __init__(self, path: Path, dtype: np.dtype[Any], row_shape: tuple[int, ...]) -> None:
        self._dtype, self._row_shape = dtype, row_shape
        self._rows = 0
        self._stream: BinaryIO = path.open("wb")
        self._stream.write(b"\0" * _HEADER)

    def append(self, rows: np.ndarray) -> None:
        """Write rows of the declared shape."""
        if len(rows):
            flat = np.ascontiguousarray(rows, dtype=self._dtype).reshape(-1)
            self._stream.write(flat.view(np.uint8).data)
            self._rows += len(rows)

    def close(self) -> None:
        """Write the header and close."""
        with self._stream as stream:
            stream.seek(0)
            header = {
                "descr": np.lib.format.dtype_to_descr(self._dtype),
                "fortran_order": False,
                "shape": (self._rows, *self._row_shape),
            }
            np.lib.format.write_array_header_1_0(stream, header)
            if stream.tell() != _HEADER:
                raise ValueError("unexpected header length")
