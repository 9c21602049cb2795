"""Turns a dataset's text into rows of token ids: encode, pack, write, count."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mistudio.core.atomic import atomic_directory, write_json
from mistudio.core.control import JobControl
from mistudio.core.errors import InvalidInput, from_os_error
from mistudio.core.events import Reporter
from mistudio.ml.data.encoding import encoded
from mistudio.ml.data.offsets import Encoder
from mistudio.ml.data.packing import RowWriter, pad_to_longest
from mistudio.ml.data.parts import PARTS, PartReader, UnevenParts
from mistudio.ml.data.text import TextStore
from mistudio.ml.data.token_counts import TokenCounts
from mistudio.ml.data.token_settings import (
    SpecialTokens,
    TokenizeSettings,
    adds_bos,
    default_context,
    hash_of,
    settings_hash,
    special_tokens,
)
from mistudio.ml.data.token_store import Piece, TokenStore
from mistudio.ml.loading import tokenizer_fingerprint

__all__ = [
    "Piece",
    "SpecialTokens",
    "TokenFacts",
    "TokenStore",
    "TokenizeSettings",
    "adds_bos",
    "default_context",
    "settings_hash",
    "special_tokens",
    "tokenize_dataset",
]


@dataclass(frozen=True)
class TokenFacts:
    """What tokenising produced; `meta` is the content of meta.json."""

    rows: int
    tokens: int  # without padding
    content_tokens: int  # without special tokens too
    context: int  # tokens per row
    meta: dict[str, Any]


class ChosenTexts:
    """The texts of a dataset that a tokenisation reads: one column, one split or all."""

    def __init__(self, store: TextStore, column: str = "", split: str = "") -> None:
        """Raises `InvalidInput` for a column or split that is not there."""
        self._store, self._column = store, column
        splits = store.splits
        if split and split not in splits:
            raise InvalidInput(f"There is no split {split!r}; there are {', '.join(splits)}.")
        chosen = splits[split] if split else range(len(store))
        self.first, self._count = chosen.start, len(chosen)
        store.column_texts(column, self.first, self.first)

    def __len__(self) -> int:
        return self._count

    def texts(self, low: int, high: int) -> list[str]:
        """Texts low..high-1 of those chosen; the first is document `first` of the dataset."""
        low, high = low + self.first, min(high, self._count) + self.first
        return self._store.column_texts(self._column, low, high)


def tokenize_dataset(
    store: TextStore,
    tokenizer: Any,
    settings: TokenizeSettings,
    folder: Path,
    report: Reporter,
    control: JobControl,
    *,
    name: str = "",
    fingerprint: str = "",
) -> TokenFacts:
    """Write ids.npy, offsets.npy, docs.npy, mask.npy and meta.json to `folder`, all or nothing.

    Documents are assigned to parts before packing, and rows never mix parts. Memory does not grow
    with the text. `name` is what the tokenizer is called, `fingerprint` its own where it is known.
    Raises `InvalidInput` for bad settings, too few documents, or a document that the tokenizer
    refuses.
    """
    settings = settings.applied()
    settings.check()
    special = special_tokens(tokenizer, settings)
    texts = ChosenTexts(store, settings.column, settings.split)
    report.progress(0.0, "Assigning documents")
    reader = PartReader(texts, control.check, settings.held_out_share / 100)
    work = _Work(texts, reader, Encoder(tokenizer), settings, special, report, control.check)
    called = {
        "tokenizer": name or _name(tokenizer),
        "tokenizer_fingerprint": fingerprint or tokenizer_fingerprint(tokenizer),
    }
    try:
        try:
            with atomic_directory(folder) as temporary:
                return work.write(temporary, tokenizer, called)
        except UnevenParts:
            with atomic_directory(folder) as temporary:
                return work.write(temporary, tokenizer, called)
    except OSError as error:
        raise from_os_error(error, "write the tokens") from error


@dataclass
class _Work:
    """One tokenisation on its way to a folder."""

    texts: ChosenTexts
    reader: PartReader
    encoder: Encoder
    settings: TokenizeSettings
    special: SpecialTokens
    report: Reporter
    check: Callable[[], None]

    def write(self, folder: Path, tokenizer: Any, called: dict[str, str]) -> TokenFacts:
        """All files of the tokenisation; `called` names the tokenizer in meta.json."""
        settings, special = self.settings, self.special
        counts = TokenCounts(len(tokenizer), special.ids)
        self._refused = 0
        parts: dict[str, list[int]] = {}
        with RowWriter(folder, settings, special, counts) as writer:
            self._began, self._done = time.monotonic(), 0
            for number, part in enumerate(PARTS):
                first = writer.rows
                for _ in self._packed(number, writer, counts):
                    self.check()
                writer.end_part()
                parts[part] = [first, writer.rows]
        if not writer.rows:
            raise InvalidInput(
                "No document is left to tokenise: all are empty or longer than the context. "
                "Choose a longer context or another column.",
                code="no_rows",
            )
        if settings.padding == "longest":
            self.report.progress(0.98, "Padding")
            pad_to_longest(folder, writer.width, special.padding, self.check)
        meta = {
            "rows": writer.rows,
            "context": writer.width,
            "parts": parts,
            "documents": len(self.texts),
            "vocab_size": len(tokenizer),
            "bos_id": tokenizer.bos_token_id,
            "eos_id": tokenizer.eos_token_id,
            "separator_id": special.separator,
            "row_start_id": special.bos,
            "pad_id": special.padding,
            **called,
            "settings": asdict(settings),
            "settings_hash": hash_of(settings, called["tokenizer_fingerprint"]),
            "dropped_tokens": writer.dropped,
            "long_documents": writer.left_out,
            "refused_documents": self._refused,
            **counts.summary(tokenizer),
        }
        write_json(folder / "meta.json", meta)
        self._tell(writer)
        self.report.progress(1.0, "Ready")
        return TokenFacts(writer.rows, meta["tokens"], meta["content_tokens"], writer.width, meta)

    def _packed(self, part: int, writer: RowWriter, counts: TokenCounts) -> Iterator[None]:
        """Encode and write one part, batch by batch."""
        documents = ((self.texts.first + n, text) for n, text in self.reader.read(part))
        separator = self.special.separator
        skip_bad, check = self.settings.skip_bad, self.check
        for found in encoded(documents, self.encoder, separator, skip_bad, check):
            self._refused += found.refused
            if len(found.docs_N):
                writer.add(found.docs_N, found.batch)
            self._done += len(found.docs_N) + found.refused
            rate = counts.encoded / max(1e-3, time.monotonic() - self._began)
            self.report.progress(
                0.02 + 0.96 * self._done / len(self.texts),
                "Tokenising",
                rate=f"{rate:,.0f} tokens/s",
            )
            yield

    def _tell(self, writer: RowWriter) -> None:
        if writer.left_out:
            self.report.note(f"{writer.left_out:,} documents are longer than a row: left out.")
        if self._refused:
            self.report.note(
                f"{self._refused:,} samples were refused by the tokenizer and left out.",
                level="warning",
            )


def _name(tokenizer: Any) -> str:
    return Path(str(tokenizer.name_or_path)).name or type(tokenizer).__name__


def padded_width(settings: TokenizeSettings, longest: int) -> int:
    """Tokens per row as stored, for the longest row in tokens."""
    if settings.applied().padding == "max_length":
        return settings.context
    return int(np.clip(longest, 1, settings.context))
