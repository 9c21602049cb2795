"""In which numbers the weights of an SAE's file are stored, before they become float32."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from numpy.lib import format as npy
from safetensors import SafetensorError, safe_open

from mistudio.ml.formats.registry import Found

_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def weights_file(found: Found) -> Path:
    """The file that holds the tensors of a detected SAE."""
    return found.folder if found.format.one_file else found.folder / found.format.marks[-1]


def stored_dtype(path: Path) -> str:
    """The types of numbers in a file, such as "bfloat16"; "" where that cannot be told.

    Of safetensors and npz only the headers are read.
    """
    try:
        if path.suffix == ".safetensors":
            names = _of_safetensors(path)
        elif path.suffix == ".npz":
            names = _of_npz(path)
        else:
            names = _of_pt(path)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, zipfile.BadZipFile):
        return ""
    return ", ".join(sorted(names))


def _of_safetensors(path: Path) -> set[str]:
    with safe_open(path, framework="pt") as file:
        found = {str(file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118
    return {_NAMES.get(name, name) for name in found}


def _of_npz(path: Path) -> set[str]:
    names: set[str] = set()
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as stream:
                is_first = npy.read_magic(stream) == (1, 0)
                read = npy.read_array_header_1_0 if is_first else npy.read_array_header_2_0
                names.add(str(read(stream)[2]))
    return names


def _of_pt(path: Path) -> set[str]:
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    tensors = [value for value in state.values() if isinstance(value, torch.Tensor)]
    return {str(t.dtype).removeprefix("torch.") for t in tensors if t.is_floating_point()}
