"""Vectors in the files of other programs: safetensors, .npy, GGUF control vectors, Neuronpedia.

Layers are numbers of blocks from 0 whose output (resid_post) the vector is added to, or None where
the file does not say.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.core.configs import SAE_HOOKS
from mistudio.core.errors import Damaged, InvalidInput, NotFound, Unsupported

ENDINGS = (".safetensors", ".npy", ".gguf", ".json", ".jsonl", ".gz")
MOST_VECTORS = 512
_LAYER = re.compile(r"(?<![0-9A-Za-z])(?:l|layer|layers|block|blocks|h)?[._-]?(\d+)(?![0-9])", re.I)
_NP_HOOK = re.compile(
    r"^blocks\.(\d+)\.(hook_resid_pre|hook_resid_mid|hook_resid_post|hook_mlp_out|hook_attn_out|attn\.hook_z)$"
)


class Found(NamedTuple):
    """A vector of a file, float32 [D], finite; `name`, `layer` and `hook` as the file says."""

    v_D: NDArray[np.float32]
    layer: int | None
    hook: str | None
    name: str
    model_hint: str = ""


def read_file(path: Path) -> list[Found]:
    """Every vector of a file, by layer.

    Raises `NotFound`, `Damaged`, `Unsupported` for another kind of file, and `InvalidInput` for
    numbers that are no vector.
    """
    if not path.is_file():
        raise NotFound(f"There is no file {path}.")
    readers = {
        ".safetensors": _safetensors,
        ".npy": _npy,
        ".gguf": _gguf,
        ".json": _neuronpedia,
        ".jsonl": _neuronpedia,
        ".gz": _neuronpedia,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise Unsupported(
            f"{path.name} is no file of vectors; those end in .safetensors, .npy, .gguf, .json, "
            ".jsonl or .jsonl.gz."
        )
    found = reader(path)
    if not found:
        raise InvalidInput(f"{path.name} holds no vector.")
    if len(found) > MOST_VECTORS:
        raise InvalidInput(
            f"{path.name} holds {len(found):,} vectors; at most {MOST_VECTORS} are read at once."
        )
    return sorted(found, key=lambda one: (-1 if one.layer is None else one.layer, one.name))


def layer_in(name: str) -> int | None:
    """The one number in a tensor's name, such as "direction.8" or "model.layers.8"; else None."""
    numbers = _LAYER.findall(name)
    return int(numbers[0]) if len(numbers) == 1 else None


def _checked(path: Path, name: str, array: Any) -> NDArray[np.float32]:
    """One vector [D] in fp32; raises `InvalidInput` for other shapes, types and values."""
    v_D = np.asarray(array)
    if v_D.dtype.kind != "f":
        raise InvalidInput(
            f"{name} in {path.name} holds {v_D.dtype} where floating-point numbers are wanted."
        )
    if v_D.ndim != 1 or v_D.size < 2:
        raise InvalidInput(
            f"{name} in {path.name} has shape {list(v_D.shape)}; a vector has one axis."
        )
    if not np.isfinite(v_D).all():
        raise InvalidInput(f"{name} in {path.name} holds values that are not finite numbers.")
    with np.errstate(over="ignore"):
        plain_D = v_D.astype(np.float32)
    if not np.isfinite(plain_D).all():
        raise InvalidInput(f"{name} in {path.name} holds numbers beyond the range of float32.")
    if not np.linalg.norm(plain_D.astype(np.float64)) > 0:
        raise InvalidInput(f"{name} in {path.name} is zero everywhere; it would change nothing.")
    return plain_D


def _rows(path: Path, name: str, array: Any) -> list[Found]:
    """A vector, or a matrix whose rows belong to blocks from 0 on, or to one the user names."""
    values = np.asarray(array)
    if values.ndim == 2 and values.shape[0] > 1:
        named = [(f"row {row} of {name}", values[row], row) for row in range(len(values))]
        # a control vector often leaves blocks out, as rows of zeros
        kept = [one for one in named if values.dtype.kind != "f" or np.any(one[1] != 0)]
        return [Found(_checked(path, said, row), layer, None, said) for said, row, layer in kept]
    if values.ndim == 2 and values.shape[0] == 1:
        values = values[0]
    return [Found(_checked(path, name, values), layer_in(name), None, name)]


