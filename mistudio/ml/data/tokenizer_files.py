"""Opens a tokenizer from a model folder, a GGUF file or a tokenizer.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from mistudio.core.errors import Damaged
from mistudio.ml.loading import load_tokenizer

# What a bare tokenizer.json calls its start and end tokens is not said in it; these are the names
# in use.
_STARTS = ("<s>", "<|begin_of_text|>", "<bos>", "<|bos|>", "<|startoftext|>", "[CLS]")
_ENDS = ("</s>", "<|end_of_text|>", "<|endoftext|>", "<eos>", "<|eos|>", "[SEP]")
_PADS = ("<pad>", "[PAD]", "<|pad|>")
_UNKNOWNS = ("<unk>", "[UNK]")
_CONFIG = "tokenizer_config.json"


def read_tokenizer(path: Path) -> Any:
    """The fast tokenizer at `path`; a tokenizer.json with its config beside it is read with that.

    Raises as `load_tokenizer`.
    """
    if path.suffix.lower() != ".json":
        return load_tokenizer(path)
    if path.name == "tokenizer.json" and (path.parent / _CONFIG).is_file():
        return load_tokenizer(path.parent)
    try:
        backend = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise Damaged(
            f"{path.name} is no tokenizer that can be read.", details=str(error)
        ) from error
    special = {token.content for token in backend.get_added_tokens_decoder().values()}
    names = {
        "bos_token": _STARTS,
        "eos_token": _ENDS,
        "pad_token": _PADS,
        "unk_token": _UNKNOWNS,
    }
    found = {
        role: next((name for name in known if name in special), None)
        for role, known in names.items()
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **{role: name for role, name in found.items() if name}
    )
