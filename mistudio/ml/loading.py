"""Loads a language model and its tokenizer from a Hugging Face folder or a GGUF file."""

from __future__ import annotations

import functools
import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils
from transformers.utils import logging as transformers_logging

from mistudio.core.errors import Damaged, InvalidInput, OutOfMemory, Unsupported
from mistudio.ml.architecture import Blocks, find_blocks
from mistudio.ml.device import default_dtype
from mistudio.ml.facts import ModelFacts, inspect_model, quiet_transformers, shared_gguf_reader

__all__ = [
    "LoadedModel",
    "ModelFacts",
    "inspect_model",
    "load_model",
    "load_tokenizer",
    "tokenizer_fingerprint",
]

transformers_logging.disable_progress_bar()


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run, with its tokenizer and the places where it can be read."""

    model: Any  # a transformers causal language model in eval mode, parameters without gradient
    tokenizer: Any  # a fast tokenizer
    device: torch.device
    facts: ModelFacts
    blocks: Blocks
    path: Path

    @property
    def num_layers(self) -> int:
        """Number of blocks found."""
        return len(self.blocks)

    @property
    def hidden_dim(self) -> int:
        """Width of the residual stream."""
        return self.facts.hidden_dim

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.model.parameters()).dtype


def load_model(path: Path, device: torch.device, dtype: torch.dtype | None = None) -> LoadedModel:
    """Load a left-to-right model; fp32 on CPU, bf16 (else fp16) on a GPU unless `dtype` is given.

    A GGUF file is dequantised once, here. Code from a repository is never run. Raises a
    `StudioError` for damaged or unusable files and `OutOfMemory` if the device is too small.
    """
    with shared_gguf_reader() if path.is_file() else nullcontext():
        return _load(path, device, dtype)


def _load(path: Path, device: torch.device, dtype: torch.dtype | None) -> LoadedModel:
    facts = inspect_model(path)
    tokenizer = _read_tokenizer(path)
    precision = dtype or default_dtype(device)
    try:
        model = _read_weights(path, facts, precision)
        model.requires_grad_(False)
        model.eval()
        model.to(device)
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise OutOfMemory(
            f"{facts.name} needs about {facts.params_count * precision.itemsize / 1e9:.1f} GB in "
            f"{str(precision).removeprefix('torch.')}; free memory or choose a smaller model.",
            details=str(error),
        ) from error
    return LoadedModel(model, tokenizer, device, facts, find_blocks(model), path)


def _read_weights(path: Path, facts: ModelFacts, dtype: torch.dtype) -> Any:
    gguf = facts.origin == "gguf"
    place: dict[str, Any] = {"gguf_file": path.name} if gguf else {"use_safetensors": True}
    try:
        with _quiet_loading():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                path.parent if gguf else path,
                dtype=dtype,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                **place,
            )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise Damaged(
            f"The weights of {facts.name} do not fit its configuration; get the model again.",
            details=str(error),
        ) from error
    model, loading_report = loaded
    missing = sorted(loading_report["missing_keys"])
    if missing:
        raise Damaged(
            f"The weights of {facts.name} are incomplete: {len(missing)} tensors are missing.",
            details=", ".join(missing[:20]),
        )
    if gguf:
        _forget_quantisation(model)
    return model


def _forget_quantisation(model: nn.Module) -> None:
    """The weights are plain floats after loading, although transformers calls them quantised."""
    for owner, name in (
        (getattr(model, "config", None), "quantization_config"),
        (model, "hf_quantizer"),
        (model, "quantization_method"),
    ):
        if owner is not None and name in vars(owner):
            delattr(owner, name)
    vars(model)["is_quantized"] = False


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """No advice on the log, no Python warnings, no progress bar on the terminal."""
    reader: Any = modeling_gguf_pytorch_utils
    bar = reader.tqdm
    reader.tqdm = functools.partial(bar, disable=True)
    try:
        with quiet_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        reader.tqdm = bar


def load_tokenizer(path: Path) -> Any:
    """The fast tokenizer of a model folder or GGUF file, without the weights.

    Raises `InvalidInput` if there is none and `Unsupported` if it is not of the fast kind, which
    is the one that reports character offsets.
    """
    with shared_gguf_reader() if path.is_file() else nullcontext():
        return _read_tokenizer(path)


def _read_tokenizer(path: Path) -> Any:
    gguf = path.is_file()
    place = {"gguf_file": path.name} if gguf else {}
    if not gguf and not _has_tokenizer(path):
        raise InvalidInput(
            f"The folder {path.name!r} has no tokenizer (tokenizer.json); add the model's own."
        )
    try:
        with _quiet_loading():
            tokenizer = AutoTokenizer.from_pretrained(
                path.parent if gguf else path,
                trust_remote_code=False,
                local_files_only=True,
                **place,
            )
    except Exception as error:
        raise Damaged(
            f"The tokenizer of {path.name!r} cannot be read; get the model again.",
            details=str(error),
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise Unsupported(
            f"The tokenizer of {path.name!r} has no fast form (tokenizer.json), so tokens could "
            "not be traced back to the text."
        )
    return tokenizer


def _has_tokenizer(folder: Path) -> bool:
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt")
    return any((folder / name).is_file() for name in names)


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """SHA-256 of everything that decides how text becomes ids, as hex."""
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    parts.pop("truncation", None)
    parts.pop("padding", None)
    parts["ids"] = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
