"""How many bytes of text each token of a vocabulary stands for, where the token alone tells."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

_BLANK = "\u2581"  # how SentencePiece vocabularies write a blank
_BYTE_TOKEN = re.compile(r"^<0x[0-9A-F]{2}>$")


class ByteCounts(NamedTuple):
    """Bytes by token id, 0 for those that do not tell."""

    lengths_V: np.ndarray  # int32
    prefix: bool
    """whether a blank that is not in the text may stand before it"""
    composes: bool
    """whether text is brought to Unicode's form NFC first: the table holds for text in that form"""


def byte_counts(backend: Any) -> ByteCounts | None:
    """The table of a `tokenizers.Tokenizer`, or None if it changes text in ways a table misses."""
    model = backend.model
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if getattr(model, name, None):
            return None
    # Not the whole tokenizer's JSON, which holds every token.
    parts = {
        name: None if part is None else json.loads(part.__getstate__())
        for name, part in (
            ("normalizer", backend.normalizer),
            ("pre_tokenizer", backend.pre_tokenizer),
            ("decoder", backend.decoder),
        )
    }
    if _is_byte_level(parts):
        return ByteCounts(_lengths(backend, len, True), False, parts["normalizer"] is not None)
    if _is_blank_marking(parts):
        return ByteCounts(_lengths(backend, _marked_bytes, False), True, False)
    return None


def _is_byte_level(parts: dict[str, Any]) -> bool:
    steps = _steps(parts["pre_tokenizer"])
    level = [step for step in steps if step["type"] == "ByteLevel"]
    return (
        parts["normalizer"] in (None, {"type": "NFC"})
        and len(level) == 1
        and not level[0]["add_prefix_space"]
        and all(step["type"] in ("ByteLevel", "Digits", "Split") for step in steps)
        and all(step.get("behavior") != "Removed" for step in steps)
        and any(step["type"] == "ByteLevel" for step in _steps(parts["decoder"]))
    )


def _is_blank_marking(parts: dict[str, Any]) -> bool:
    """Whether blanks become marks, perhaps with one before the text, and nothing else changes."""
    blanks = False
    for step in _steps(parts["normalizer"]):
        if step["type"] == "Replace" and step["pattern"] == {"String": " "}:
            blanks = step["content"] == _BLANK
            if not blanks:
                return False
        elif step["type"] != "Prepend" or step["prepend"] != _BLANK:
            return False
    for step in _steps(parts["pre_tokenizer"]):
        if step["type"] == "Metaspace" and step["replacement"] == _BLANK:
            blanks = True
        elif step["type"] != "Split" or step["behavior"] == "Removed":
            return False
    return blanks


def _steps(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    if part is None:
        return []
    if part["type"] != "Sequence":
        return [part]
    inner = part.get("normalizers") or part.get("pretokenizers") or part.get("decoders") or []
    return [step for one in inner for step in _steps(one)]


def _marked_bytes(token: str) -> int:
    if _BYTE_TOKEN.match(token):
        return 1
    return len(token.replace(_BLANK, " ").encode())


def _lengths(backend: Any, count: Callable[[str], int], added_count: bool) -> np.ndarray:
    vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
    added = backend.get_added_tokens_decoder()
    lengths_V = np.zeros(max(vocabulary.values(), default=0) + 1, dtype=np.int32)
    for token, number in vocabulary.items():
        if number not in added:
            lengths_V[number] = count(token)
        elif added_count:
            lengths_V[number] = len(token.encode())
    unknown = _unknown_id(backend.model, vocabulary)
    if unknown is not None:
        lengths_V[unknown] = 0  # may stand for anything
    return lengths_V


def _unknown_id(model: Any, vocabulary: dict[str, int]) -> int | None:
    if type(model).__name__ == "Unigram":
        return json.loads(model.__getstate__())["unk_id"]
    return vocabulary.get(getattr(model, "unk_token", None) or "")
