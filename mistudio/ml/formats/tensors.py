"""Safetensors files whose failures are sentences."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mistudio.core.errors import Damaged, NotFound, from_os_error


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
    if not path.is_file():
        raise NotFound(f"There is no {path.name} in {path.parent}.")
    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise Damaged(
            f"{path.name} in {path.parent} is damaged or incomplete.", details=str(error)
        ) from None
    except OSError as error:
        raise from_os_error(error, f"read {path.name}") from error
