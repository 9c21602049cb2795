"""The weight files of a model folder: which there are, and whether they are complete."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from mistudio.core.errors import Damaged, InvalidInput, Unsupported

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_MAX_HEADER = 100_000_000


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder; raises a sentence if they are not all there."""
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    if index.is_file():
        try:
            names = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise Damaged(f"{index.name} is damaged; get it again.", details=str(error)) from error
        if any(Path(name).name != name for name in names):
            raise Damaged(f"{index.name} names files outside this folder; get it again.")
        for i, name in enumerate(names):
            if not (folder / name).is_file():
                raise Damaged(f"File {i + 1} of {len(names)} is missing: {name}.")
        return [folder / name for name in names]
    if any(item.suffix in _PICKLES for item in folder.iterdir()):
        raise Unsupported(
            "Only safetensors and GGUF are opened; this has pickle files.", code="pickle_weights"
        )
    raise InvalidInput("This folder has no weights (model.safetensors).")


def check_safetensors(file: Path) -> dict[str, Any]:
    """The header of a safetensors file: tensor name to dtype, shape, offsets.

    Raises `Damaged` if the header is broken or its sizes and the file's size disagree.
    """
    size = file.stat().st_size
    broken = Damaged(
        f"{file.name} is damaged or incomplete; get it again.", details=f"{size} bytes"
    )
    with file.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(size - 8, _MAX_HEADER):
            raise broken
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
            [element_count(entry["shape"]) for entry in header.values()]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise broken from error
    if 8 + length + end != size:
        raise broken
    return header


def element_count(shape: list[int]) -> int:
    """Elements of a tensor of that shape."""
    total = 1
    for extent in shape:
        total *= int(extent)
    return total
