"""Takes vectors of a .npy or .safetensors file into an activation set, in pieces."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mistudio.core.control import JobControl
from mistudio.core.errors import Damaged, InvalidInput, NotFound, from_os_error
from mistudio.core.events import Reporter
from mistudio.ml.activations.extract import SHARD_BYTES, ExtractSettings
from mistudio.ml.activations.extract_state import Extraction, PendingShard
from mistudio.ml.activations.set_statistics import Places
from mistudio.ml.activations.shard_files import DTYPES
from mistudio.ml.activations.taken import take

_PIECE = 1 << 22  # values read at a time
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Vectors(NamedTuple):
    """Rows of a file: how many, how wide, in which precision they are kept, how to read some."""

    total: int
    width: int
    dtype: str  # fp16, bf16 or fp32
    read: Callable[[int, int], torch.Tensor]


class _Single(NamedTuple):
    """The rows of vectors, seen as a text whose rows have one token."""

    context: int
    meta: Mapping[str, Any]


def open_vectors(path: Path, tensor: str = "") -> Vectors:
    """The two-dimensional array [rows, width] of a file; `tensor` names it where there are several.

    Raises `NotFound`, `Damaged`, or `InvalidInput` for what holds no such array.
    """
    if not path.is_file():
        raise NotFound(f"There is no file {path}.")
    if path.suffix == ".npy":
        return _npy(path)
    if path.suffix == ".safetensors":
        return _safetensors(path, tensor)
    raise InvalidInput(f"{path.name} is neither a .npy nor a .safetensors file.")


def import_vectors(
    vectors: Vectors, point: tuple[int, str], folder: Path, report: Reporter, control: JobControl
) -> Extraction:
    """Fill `folder` with an activation set of the vectors, each a row of its own.

    Raises `InvalidInput` if there are none, `DiskFull`.
    """
    if vectors.total < 3 or vectors.width < 2:
        raise InvalidInput(
            f"This file holds {vectors.total:,} vectors of width {vectors.width:,}; it takes at "
            "least three of width two."
        )
    settings = ExtractSettings((point[0],), (point[1],), batch=1, dtype=vectors.dtype)
    made = Extraction(folder, settings, [vectors.width], _Single(1, {}), 1, {}, SHARD_BYTES)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for low in range(0, vectors.total, made.shard_rows):
            _shard(made, vectors, low, min(vectors.total, low + made.shard_rows), report, control)
        made.complete(0, "")
    except OSError as error:
        raise from_os_error(error, "write the activations") from error
    return made


def _shard(
    made: Extraction, vectors: Vectors, low: int, high: int, report: Reporter, control: JobControl
) -> None:
    began = time.monotonic()
    file, statistics = made.open_shard(high - low)[0], made.statistics[0]
    step = max(1, _PIECE // vectors.width)
    columns: list[tuple[np.ndarray, ...]] = []
    for start in range(low, high, step):
        control.check()
        stop = min(high, start + step)
        rows = np.arange(start, stop, dtype=np.int32)
        none = np.zeros(len(rows), dtype=np.int32)
        taken = take(
            vectors.read(start, stop), DTYPES[vectors.dtype], statistics, Places(none, rows, none)
        )
        taken.wait()
        statistics.add(taken.sums())
        statistics.clipped += taken.clipped()
        file.append(taken.rows_TD, control.check)
        columns.append((none, rows, none, none.astype(np.uint8)))
        report.progress(stop / vectors.total, "Reading", rate=f"{stop:,} vectors")
    shard = PendingShard(high, high - low, columns, 1)
    shard.finish(0, file, statistics)
    made.add_shard(shard, time.monotonic() - began)


def _npy(path: Path) -> Vectors:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise Damaged(f"{path.name} is no readable .npy file.", details=str(error)) from error
    _check(path, array.shape, array.dtype.kind == "f")
    kept = "fp16" if array.dtype == np.float16 else "fp32"

    def read(low: int, high: int) -> torch.Tensor:
        return torch.from_numpy(np.array(array[low:high])).to(DTYPES[kept])

    return Vectors(array.shape[0], array.shape[1], kept, read)


def _safetensors(path: Path, tensor: str) -> Vectors:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as opened:
            shapes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise Damaged(
            f"{path.name} is no readable .safetensors file.", details=str(error)
        ) from error
    matrices = [name for name, shape in shapes.items() if len(shape) == 2]
    if tensor and tensor not in shapes:
        raise InvalidInput(f"{path.name} has no tensor {tensor!r}; it has {', '.join(shapes)}.")
    if not tensor and len(matrices) != 1:
        listed = ", ".join(matrices) or "none"
        raise InvalidInput(
            f"{path.name} must hold one two-dimensional tensor, or one must be named; it has "
            f"{listed}."
        )
    name = tensor or matrices[0]

    def read(low: int, high: int) -> torch.Tensor:
        with safe_open(path, "pt") as opened:
            return opened.get_slice(name)[low:high]

    first = read(0, 1)
    _check(path, tuple(shapes[name]), first.dtype.is_floating_point)
    kept = _NAMES.get(first.dtype, "fp32")
    rows, width = shapes[name]
    return Vectors(rows, width, kept, lambda low, high: read(low, high).to(DTYPES[kept]))


def _check(path: Path, shape: tuple[int, ...], is_float: bool) -> None:
    if len(shape) != 2:
        raise InvalidInput(
            f"{path.name} holds an array of shape {tuple(shape)}; rows of vectors [rows, width] "
            "are wanted."
        )
    if not is_float:
        raise InvalidInput(f"{path.name} holds no floating-point numbers.")
