"""llama.cpp's control vectors: GGUF files with one vector per block.

Tensors are named direction.k, have one axis and are F32; all have one width. llama.cpp adds
direction.k to what block k (from 0) gives, behind the block's last residual addition, at every
position: in `llama_adapter_cvec` tensors[k] is what `build_cvec(cur, il=k)` adds. So direction.L
is resid_post of layer L. There is no slot for block 0, and the loader refuses direction.0; several
of one k are summed. `controlvector.model_hint` and `controlvector.layer_count` (how many vectors)
are written by its generator and by repeng; the loader does not read them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.core.atomic import atomic_file
from mistudio.core.errors import (
    Damaged,
    InvalidInput,
    Mismatch,
    NotFound,
    Unsupported,
    from_os_error,
)

ARCHITECTURE = "controlvector"
_PREFIX = "direction."


class ControlVector(NamedTuple):
    """What a file holds: float32 vectors [D] by block number."""

    model_hint: str
    directions: dict[int, NDArray[np.float32]]


def block_of(layer: int, hook: str) -> int:
    """k of direction.k for a vector that is added at a hook; raises `Unsupported`.

    What is added to a sublayer's output is not the same as added behind the block: attention's is
    read by the MLP, and some families normalise both before they add them.
    """
    if hook != "resid_post":
        raise Unsupported(
            f"llama.cpp adds control vectors to the output of a block (resid_post); this one is "
            f"for {hook} of layer {layer}. Write safetensors instead."
        )
    if layer < 1:
        raise Unsupported(
            "llama.cpp has no place for a control vector at layer 0 and refuses the whole file. "
            "Use a vector of layer 1 or later, or write safetensors."
        )
    return layer


def refuse_non_additive(operators: Iterable[str]) -> None:
    """Raise `Unsupported` unless every operator adds the same vector whatever the text is."""
    other = sorted({operator for operator in operators if operator != "add"})
    if other:
        raise Unsupported(
            f"A control vector only adds: {', '.join(other)} depends on what the model holds at "
            "each token and cannot be written as one. Use add, or export a snippet of code."
        )


def merged(pairs: Iterable[tuple[int, NDArray[np.floating]]]) -> dict[int, NDArray[np.float32]]:
    """Vectors [D] by layer, those of one layer summed in float64; raises `Mismatch`, `Unsupported`.

    Vectors that sum to nothing are left out.
    """
    sums: dict[int, NDArray[np.float64]] = {}
    for layer, v_D in pairs:
        value = np.asarray(v_D, np.float64)
        if layer in sums and sums[layer].shape != value.shape:
            raise Mismatch(
                f"The vectors of layer {layer} have widths {sums[layer].size:,} and {value.size:,};"
                " they belong to different models."
            )
        sums[layer] = sums[layer] + value if layer in sums else value
    with np.errstate(over="ignore"):
        plain = {layer: sums[layer].astype(np.float32) for layer in sorted(sums)}
    if any(not np.isfinite(v_D).all() for v_D in plain.values()):
        raise InvalidInput("The vectors become too large for float32; use smaller strengths.")
    kept = {layer: v_D for layer, v_D in plain.items() if np.any(v_D)}
    if not kept:
        raise InvalidInput("All strengths are 0 or cancel; there is nothing to write.")
    return kept


def write_control_vector(
    path: Path, pairs: Iterable[tuple[int, NDArray[np.floating]]], model_hint: str
) -> dict[int, NDArray[np.float32]]:
    """Write (layer, vector) pairs at resid_post; those of one layer are summed. What was written.

    `model_hint` is the architecture, such as "llama". The file is read again before it takes its
    name. Raises `Unsupported` for layer 0, `Mismatch` for different widths, `DiskFull`.
    """
    from gguf import GGUFWriter

    directions = {block_of(layer, "resid_post"): v_D for layer, v_D in merged(pairs).items()}
    widths = sorted({v_D.size for v_D in directions.values()})
    if len(widths) > 1:
        raise Mismatch(
            f"The vectors have widths {', '.join(f'{w:,}' for w in widths)}; a file has one."
        )
    try:
        with atomic_file(path) as temporary:
            writer = GGUFWriter(temporary, ARCHITECTURE)
            try:
                writer.add_string(f"{ARCHITECTURE}.model_hint", model_hint)
                writer.add_int32(f"{ARCHITECTURE}.layer_count", len(directions))
                for layer, v_D in directions.items():
                    writer.add_tensor(f"{_PREFIX}{layer}", v_D)
                writer.write_header_to_file()
                writer.write_kv_data_to_file()
                writer.write_tensors_to_file()
            finally:
                writer.close()
            _check(temporary, directions)
    except OSError as error:
        raise from_os_error(error, f"write {path.name}") from error
    return directions


def _check(path: Path, directions: Mapping[int, NDArray[np.float32]]) -> None:
    found = read_control_vector(path).directions
    same = found.keys() == directions.keys() and all(
        np.array_equal(found[layer], directions[layer]) for layer in directions
    )
    if not same:
        raise Damaged("The control vector did not come out as it should; nothing was written.")


def read_control_vector(path: Path) -> ControlVector:
    """The directions of a file, rising; raises `NotFound`, `Damaged`, `Unsupported`, `Mismatch`."""
    from gguf import GGMLQuantizationType, GGUFReader

    if not path.is_file():
        raise NotFound(f"There is no file {path}.")
    try:
        reader = GGUFReader(path)
        architecture = _text(reader, "general.architecture")
        hint = _text(reader, f"{ARCHITECTURE}.model_hint")
    except Exception as error:
        raise Damaged(f"{path.name} is no readable GGUF file.", details=str(error)) from error
    if architecture != ARCHITECTURE:
        raise Unsupported(
            f"{path.name} holds {architecture or 'something else'}, not a control vector."
        )
    directions: dict[int, NDArray[np.float32]] = {}
    for tensor in reader.tensors:
        place = str(tensor.name).removeprefix(_PREFIX)
        if place == tensor.name or not place.isdecimal():
            raise Unsupported(f"{path.name} holds {tensor.name}, which is not understood.")
        if int(place) == 0:
            raise Unsupported(
                f"{path.name} holds direction.0, which llama.cpp refuses: layers begin at 1."
            )
        if tensor.tensor_type != GGMLQuantizationType.F32 or len(tensor.shape) != 1:
            raise Unsupported(
                f"{tensor.name} in {path.name} is {tensor.tensor_type.name} with "
                f"{len(tensor.shape)} axes; a direction is F32 with one."
            )
        directions[int(place)] = np.array(tensor.data, np.float32)
    if len({v_D.size for v_D in directions.values()}) > 1:
        raise Mismatch(f"The directions in {path.name} have different widths.")
    return ControlVector(hint, dict(sorted(directions.items())))


def _text(reader: object, key: str) -> str:
    field = getattr(reader, "fields", {}).get(key)
    value = field.contents() if field is not None else ""
    return value if isinstance(value, str) else ""
