"""Turns a dataset's text into rows of token ids: encode, pack, write, count."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mistudio.core.atomic import atomic_directory, write_json
from mistudio.core.control import JobControl
from mistudio.core.errors import InvalidInput, from_os_error
from mistudio.core.events import Reporter
from mistudio.ml.data.offsets import EncodedBatch, Encoder
from mistudio.ml.data.packing import RowWriter, TokenCounts
from mistudio.ml.data.parts import PARTS, assign_parts
from mistudio.ml.data.text import TextStore
from mistudio.ml.data.token_store import Piece, TokenStore
from mistudio.ml.facts import ModelFacts
from mistudio.ml.loading import tokenizer_fingerprint

__all__ = [
    "Piece",
    "TokenFacts",
    "TokenStore",
    "TokenizeSettings",
    "default_context",
    "settings_hash",
    "tokenize_dataset",
]

ARRANGEMENTS = ("packed", "document")
START_TOKENS = ("model", "on", "off")
_BATCH_DOCUMENTS = 1000
_BATCH_CHARACTERS = 500_000


@dataclass(frozen=True)
class TokenizeSettings:
    """How text becomes rows."""

    context: int  # tokens per row
    arrangement: str = "packed"  # or "document": one document per row, cut at the context
    start_token: str = "model"  # or "on", "off": whether rows start with BOS


@dataclass(frozen=True)
class SpecialTokens:
    """What surrounds documents: ids, or None where the tokenizer has none or the rule says no."""

    bos: int | None  # at the start of each row
    separator: int | None  # after each document of a packed row: EOS, else BOS
    padding: int
    ids: frozenset[int]  # every special id of the tokenizer


@dataclass(frozen=True)
class TokenFacts:
    """What tokenising produced; `meta` is the content of meta.json."""

    rows: int
    tokens: int  # without padding
    content_tokens: int  # without special tokens too
    context: int
    meta: dict[str, Any]


def default_context(facts: ModelFacts) -> int:
    """The smaller of 512 and what the model allows."""
    return min(512, facts.max_positions or 512)


def settings_hash(settings: TokenizeSettings, tokenizer: Any) -> str:
    """SHA-256 of the settings and the tokenizer, as hex: equal means equal rows."""
    return _hash(settings, tokenizer_fingerprint(tokenizer))


def _hash(settings: TokenizeSettings, fingerprint: str) -> str:
    parts = {**asdict(settings), "tokenizer": fingerprint}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def special_tokens(tokenizer: Any, settings: TokenizeSettings) -> SpecialTokens:
    """Apply the start-token rule. Raises `InvalidInput` if BOS is asked for but does not exist."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if settings.start_token == "on" and bos is None:
        raise InvalidInput("This tokenizer has no BOS token; choose the start token model or off.")
    start = settings.start_token == "on" or (
        settings.start_token == "model" and adds_bos(tokenizer)
    )
    padding = next((i for i in (tokenizer.pad_token_id, eos, bos) if i is not None), 0)
    return SpecialTokens(
        bos=bos if start else None,
        separator=eos if eos is not None else bos,
        padding=padding,
        ids=frozenset(int(i) for i in tokenizer.all_special_ids),
    )


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer by itself puts its BOS token before a text."""
    bos = tokenizer.bos_token_id
    return bos is not None and list(tokenizer("a")["input_ids"])[:1] == [bos]


def tokenize_dataset(
    store: TextStore,
    tokenizer: Any,
    settings: TokenizeSettings,
    folder: Path,
    report: Reporter,
    control: JobControl,
) -> TokenFacts:
    """Write ids.npy, offsets.npy, docs.npy, mask.npy and meta.json to `folder`, all or nothing.

    Documents are assigned to parts before packing, and rows never mix parts. Memory does not grow
    with the text. Raises `InvalidInput` for bad settings or too few documents.
    """
    _check(settings)
    special = special_tokens(tokenizer, settings)
    encoder = Encoder(tokenizer)
    report.progress(0.0, "Assigning documents")
    parts = assign_parts(store, control.check)
    fingerprint = tokenizer_fingerprint(tokenizer)
    began, done = time.monotonic(), 0
    counts = TokenCounts(len(tokenizer), special.ids)
    try:
        with atomic_directory(folder) as temporary:
            ranges: dict[str, list[int]] = {}
            with RowWriter(temporary, settings, special, counts) as writer:
                for number, part in enumerate(PARTS):
                    first = writer.rows
                    for docs_N, batch in _encoded(store, np.flatnonzero(parts == number), encoder):
                        control.check()
                        writer.add(docs_N, batch)
                        done += len(docs_N)
                        rate = counts.encoded / max(1e-3, time.monotonic() - began)
                        report.progress(
                            0.02 + 0.96 * done / len(store),
                            "Tokenising",
                            rate=f"{rate:,.0f} tokens/s",
                        )
                    writer.end_part()
                    ranges[part] = [first, writer.rows]
            meta = {
                "rows": writer.rows,
                "context": settings.context,
                "parts": ranges,
                "documents": len(store),
                "vocab_size": len(tokenizer),
                "bos_id": tokenizer.bos_token_id,
                "eos_id": tokenizer.eos_token_id,
                "separator_id": special.separator,
                "row_start_id": special.bos,
                "pad_id": special.padding,
                "tokenizer": _name(tokenizer),
                "tokenizer_fingerprint": fingerprint,
                "settings": asdict(settings),
                "settings_hash": _hash(settings, fingerprint),
                "dropped_tokens": writer.dropped,
                **counts.summary(tokenizer),
            }
            write_json(temporary / "meta.json", meta)
    except OSError as error:
        raise from_os_error(error, "write the tokens") from error
    report.progress(1.0, "Ready")
    return TokenFacts(writer.rows, meta["tokens"], meta["content_tokens"], settings.context, meta)


def _check(settings: TokenizeSettings) -> None:
    if not 2 <= settings.context <= 4096:
        raise InvalidInput("Context must lie between 2 and 4,096.")
    if settings.arrangement not in ARRANGEMENTS:
        raise InvalidInput(f"Arrangement must be one of {', '.join(ARRANGEMENTS)}.")
    if settings.start_token not in START_TOKENS:
        raise InvalidInput(f"Start token must be one of {', '.join(START_TOKENS)}.")


def _encoded(
    store: TextStore, documents: np.ndarray, encoder: Encoder
) -> Iterator[tuple[np.ndarray, EncodedBatch]]:
    """Documents in order with their tokens; the next batch is encoded while one is packed."""
    with ThreadPoolExecutor(1) as ahead:
        waiting: tuple[np.ndarray, Future[EncodedBatch]] | None = None
        for docs_N, texts in _batches(store, documents):
            future = ahead.submit(encoder.encode, texts)
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = (docs_N, future)
        if waiting is not None:
            yield waiting[0], waiting[1].result()


def _batches(store: TextStore, documents: np.ndarray) -> Iterator[tuple[np.ndarray, list[str]]]:
    texts: list[str] = []
    first = size = 0
    for place, number in enumerate(documents.tolist()):
        text = store.text(number)
        texts.append(text)
        size += len(text)
        if len(texts) >= _BATCH_DOCUMENTS or size >= _BATCH_CHARACTERS:
            yield documents[first : place + 1], texts
            first, texts, size = place + 1, [], 0
    if texts:
        yield documents[first:], texts


def _name(tokenizer: Any) -> str:
    return Path(str(tokenizer.name_or_path)).name or type(tokenizer).__name__
