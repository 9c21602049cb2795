"""Decoder rows of an SAE in the library, without torch: kept geometry, and neighbours by cosine.

Geometry is what the weights say of each feature; it is measured once per SAE
(`geometry.measure_geometry`) and kept as one array, so that a page only looks it up. Rows are read
from the memory-mapped weights where a question goes further: more neighbours, or another SAE.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.core.errors import Damaged, Mismatch

KEPT_NEIGHBOURS = 10
MOST_NEIGHBOURS = 128
NEURONS = 3
DUPLICATE_ABOVE = 0.9  # cosine to the nearest row
BLOCK_BYTES = 1 << 26  # of decoder rows read at a time

GEOMETRY = np.dtype(
    [
        ("nearest", "<i4", (KEPT_NEIGHBOURS,)),  # features by falling cosine, -1 if there is none
        ("cosine", "<f4", (KEPT_NEIGHBOURS,)),  # NaN where the feature is -1
        ("norm", "<f4"),  # length of the decoder row, in the model's units
        ("encoder_cosine", "<f4"),  # of encoder column and decoder row; NaN for a transcoder
        ("bias_product", "<f4"),  # decoder row times decoder bias
        ("bias_cosine", "<f4"),  # their cosine; NaN without a bias
        ("neuron", "<i4", (NEURONS,)),  # the largest entries of the row, by |entry|
        ("neuron_value", "<f4", (NEURONS,)),
        ("neuron_share", "<f4", (NEURONS,)),  # |entry| / sum of |entries|
    ]
)

_TYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "F64": np.dtype("<f8")}


class Neighbours(NamedTuple):
    """Features by falling cosine to a direction, ties by index; a cosine may be NaN, at the end."""

    features: NDArray[np.int64]
    cosines: NDArray[np.float64]


def read_geometry(path: Path) -> NDArray[np.void] | None:
    """The kept geometry [F], memory-mapped, None if there is none that can be read."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    return found.view(np.ndarray) if found.dtype == GEOMETRY else None


def open_rows(weights: Path, name: str = "W_dec") -> NDArray[np.floating]:
    """A matrix of a safetensors file, memory-mapped; raises `Damaged`."""
    try:
        with weights.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            told = json.loads(file.read(size))[name]
        rows, width = told["shape"]
        place = 8 + size + int(told["data_offsets"][0])
        # numpy refuses a mapping beyond the end of the file
        found = np.memmap(weights, _TYPES[told["dtype"]], "r", place, (rows, width))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged("The SAE's weights cannot be read.", details=str(error)) from error
    return found.view(np.ndarray)


def neighbours(
    rows_FO: NDArray[np.floating],
    direction_O: NDArray[np.floating],
    top: int,
    *,
    leave_out: int = -1,
    lengths_F: NDArray[np.floating] | None = None,
    check: Callable[[], None] = lambda: None,
) -> Neighbours:
    """The `top` rows with the largest cosine to a direction; rows without a length come last.

    `leave_out` is the direction's own row; known `lengths_F` of the rows save half of the work.
    Raises `Mismatch` if the widths differ.
    """
    if rows_FO.shape[1] != direction_O.size:
        raise Mismatch(
            f"The directions have {rows_FO.shape[1]:,} and {direction_O.size:,} entries; only "
            "SAEs of one stream can be compared."
        )
    d_O = np.asarray(direction_O, np.float32)
    length = float(np.linalg.norm(d_O))
    cosine_F = np.empty(len(rows_FO))
    step = max(1, BLOCK_BYTES // (4 * d_O.size))
    with np.errstate(divide="ignore", invalid="ignore"):
        for start in range(0, len(rows_FO), step):
            check()
            part = np.asarray(rows_FO[start : start + step], np.float32)
            products = part @ d_O
            if lengths_F is None:
                lengths = np.sqrt(np.einsum("fo,fo->f", part, part))
            else:
                lengths = lengths_F[start : start + step]
            cosine_F[start : start + step] = products / lengths / length
    wanted = np.arange(len(rows_FO))
    wanted = wanted[wanted != leave_out]
    key = np.where(np.isnan(cosine_F[wanted]), -np.inf, cosine_F[wanted])
    if wanted.size > top:
        least = np.partition(key, -top)[-top]
        wanted, key = wanted[key >= least], key[key >= least]
    order = wanted[np.lexsort((wanted, -key))][:top]
    return Neighbours(order, np.clip(cosine_F[order], -1.0, 1.0))
