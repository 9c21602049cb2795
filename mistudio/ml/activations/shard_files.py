"""One shard's file, written as its tokens come: safetensors, or raw numbers with a description."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mistudio.core.atomic import fsync_path

TENSOR = "activations"
DTYPES: dict[str, torch.dtype] = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
}
_SAFE_NAMES = {"fp16": "F16", "bf16": "BF16", "fp32": "F32"}
SUFFIXES = {"safetensors": ".safetensors", "raw": ".bin"}
_PIECE = 8 << 20  # bytes written between two looks at whether to go on


class Written(NamedTuple):
    """A finished file, as `meta.json` lists it."""

    name: str  # relative to the set's folder
    bytes: int
    sha256: str


def _go_on() -> None:
    """Nothing asks for an end."""


class ShardFile:
    """Writes rows [n, width] of one shard; it takes its name only when it is whole.

    Batches are appended and then committed, so that one that broke off can be taken back.
    """

    def __init__(self, path: Path, rows: int, width: int, dtype: str, container: str) -> None:
        self._final = path.with_suffix(SUFFIXES[container])
        self._path = self._final.with_name(f".{self._final.name}.tmp")
        self._dtype = DTYPES[dtype]
        self._digest = hashlib.sha256()
        header = b""
        self._description: dict[str, Any] | None = None
        if container == "safetensors":
            size = rows * width * self._dtype.itemsize
            entry = {
                "dtype": _SAFE_NAMES[dtype],
                "shape": [rows, width],
                "data_offsets": [0, size],
            }
            header = safetensors_header({TENSOR: entry})
        else:
            self._description = {"dtype": dtype, "shape": [rows, width], "order": "little-endian"}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_bytes(header)
        self._digest.update(header)
        self._size = len(header)
        self._committed = (self._size, self._digest.copy())

    def append(self, x_TD: torch.Tensor, check: Callable[[], object] = _go_on) -> None:
        """Write some rows, in the shard's precision, which is the tensor's own.

        `check` is called between pieces and may raise.
        """
        plain_TD = x_TD.to("cpu", self._dtype).contiguous()
        view = plain_TD.view(torch.uint8).numpy().reshape(-1).data
        with self._path.open("r+b", buffering=0) as stream:
            stream.seek(self._size)
            while len(view):
                check()
                written = stream.write(view[:_PIECE])
                self._digest.update(view[:written])
                self._size += written
                view = view[written:]

    def commit(self) -> None:
        """Count what was appended since the last commit."""
        self._committed = (self._size, self._digest.copy())

    def rollback(self) -> None:
        """Forget what was appended since the last commit; the next batch is written over it."""
        self._size, digest = self._committed
        self._digest = digest.copy()

    def finish(self) -> list[Written]:
        """Flush, let the file take its name, and say what was written."""
        with self._path.open("r+b") as stream:
            stream.truncate(self._size)
        fsync_path(self._path)
        self._path.replace(self._final)
        folder = self._final.parent.name
        found = [Written(f"{folder}/{self._final.name}", self._size, self._digest.hexdigest())]
        if self._description is not None:
            found.append(write_small(self._final.with_suffix(".json"), _json(self._description)))
        return found


def write_small(path: Path, content: bytes) -> Written:
    """Write a file whose content is at hand, visible only when whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(content)
    fsync_path(temporary)
    temporary.replace(path)
    digest = hashlib.sha256(content).hexdigest()
    return Written(f"{path.parent.name}/{path.name}", len(content), digest)


def token_bytes(columns: dict[str, np.ndarray]) -> bytes:
    """A safetensors file of one-dimensional int32 and uint8 columns."""
    names = {"int32": "I32", "uint8": "U8"}
    entries: dict[str, Any] = {}
    at = 0
    for name, values in columns.items():
        entries[name] = {
            "dtype": names[str(values.dtype)],
            "shape": [len(values)],
            "data_offsets": [at, at + values.nbytes],
        }
        at += values.nbytes
    return safetensors_header(entries) + b"".join(v.tobytes() for v in columns.values())


def safetensors_header(entries: dict[str, Any]) -> bytes:
    """Length and description at the start of a safetensors file; data begins at 8-byte steps."""
    text = _json(entries)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
