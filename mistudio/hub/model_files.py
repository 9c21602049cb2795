"""Which files of a model's repository a download takes, and how many weights they hold."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

from mistudio.core.errors import InvalidInput, NoAnswer, NotFound, StudioError, Unsupported
from mistudio.hub.client import RepoFacts, read_piece

_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_PICKLES = re.compile(r".+\.(bin|pt|pth|ckpt|h5|msgpack|pkl)")
_PLAIN = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab"
    r"|preprocessor_config|model\.safetensors\.index)\.json"
    r"|merges\.txt|vocab\.txt|.+\.(model|tiktoken)|chat_template\.(jinja|json)|LICENSE(\..+)?"
)
_TOKENIZER = re.compile(
    r"(config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json"
    r"|merges\.txt|vocab\.txt|(tokenizer|spiece|sentencepiece\.bpe)\.model"
    r"|chat_template\.(jinja|json)"
)
_TABLE = re.compile(r"(^|[._])(embed\w*|wte|wpe|lm_head|embed_out)([._]|$)")
_HEADER_GUESS = 65_536
_MOST_HEADER = 100_000_000
_MOST_SHARDS = 64
NO_CONFIG = "This repository has no config.json, so it is no model that can be loaded."
PICKLES = "Only safetensors and GGUF are opened; this has pickle files."


@dataclass(frozen=True)
class WeightCount:
    """Weights in matrices of linear layers (which formats shrink) and all others."""

    linear: int
    other: int


def tokenizer_files(facts: RepoFacts) -> list[str]:
    """What a tokenizer is made of, and the config that names its class; [] if there is none."""
    found = [file.path for file in facts.files if _TOKENIZER.fullmatch(file.path)]
    return found if any(path != "config.json" for path in found) else []


def gguf_files(facts: RepoFacts) -> list[str]:
    """GGUF files of a repository."""
    return [file.path for file in facts.files if file.path.lower().endswith(".gguf")]


def safetensors_files(facts: RepoFacts) -> list[str]:
    """The weight files that transformers loads, without copies in other forms."""
    top = [f.path for f in facts.files if "/" not in f.path and f.path.endswith(".safetensors")]
    usual = [path for path in top if _WEIGHTS.fullmatch(path)]
    # beside one whole file, numbered ones are the same weights again
    return ["model.safetensors"] if "model.safetensors" in usual else usual or top


def has_pickle_only(facts: RepoFacts) -> bool:
    """Whether the weights are there only in files that could run code when opened."""
    if safetensors_files(facts) or gguf_files(facts):
        return False
    return any(_PICKLES.fullmatch(file.path) for file in facts.files)


def wanted_files(facts: RepoFacts, file: str = "", *, with_code: bool = False) -> list[str]:
    """Paths that a download of the model takes; `file` chooses a GGUF.

    Raises `Unsupported` if there is nothing that can be opened, `NotFound` for a `file` that is
    not there, `InvalidInput` if one of several GGUF files must be chosen.
    """
    names = {item.path for item in facts.files}
    ggufs = gguf_files(facts)
    if file:
        if file not in names:
            raise NotFound(f"'{facts.id}' has no file '{file}'.")
        if file not in ggufs:
            raise InvalidInput(f"'{file}' is no GGUF file.")
        return [file]
    weights = safetensors_files(facts)
    if weights and "config.json" in names:
        plain = [n for n in names if "/" not in n and _PLAIN.fullmatch(n)]
        code = [n for n in names if n.endswith(".py")] if with_code else []
        return sorted({*weights, *plain, *code})
    if len(ggufs) == 1:
        return ggufs
    if ggufs:
        raise InvalidInput(f"Choose one GGUF file: {', '.join(ggufs)}.", code="choose_file")
    if has_pickle_only(facts):
        raise Unsupported(PICKLES, code="unsafe_weights")
    raise Unsupported(
        NO_CONFIG if "config.json" not in names else "This repository has no weights."
    )


def read_config(
    facts: RepoFacts, token: str | None, check: Callable[[], object] = lambda: None
) -> dict[str, Any]:
    """config.json of the model; what the Hub tells of it if the file may not be read."""
    told = facts.raw.get("config")
    fallback: dict[str, Any] = told if isinstance(told, dict) else {}
    if not any(file.path == "config.json" for file in facts.files):
        return fallback
    try:
        read = json.loads(read_piece(facts, "config.json", 0, 4_000_000, token, check))
    except (StudioError, ValueError):
        return fallback
    return read if isinstance(read, dict) else fallback


def architecture(config: dict[str, Any]) -> str | None:
    """The first class that a config names, such as LlamaForCausalLM."""
    named = config.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else None


def count_weights(
    facts: RepoFacts,
    paths: Iterable[str],
    token: str | None,
    check: Callable[[], object] = lambda: None,
) -> WeightCount | None:
    """Weights by the headers of safetensors files, read in pieces; None if they cannot be read."""
    chosen = [path for path in paths if path.endswith(".safetensors")]
    if not chosen or len(chosen) > _MOST_SHARDS:
        return None
    linear = other = 0
    try:
        for path in chosen:
            for name, shape in _shapes(facts, path, token, check):
                if len(shape) == 2 and not _TABLE.search(name):
                    linear += prod(shape)
                else:
                    other += prod(shape)
    except (StudioError, ValueError, KeyError, TypeError, struct.error):
        return None
    return WeightCount(linear, other)


def _shapes(
    facts: RepoFacts, path: str, token: str | None, check: Callable[[], object]
) -> list[tuple[str, list[int]]]:
    start = read_piece(facts, path, 0, _HEADER_GUESS - 1, token, check)
    (length,) = struct.unpack("<Q", start[:8])
    if length > _MOST_HEADER:
        raise NoAnswer(f"{path} does not begin like a safetensors file.")
    header = start[8 : 8 + length]
    if len(header) < length:
        header += read_piece(facts, path, 8 + len(header), 7 + length, token, check)
    described = json.loads(header)
    return [(k, list(v["shape"])) for k, v in described.items() if k != "__metadata__"]
