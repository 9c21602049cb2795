"""One stored vector: a safetensors file with the numbers in fp32 and what they are as metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mistudio.core.atomic import atomic_file
from mistudio.core.errors import Damaged, NotFound, from_os_error

NAME = "vector"


def write_vector(path: Path, v_D: NDArray[np.floating], told: Mapping[str, Any]) -> None:
    """Write a vector; the file appears when it is whole. Raises `DiskFull`."""
    write_tensors(path, {NAME: v_D}, told)


def write_tensors(
    path: Path, vectors: Mapping[str, NDArray[np.floating]], told: Mapping[str, Any]
) -> None:
    """Write vectors by name, in fp32, with metadata as text; values that are None are left out."""
    tensors = {
        name: torch.from_numpy(np.ascontiguousarray(v_D, np.float32))
        for name, v_D in vectors.items()
    }
    metadata = {name: str(value) for name, value in told.items() if value is not None}
    try:
        with atomic_file(path) as temporary:
            save_file(tensors, temporary, metadata)
    except OSError as error:
        raise from_os_error(error, f"write {path.name}") from error


def read_vector(path: Path) -> NDArray[np.float32]:
    """The vector [D] of a stored file; raises `NotFound` or `Damaged`."""
    if not path.is_file():
        raise NotFound(f"The file of this vector, {path.name}, is gone; make or import it again.")
    try:
        with safe_open(path, "np") as opened:
            found = opened.get_tensor(NAME)
    except (SafetensorError, ValueError, OSError) as error:
        raise Damaged(f"{path.name} is damaged or incomplete.", details=str(error)) from error
    return np.asarray(found, np.float32).reshape(-1)
