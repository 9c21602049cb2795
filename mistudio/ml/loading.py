"""Loads a language model and its tokenizer from a Hugging Face folder or a GGUF file."""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from mistudio.core.errors import Damaged, InvalidInput, Unsupported
from mistudio.core.model_configs import format_of
from mistudio.ml.architecture import Blocks, find_blocks
from mistudio.ml.device import default_dtype
from mistudio.ml.facts import ModelFacts, inspect_model, shared_gguf_reader
from mistudio.ml.quantization import memory_bytes, quantised_format, working_format
from mistudio.ml.read_weights import Step, no_step, quiet_loading, read_weights
from mistudio.ml.usable import needs_code_error

__all__ = [
    "LoadedModel",
    "ModelFacts",
    "inspect_model",
    "load_model",
    "load_tokenizer",
    "tokenizer_fingerprint",
]


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run, with its tokenizer and the places where it can be read."""

    model: Any  # a transformers causal language model in eval mode, parameters without gradient
    tokenizer: Any  # a fast tokenizer
    device: torch.device
    facts: ModelFacts
    blocks: Blocks
    path: Path
    format: str = "fp32"  # of the weights: fp32, bf16, fp16, int8, nf4, fp4
    memory_bytes: int = 0  # parameters, buffers and quantisation scales
    note: str = ""  # why the format is not the one asked for, "" if it is

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
        """Precision of the activations: that of the weights, 16 bit if those are quantised."""
        parameters = list(self.model.parameters())
        return next((p.dtype for p in parameters if p.is_floating_point()), parameters[0].dtype)


def load_model(
    path: Path,
    device: torch.device,
    form: str = "auto",
    *,
    allow_code: bool = False,
    step: Step = no_step,
) -> LoadedModel:
    """Load a left-to-right model in a format of `core.memory.FORMATS`.

    "auto" is fp32 on CPU and bf16 (else fp16) on a GPU. INT8, NF4 and FP4 are quantised while
    loading; where bitsandbytes does not work, `note` of the result says so and 16 bit is used. A
    GGUF file is dequantised once, here. Code from a repository is run only with `allow_code`.
    `step` gets the share done and may raise. Raises a `StudioError` for damaged or unusable files
    and `OutOfMemory` if the device is too small.
    """
    with shared_gguf_reader() if path.is_file() else nullcontext():
        return _load(path, device, form, allow_code, step)


def _load(path: Path, device: torch.device, form: str, allow_code: bool, step: Step) -> LoadedModel:
    facts = inspect_model(path, allow_code=allow_code)
    tokenizer = _read_tokenizer(path, allow_code)
    if form == "auto":
        form = facts.prequantised or str(default_dtype(device)).removeprefix("torch.")
    form, note = working_format(format_of(form), device)
    _refuse_other_format(facts, form)
    model = read_weights(path, facts, form, device, step)
    found = quantised_format(model)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        device=device,
        facts=facts,
        blocks=find_blocks(model),
        path=path,
        format=found or form,
        memory_bytes=memory_bytes(model),
        note=note,
    )


def _refuse_other_format(facts: ModelFacts, form: str) -> None:
    if facts.prequantised and form != facts.prequantised:
        raise Unsupported(
            f"The files of {facts.name} hold weights in {facts.prequantised.upper()}; for another "
            "format get the repository that they were made from.",
            code="prequantised",
        )


def load_tokenizer(path: Path, *, allow_code: bool = False) -> Any:
    """The fast tokenizer of a model folder or GGUF file, without the weights.

    Raises `InvalidInput` if there is none and `Unsupported` if it is not of the fast kind, which
    is the one that reports character offsets.
    """
    with shared_gguf_reader() if path.is_file() else nullcontext():
        return _read_tokenizer(path, allow_code)


def _read_tokenizer(path: Path, allow_code: bool) -> Any:
    gguf = path.is_file()
    place = {"gguf_file": path.name} if gguf else {}
    own_code = not gguf and _tokenizer_needs_code(path)
    if own_code and not allow_code:
        raise needs_code_error()
    if not gguf and not _has_tokenizer(path):
        raise InvalidInput(
            f"The folder {path.name!r} has no tokenizer (tokenizer.json); add the model's own."
        )
    try:
        with quiet_loading():
            tokenizer = AutoTokenizer.from_pretrained(
                path.parent if gguf else path,
                trust_remote_code=own_code,
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


def _tokenizer_needs_code(folder: Path) -> bool:
    """Whether only the folder's own code can make its tokenizer."""
    if (folder / "tokenizer.json").is_file():
        return False
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(settings, dict) and "AutoTokenizer" in (settings.get("auto_map") or {})


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """SHA-256 of everything that decides how text becomes ids, as hex."""
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    parts.pop("truncation", None)
    parts.pop("padding", None)
    parts["ids"] = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
