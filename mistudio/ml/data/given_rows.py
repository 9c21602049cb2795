"""Rows of token ids without their text, as other programs keep them: decoded, and stored as a
dataset of one document per row with a tokenisation that says where each token stands in it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers.decoders import DecodeStream

from mistudio.core.atomic import write_json
from mistudio.core.errors import Mismatch
from mistudio.ml.data.facts import DatasetFacts
from mistudio.ml.data.token_counts import TokenCounts
from mistudio.ml.data.token_settings import TokenizeSettings, special_tokens
from mistudio.ml.data.token_store import CONTENT, PADDING, SPECIAL
from mistudio.ml.data.write_dataset import write_text_store
from mistudio.ml.loading import tokenizer_fingerprint

CHECK_EVERY = 64  # rows


class DecodedRow(NamedTuple):
    """The text of a row, the characters of each token in it [S, 2], and a token store's mask [S].

    Tokens that make one character together, or a part of a word with it, have the same characters.
    """

    text: str
    spans_S2: NDArray[np.int32]
    mask_S: NDArray[np.uint8]


def decode_row(
    tokenizer: Any, ids_S: NDArray[np.integer], special: frozenset[int], padding: int
) -> DecodedRow:
    """Decode a row; special tokens have no text, those of padding at its end none that counts."""
    backend = tokenizer.backend_tokenizer
    ids = [int(token) for token in ids_S]
    spans_S2 = np.zeros((len(ids), 2), np.int32)
    mask_S = np.full(len(ids), CONTENT, np.uint8)
    text = ""
    stream, pending = DecodeStream(skip_special_tokens=False), list[int]()

    def take(more: str) -> None:
        nonlocal text
        spans_S2[pending] = len(text), len(text) + len(more)
        text += more
        pending.clear()

    for place, token in enumerate(ids):
        if token in special:
            if pending:  # the bytes of a character that is not whole
                take(backend.decode([ids[i] for i in pending], skip_special_tokens=False))
            stream = DecodeStream(skip_special_tokens=False)
            mask_S[place] = SPECIAL
            spans_S2[place] = len(text)
            continue
        pending.append(place)
        found = stream.step(backend, token)
        if found:
            take(found)
    if pending:
        take(backend.decode([ids[i] for i in pending], skip_special_tokens=False))
    filled = len(ids)
    while padding in special and filled and ids[filled - 1] == padding:
        filled -= 1
    mask_S[filled:] = PADDING
    return DecodedRow(text, spans_S2, mask_S)


def write_given_rows(
    ids_RS: NDArray[np.integer],
    tokenizer: Any,
    text_folder: Path,
    tokens_folder: Path,
    *,
    name: str,
    check: Callable[[float], None] = lambda _done: None,
) -> tuple[DatasetFacts, dict[str, Any]]:
    """Store rows as text and tokens; returns the facts of both.

    A row of nothing but blanks and special tokens has no document and does not count. Raises
    `Mismatch` for ids that the tokenizer does not know.
    """
    rows, length = ids_RS.shape
    if int(ids_RS.max()) >= len(tokenizer) or int(ids_RS.min()) < 0:
        raise Mismatch("These tokens are of another vocabulary than the model's.")
    settings = TokenizeSettings(context=length)
    special = special_tokens(tokenizer, settings)
    counts = TokenCounts(len(tokenizer), special.ids)
    tokens_folder.mkdir(parents=True)
    kinds = {"ids": (), "docs": (), "mask": (), "offsets": (2,)}
    arrays = {
        kind: np.lib.format.open_memmap(
            tokens_folder / f"{kind}.npy",
            "w+",
            np.dtype(np.uint8 if kind == "mask" else np.int32),
            (rows, length, *more),
        )
        for kind, more in kinds.items()
    }
    digest = hashlib.sha256()
    documents = 0

    def texts() -> Iterator[str]:
        nonlocal documents
        for row in range(rows):
            if row % CHECK_EVERY == 0:
                check(row / rows)
            ids_S = np.asarray(ids_RS[row])
            digest.update(ids_S.astype("<i4").tobytes())
            found = decode_row(tokenizer, ids_S, special.ids, special.padding)
            mask_S, blank = found.mask_S, not found.text or found.text.isspace()
            if blank:
                mask_S = np.where(mask_S == CONTENT, SPECIAL, mask_S).astype(np.uint8)
            arrays["ids"][row], arrays["mask"][row] = ids_S, mask_S
            arrays["offsets"][row] = 0 if blank else found.spans_S2
            has_text = (mask_S == CONTENT) | ((mask_S == SPECIAL) & ~blank)
            arrays["docs"][row] = np.where(has_text, documents, -1)
            filled = mask_S != PADDING
            counts.add_tokens(ids_S[filled].astype(np.int64), mask_S[filled])
            counts.add_documents(np.array([int(filled.sum())]))
            if not blank:
                documents += 1
                yield found.text

    facts = write_text_store(text_folder, texts())
    for array in arrays.values():
        array.flush()
    fingerprint = tokenizer_fingerprint(tokenizer)
    meta = {
        "rows": rows,
        "context": length,
        "parts": {"train": [0, rows], "calibration": [rows, rows], "evaluation": [rows, rows]},
        "documents": documents,
        "vocab_size": len(tokenizer),
        "bos_id": tokenizer.bos_token_id,
        "eos_id": tokenizer.eos_token_id,
        "separator_id": None,
        "row_start_id": None,
        "pad_id": special.padding,
        "tokenizer": name,
        "tokenizer_fingerprint": fingerprint,
        "settings": asdict(settings),
        "settings_hash": digest.hexdigest(),
        "dropped_tokens": 0,
        "long_documents": 0,
        "refused_documents": 0,
        **counts.summary(tokenizer),
    }
    write_json(tokens_folder / "meta.json", meta)
    return facts, meta