def _npy(path: Path) -> list[Found]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise Damaged(f"{path.name} is no readable .npy file.", details=str(error)) from error
    found = _rows(path, "The array", array)
    return [one._replace(name=path.stem) for one in found] if len(found) == 1 else found


def _safetensors(path: Path) -> list[Found]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as opened:
            told = dict(opened.metadata() or {})
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, OSError) as error:
        raise Damaged(
            f"{path.name} is no readable .safetensors file.", details=str(error)
        ) from error
    found: list[Found] = []
    for name, tensor in tensors.items():
        # numpy has no bfloat16
        plain = tensor.float() if tensor.is_floating_point() else tensor
        found += _rows(path, name, plain.numpy())
    hook = told.get("hook") or None
    single = _whole(told.get("layer")) if len(found) == 1 else None
    return [
        one._replace(
            layer=one.layer if single is None else single,
            hook=hook or _hook_in(one.name),
            name=told.get("name", one.name) if len(found) == 1 else one.name,
            model_hint=told.get("model", ""),
        )
        for one in found
    ]


def _hook_in(name: str) -> str | None:
    """The hook that a tensor is named after in a file of several, such as "attn_z.8"; else None."""
    stem = name.partition(".")[0]
    return stem if stem in SAE_HOOKS else None


def _whole(text: Any) -> int | None:
    try:
        return int(str(text))
    except ValueError:
        return None


def _gguf(path: Path) -> list[Found]:
    """llama.cpp's control vector, which repeng writes too; see `control_vector` for its layers."""
    from mistudio.ml.steering.control_vector import read_control_vector

    held = read_control_vector(path)
    return [
        Found(_checked(path, f"direction.{layer}", v), layer, "resid_post", f"direction.{layer}",
              held.model_hint)
        for layer, v in held.directions.items()
    ]  # fmt: skip


def _neuronpedia(path: Path) -> list[Found]:
    """Neuronpedia's vectors and features: rows with "vector", and "hookName" or "layer"."""
    found = []
    for number, row in enumerate(_objects(path), 1):
        held = row.get("vector")
        if isinstance(held, dict):
            row, held = held, held.get("vector")
        if not isinstance(held, list) or not held:
            raise InvalidInput(
                f"Row {number} of {path.name} has no “vector” with numbers. A feature's vector is "
                "in Neuronpedia's answer only where hasVector is true."
            )
        if not all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in held):
            raise InvalidInput(
                f"The “vector” of row {number} of {path.name} is no list of numbers."
            )
        layer, hook = _np_place(path, row)
        name = str(row.get("vectorLabel") or row.get("label") or "") or (
            f"{row.get('layer', '')}:{row.get('index', number)}".strip(":")
        )
        v_D = _checked(path, f"The vector of row {number}", np.asarray(held, np.float64))
        found.append(Found(v_D, layer, hook, name, str(row.get("modelId") or "")))
        if len(found) > MOST_VECTORS:
            break
    return found


def _np_place(path: Path, row: dict[str, Any]) -> tuple[int | None, str | None]:
    named = str(row.get("hookName") or "")
    if match := _NP_HOOK.match(named):
        layer, hook = int(match[1]), match[2].replace("attn.hook", "attn").removeprefix("hook_")
        if hook != "resid_pre" or layer == 0:
            return layer, hook
        return layer - 1, "resid_post"  # what enters a block is what the one before gave
    if named:
        raise Unsupported(f"The vector in {path.name} is for the hook {named}, which is not known.")
    match = re.match(r"^(\d+)", str(row.get("layer", "")))
    return (int(match[1]) if match else None), None


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    try:
        data = path.read_bytes()
        if path.suffix.lower() == ".gz":
            data = gzip.decompress(data)
        text = data.decode("utf-8")
        try:
            held = json.loads(text)
        except ValueError:
            held = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, OSError, EOFError) as error:
        raise Damaged(f"{path.name} is no readable JSON file.", details=str(error)) from error
    if isinstance(held, dict) and isinstance(held.get("vectors"), list):
        held = held["vectors"]
    rows = held if isinstance(held, list) else [held]
    for row in rows:
        if not isinstance(row, dict):
            raise InvalidInput(f"{path.name} does not describe vectors as Neuronpedia does.")
        yield row
