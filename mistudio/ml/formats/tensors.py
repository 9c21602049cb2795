"""Safetensors files whose failures are sentences."""

from __future__ import annotations

import errno
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from mistudio.core.errors import Damaged, Mismatch, NotFound, from_os_error

SUMMED_ENTRIES = 1 << 26  # of a tensor that is summed, read at a time (256 MB in float32)


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors, moved to the CPU; raises `DiskFull` or another `StudioError`."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(plain, path)
    except OSError as error:
        raise from_os_error(error, f"write {path.name}") from error
    except SafetensorError as error:  # carries the system's error as text only
        full = "os error 28" in str(error) or "os error 122" in str(error)
        cause = OSError(errno.ENOSPC if full else errno.EIO, str(error))
        raise from_os_error(cause, f"write {path.name}") from error


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a file, on the CPU; raises `NotFound` or `Damaged`."""
    with _loading(path):
        return load_file(path)


def load_with_sum(path: Path, name: str) -> tuple[dict[str, torch.Tensor], int]:
    """Every tensor of a file, that called `name` [F, L, O] as its sum over L in float32, and how
    many of the L are more than zeros.

    It is read some rows at a time, as it may be larger than memory. One that lacks is left out.
    Raises as `load_tensors`, and `Mismatch` for one without such an axis.
    """
    with _loading(path), safe_open(path, framework="pt") as file:
        names = set(file.keys())
        tensors = {other: file.get_tensor(other) for other in names - {name}}
        if name not in names:
            return tensors, 0
        part = file.get_slice(name)
        shape = part.get_shape()
        if len(shape) != 3:
            raise Mismatch(f"{name} in {path.name} has no axis of the layers that it writes into.")
        step = max(1, SUMMED_ENTRIES // max(1, shape[1] * shape[2]))
        summed_FO = torch.empty(shape[0], shape[2])
        used_L = torch.zeros(shape[1], dtype=torch.bool)
        for low in range(0, shape[0], step):
            rows_CLO = part[low : low + step].float()
            summed_FO[low : low + step] = rows_CLO.sum(dim=1)
            used_L |= (rows_CLO != 0).any(dim=2).any(dim=0)
        return {**tensors, name: summed_FO}, int(used_L.sum())


@contextmanager
def _loading(path: Path) -> Generator[None, None, None]:
    """Turn what goes wrong while a file is read into `NotFound` or `Damaged`."""
    if not path.is_file():
        raise NotFound(f"There is no {path.name} in {path.parent}.")
    try:
        yield
    except (SafetensorError, ValueError) as error:
        raise Damaged(
            f"{path.name} in {path.parent} is damaged or incomplete.", details=str(error)
        ) from None
    except OSError as error:
        raise from_os_error(error, f"read {path.name}") from error
