"""What the readers and writers of other programs' SAE files share."""

from __future__ import annotations

import errno
import json
import struct
import zipfile
import zlib
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mistudio.core.atomic import atomic_directory
from mistudio.core.errors import (
    Damaged,
    InvalidInput,
    Mismatch,
    NotFound,
    Unsupported,
    from_os_error,
)
from mistudio.ml.sae.base import SparseAutoencoder

# what readers of binary files raise on bytes that are no such file
BROKEN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


@contextmanager
def reading(path: Path) -> Generator[None, None, None]:
    """Turn what goes wrong while a binary file is read into `NotFound` or `Damaged`."""
    if not path.is_file():
        raise NotFound(f"There is no {path.name} in {path.parent}.")
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:  # how a seek to before the start of a cut file fails
            raise from_os_error(error, f"read {path.name}") from error
        details = str(error)
    except BROKEN as error:
        details = str(error)
    else:
        return
    raise Damaged(f"{path.name} in {path.parent} is damaged or incomplete.", details=details)


def read_json(path: Path, program: str) -> dict[str, Any]:
    """The object in a JSON file; raises `NotFound` or `Damaged`, naming the `program`."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFound(
            f"There is no {path.name} in {path.parent}; it is no {program} folder."
        ) from None
    except OSError as error:
        raise from_os_error(error, f"read {path.name}") from error
    except ValueError as error:
        raise Damaged(
            f"{path.name} in {path.parent} is not valid JSON.", details=str(error)
        ) from None
    if not isinstance(value, dict):
        raise Damaged(f"{path.name} in {path.parent} does not describe an SAE.")
    return value


def optional_json(path: Path, program: str) -> dict[str, Any]:
    """As `read_json`; a missing file is empty."""
    return read_json(path, program) if path.is_file() else {}


def take(
    tensors: Mapping[str, torch.Tensor],
    needed: Sequence[str],
    file: str,
    ignored: Sequence[str] = (),
) -> list[torch.Tensor]:
    """The needed tensors in float32 on the CPU, in that order; none may lack, none be left over.

    Raises `Damaged` for a missing one or values that are not finite, `Unsupported` for one that
    is neither needed nor ignored: a file that holds more than is understood is not read.
    """
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise Damaged(f"{file} lacks {', '.join(missing)}.")
    extra = sorted(set(tensors) - set(needed) - set(ignored))
    if extra:
        raise Unsupported(f"{file} holds {', '.join(extra)}, which is not understood.")
    for name in needed:
        tensor = tensors[name]
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise Damaged(f"{name} in {file} holds values that are not finite numbers.")
    return [tensors[name].detach().to("cpu", torch.float32) for name in needed]


def assemble(
    W_enc_DF: torch.Tensor,
    b_enc_F: torch.Tensor,
    W_dec_FO: torch.Tensor,
    b_dec_O: torch.Tensor,
    architecture: str,
    *,
    subtracts_b_dec: bool,
    k: int | None = None,
    threshold: torch.Tensor | None = None,
    encoder: str = "sae",
    W_skip_OD: torch.Tensor | None = None,
) -> SparseAutoencoder:
    """An SAE from tensors in our orientation; one threshold stands for all latents.

    `encoder` says whether it is a transcoder; with a skip it is a skip transcoder.

    Raises `Unsupported` for more or other axes than an SAE has, `Mismatch` for shapes that
    contradict each other.
    """
    if W_enc_DF.ndim != 2 or W_dec_FO.ndim != 2:
        raise Unsupported("Crosscoders and transcoders across layers cannot be read yet.")
    if encoder == "sae" and W_enc_DF.shape[0] != W_dec_FO.shape[1]:
        raise Unsupported(
            f"This reads activations of width {W_enc_DF.shape[0]:,} and writes width "
            f"{W_dec_FO.shape[1]:,}: it is a transcoder, which the file does not say."
        )
    if b_enc_F.ndim != 1 or b_dec_O.ndim != 1:
        raise Mismatch("The SAE's biases are not vectors.")
    if threshold is not None:
        threshold = threshold.expand(W_enc_DF.shape[1]) if threshold.numel() == 1 else threshold
        threshold = threshold.contiguous()
    return SparseAutoencoder(
        W_enc_DF.contiguous(),
        b_enc_F,
        W_dec_FO.contiguous(),
        b_dec_O,
        architecture,
        k=k,
        threshold_F=threshold,
        apply_b_dec_to_input=subtracts_b_dec,
        W_skip_OD=None if W_skip_OD is None else W_skip_OD.contiguous(),
        encoder=encoder if W_skip_OD is None else "skip_transcoder",
    )


def known(**values: Any) -> dict[str, Any]:
    """The metadata that a file tells: what is empty is left out."""
    return {name: value for name, value in values.items() if value not in (None, "", {}, [])}


def check_no_token_norm(sae: SparseAutoencoder, program: str) -> None:
    """Raise `Unsupported` for an SAE that scales each token by itself."""
    if sae.token_norm:
        raise Unsupported(
            f"{program} has no SAEs that scale each token by itself ({sae.token_norm}), as this "
            "one does; SAELens can hold it."
        )


def b_enc_without_subtraction(sae: SparseAutoencoder) -> torch.Tensor:
    """b_enc [n_latents] for programs that encode x itself: b_enc - b_dec W_enc, in float64."""
    if not sae.apply_b_dec_to_input:
        return sae.b_enc_F
    shift_F = sae.b_dec_O.double() @ sae.W_enc_DF.double()
    return (sae.b_enc_F.double() - shift_F).to(sae.b_enc_F.dtype)


def b_enc_with_subtraction(sae: SparseAutoencoder) -> torch.Tensor:
    """b_enc [n_latents] for programs that encode x - b_dec: b_enc + b_dec W_enc, in float64."""
    if sae.apply_b_dec_to_input:
        return sae.b_enc_F
    shift_F = sae.b_dec_O.double() @ sae.W_enc_DF.double()
    return (sae.b_enc_F.double() + shift_F).to(sae.b_enc_F.dtype)


@contextmanager
def new_folder(folder: Path) -> Generator[Path, None, None]:
    """Yield a temporary folder that becomes `folder` once all of it is on disk.

    Raises `InvalidInput` if the folder holds files already, `DiskFull` if there is no room.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InvalidInput(f"{folder} exists and is not empty; name a new folder.")
        with atomic_directory(folder) as temporary:
            yield temporary
    except OSError as error:
        raise from_os_error(error, "write the SAE") from error


def write_text_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file into a folder that is not visible yet."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    path.write_text(text + "\n", encoding="utf-8")
