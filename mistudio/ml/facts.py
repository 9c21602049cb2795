"""What can be said about a model without loading its weights, and whether its files are sound."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from mistudio.core.collecting import paused
from mistudio.core.errors import (
    Damaged,
    InvalidInput,
    NotFound,
    StudioError,
    Unsupported,
    from_os_error,
)
from mistudio.ml.usable import needs_code, prequantised_format, refuse_unusable
from mistudio.ml.weights import check_safetensors, element_count, weight_files


@dataclass(frozen=True)
class ModelFacts:
    """A model as its files describe it; sizes in counts, ids as token ids."""

    name: str
    origin: str  # "folder" or "gguf"
    architecture: str  # class name, such as LlamaForCausalLM
    model_type: str
    params_count: int
    weight_bytes: int
    num_layers: int
    hidden_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate: int
    vocab_size: int
    max_positions: int
    tie: bool
    bos_id: int | None
    eos_id: int | None
    activation: str
    norm_eps: float | None
    rope: dict[str, Any] | None
    fingerprint: str  # of configuration and weights, as hex
    config: dict[str, Any]
    needs_code: bool = False  # only the repository's own code can build it
    prequantised: str = ""  # int8, nf4 or fp4 if the files hold such weights

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def inspect_model(path: Path, *, allow_code: bool = False) -> ModelFacts:
    """Facts of a Hugging Face folder or a GGUF file, after checking that its files are complete.

    With `allow_code`, code of the folder is run if nothing else can build the model. Raises
    `StudioError` with a sentence for whatever is no usable left-to-right model.
    """
    try:
        if path.is_dir():
            return _inspect_folder(path, allow_code)
        if path.is_file():
            with shared_gguf_reader():
                return _inspect_gguf(path)
    except OSError as error:
        raise from_os_error(error, f"read the model {path.name!r}") from error
    raise NotFound(f"There is no folder or file {str(path)!r}.")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hold back the advice that transformers logs below the level of an error."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def shared_gguf_reader() -> Iterator[None]:
    """Parse a GGUF file once within this block; transformers would do it for each thing it wants.

    Parsing a vocabulary of 49,000 takes seconds and loading asks for it five times; the table of
    tensor names is asked for once per module. Both are the same each time. It makes millions of
    small objects and no garbage; without collections meanwhile, no other thread waits for those.
    """
    import gguf

    module: Any = gguf
    slow = {name: getattr(module, name) for name in ("GGUFReader", "get_tensor_name_map")}
    for name, function in slow.items():
        setattr(module, name, functools.cache(function))
    try:
        with paused():
            yield
    finally:
        for name, function in slow.items():
            setattr(module, name, function)


def _inspect_folder(folder: Path, allow_code: bool) -> ModelFacts:
    raw = read_config(folder)
    refuse_unusable(raw, allow_code=allow_code)
    return _facts_of_folder(folder, raw)


def describe_unusable(path: Path) -> ModelFacts:
    """Facts of a folder whose model `inspect_model` refuses; sizes that it does not name are 0.

    Raises `StudioError` for missing or damaged files.
    """
    try:
        return _facts_of_folder(path, read_config(path), strict=False)
    except OSError as error:
        raise from_os_error(error, f"read the model {path.name!r}") from error


def _facts_of_folder(folder: Path, raw: dict[str, Any], *, strict: bool = True) -> ModelFacts:
    files = weight_files(folder)
    headers = [check_safetensors(file) for file in files]
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=needs_code(raw))
    except Exception as error:
        raise Unsupported(
            f"The config.json of {folder.name!r} describes no model that is known here.",
            details=str(error),
        ) from error
    shapes = [entry["shape"] for header in headers for entry in header.values()]
    params = sum(element_count(shape) for shape in shapes)
    facts = _facts(config, folder.name, "folder", params, files, strict=strict)
    return replace(
        facts, needs_code=needs_code(raw), prequantised=prequantised_format(raw) if strict else ""
    )


def _inspect_gguf(path: Path) -> ModelFacts:
    with path.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            hint = ""
            if path.suffix == ".safetensors" or path.name == "config.json":
                hint = " For a Hugging Face model choose its folder."
            raise InvalidInput(f"{path.name!r} is no GGUF file.{hint}")
    import gguf

    try:
        reader = gguf.GGUFReader(str(path))  # text, as transformers gives it: one cached parse
        params = sum(int(tensor.n_elements) for tensor in reader.tensors)
        end = max((t.data_offset + int(t.n_bytes) for t in reader.tensors), default=0)
    except Exception as error:
        if "GGMLQuantizationType" in str(error):
            raise _unknown_packing(path, "of a newer kind", str(error)) from error
        raise _damaged_gguf(path, str(error)) from error
    _refuse_unreadable_types(path, reader)
    if end == 0 or end > path.stat().st_size:
        raise _damaged_gguf(path, f"tensors end at byte {end}, the file has {path.stat().st_size}")
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    except Exception as error:
        raise Unsupported(
            f"{path.name!r} holds a kind of model that cannot be read from GGUF; "
            "use its Hugging Face folder.",
            details=str(error),
        ) from error
    refuse_unusable(config.to_dict())
    return _facts(config, path.stem, "gguf", params, [path])


def _refuse_unreadable_types(path: Path, reader: Any) -> None:
    """Raise `Unsupported` for weights packed in a way that nothing here can unpack."""
    import gguf
    import numpy as np

    for kind in {tensor.tensor_type for tensor in reader.tensors}:
        block = np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), dtype=np.uint8)
        try:
            gguf.quants.dequantize(block, kind)
        except NotImplementedError as error:
            raise _unknown_packing(path, f"as {kind.name}", str(error)) from error


def _unknown_packing(path: Path, how: str, details: str) -> Unsupported:
    return Unsupported(
        f"{path.name!r} holds weights packed {how}, which are not read here; get a file in another "
        "packing, such as Q8_0 or Q4_K_M.",
        details=details,
    )


def _damaged_gguf(path: Path, details: str) -> Damaged:
    return Damaged(f"{path.name!r} is damaged or incomplete; get it again.", details=details)


def read_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        if next(folder.glob("*.gguf"), None) is not None:
            raise InvalidInput("This folder has no config.json; choose the GGUF file in it.")
        raise InvalidInput("This folder has no config.json.")
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise Damaged("The folder's config.json is not valid JSON.", details=str(error)) from error
    if not isinstance(raw, dict) or not isinstance(raw.get("model_type"), str):
        raise InvalidInput("The folder's config.json does not describe a model (no model_type).")
    return raw


def _facts(
    config: Any, name: str, origin: str, params: int, files: list[Path], *, strict: bool = True
) -> ModelFacts:
    text = config.get_text_config()

    def first(*names: str) -> Any:
        return next((v for n in names if (v := getattr(text, n, None)) is not None), None)

    hidden, heads = (
        first("hidden_size", "n_embd", "d_model"),
        first("num_attention_heads", "n_head"),
    )
    layers = first("num_hidden_layers", "n_layer")
    vocab = first("vocab_size")
    if strict and not (hidden and layers and vocab):
        raise StudioError("The configuration names no layers, hidden size or vocabulary.")
    classes = getattr(config, "architectures", None) or [
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type, config.model_type)
    ]
    eos = first("eos_token_id")
    plain = json.loads(config.to_json_string(use_diff=False))
    plain.pop("_name_or_path", None)
    return ModelFacts(
        name=name,
        origin=origin,
        architecture=str(classes[0]),
        model_type=config.model_type,
        params_count=params,
        weight_bytes=sum(file.stat().st_size for file in files),
        num_layers=int(layers or 0),
        hidden_dim=int(hidden or 0),
        num_heads=int(heads or 1),
        num_kv_heads=int(first("num_key_value_heads") or heads or 1),
        head_dim=int(first("head_dim") or (hidden or 0) // (heads or 1)),
        intermediate=int(first("intermediate_size", "n_inner", "ffn_dim") or 4 * (hidden or 0)),
        vocab_size=int(vocab or 0),
        max_positions=int(first("max_position_embeddings", "n_positions", "max_seq_len") or 0),
        tie=bool(first("tie_word_embeddings")),
        bos_id=first("bos_token_id"),
        eos_id=next(iter(eos), None) if isinstance(eos, list) else eos,
        activation=str(first("hidden_activation", "hidden_act", "activation_function") or ""),
        norm_eps=first("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"),
        rope=first("rope_parameters"),
        fingerprint=_fingerprint(plain, files),
        config=plain,
    )


def _fingerprint(config: dict[str, Any], files: list[Path]) -> str:
    """SHA-256 over the configuration and, of each weight file, its size and both ends (1 MiB)."""
    known = {k: v for k, v in config.items() if k != "transformers_version"}
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
    for file in files:
        size = file.stat().st_size
        digest.update(str(size).encode())
        with file.open("rb") as stream:
            digest.update(stream.read(1 << 20))
            stream.seek(max(0, size - (1 << 20)))
            digest.update(stream.read(1 << 20))
    return digest.hexdigest()
