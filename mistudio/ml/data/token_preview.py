"""What tokenising would give for one text, and for a dataset by a sample of its documents."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mistudio.ml.data.offsets import Encoder
from mistudio.ml.data.text import TextStore
from mistudio.ml.data.token_settings import TokenizeSettings, special_tokens
from mistudio.ml.data.tokenize import ChosenTexts, padded_width

_BYTES_PER_TOKEN = 4 + 8 + 4 + 1  # id, span, document, mask
_SAMPLE_STRETCHES = 32
_STRETCH_DOCUMENTS = 8
_SAMPLE_CHARACTERS = 400_000


class ReadyTokenizer:
    """A tokenizer prepared for many small requests; not for several threads at a time."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.encoder = Encoder(tokenizer)


class ChipFacts(NamedTuple):
    """One token: its text, id, form in the vocabulary, and whether it is special."""

    text: str
    token_id: int
    token: str
    special: bool


class PreviewFacts(NamedTuple):
    """Tokens of one text as the settings would store them."""

    chips: list[ChipFacts]
    tokens: int
    rows: int
    unknown: int


class EstimateFacts(NamedTuple):
    """Size of a tokenisation, scaled up from some documents."""

    rows: int
    tokens: int
    bytes: int
    documents: int  # read for it


def preview(
    ready: ReadyTokenizer, settings: TokenizeSettings, text: str, most: int
) -> PreviewFacts:
    """The tokens of one text, with chips for the first `most` of them."""
    settings = settings.applied()
    settings.check()
    tokenizer = ready.tokenizer
    special = special_tokens(tokenizer, settings)
    batch = ready.encoder.encode([text])
    ids, spans = batch.ids_T, batch.spans_T2
    room = settings.context - (special.bos is not None)
    pieces_R = _row_lengths(np.array([len(ids)]), settings, room)
    if settings.arrangement == "document":
        ids = ids[: int(pieces_R.sum())]
    chips: list[ChipFacts] = []
    reach = 0
    for number, (start, stop) in zip(ids[:most].tolist(), spans[:most].tolist(), strict=False):
        if special.bos is not None and len(ids) and not len(chips) and number != special.bos:
            chips.append(_special(tokenizer, special.bos))
        fresh = text[max(start, reach) : stop]
        reach = max(reach, stop)
        token = str(tokenizer.convert_ids_to_tokens(number))
        chips.append(ChipFacts(fresh, number, token, number in special.ids))
    starts = 0 if special.bos is None or not len(ids) else max(1, len(pieces_R))
    count = len(ids) + starts
    rows = len(pieces_R)
    if special.separator is not None:
        count += 1
        rows = -(-(len(ids) + 1) // room)
        if len(chips) < most:
            chips.append(_special(tokenizer, special.separator))
    unknown = tokenizer.unk_token_id
    return PreviewFacts(
        chips[:most], count, rows, 0 if unknown is None else int((ids == unknown).sum())
    )


def _special(tokenizer: Any, number: int) -> ChipFacts:
    return ChipFacts("", number, str(tokenizer.convert_ids_to_tokens(number)), True)


def _row_lengths(lengths_N: np.ndarray, settings: TokenizeSettings, room: int) -> np.ndarray:
    """Tokens of text in each row that documents of these lengths make, without start tokens."""
    lengths_N = lengths_N[lengths_N > 0]
    if settings.truncation == "do_not_truncate":
        return lengths_N[lengths_N <= room]
    if settings.truncation == "longest_first":
        return np.minimum(lengths_N, room)
    full = np.full(int((lengths_N // room).sum()), room, dtype=np.int64)
    rest = lengths_N % room
    return np.concatenate([full, rest[rest > 0]])


def estimate(ready: ReadyTokenizer, settings: TokenizeSettings, store: TextStore) -> EstimateFacts:
    """Rows, tokens and bytes of tokenising a dataset, from documents spread over it."""
    settings = settings.applied()
    settings.check()
    special = special_tokens(ready.tokenizer, settings)
    chosen = ChosenTexts(store, settings.column, settings.split)
    texts = _sample(chosen)
    lengths_N = ready.encoder.encode(texts, special.separator).lengths_N
    scale = len(chosen) / max(1, len(texts))
    start = special.bos is not None
    room = settings.context - start
    if settings.arrangement == "packed":
        text_tokens = round(float(lengths_N.sum()) * scale)
        rows = -(-text_tokens // room)
        tokens, width = text_tokens + rows * start, settings.context
        stored = rows * width
    else:
        pieces_R = _row_lengths(lengths_N, settings, room)
        rows = round(len(pieces_R) * scale)
        tokens = round(float((pieces_R + start).sum()) * scale)
        longest = int(pieces_R.max()) + start if len(pieces_R) else 1
        stored = (
            tokens if settings.padding == "do_not_pad" else rows * padded_width(settings, longest)
        )
    return EstimateFacts(rows, tokens, stored * _BYTES_PER_TOKEN, len(texts))


def _sample(chosen: ChosenTexts) -> list[str]:
    """Short stretches of documents spread evenly, all of them if they are few."""
    if len(chosen) <= _SAMPLE_STRETCHES * _STRETCH_DOCUMENTS:
        lows = range(0, len(chosen), _STRETCH_DOCUMENTS)
    else:
        lows = np.linspace(0, len(chosen) - _STRETCH_DOCUMENTS, _SAMPLE_STRETCHES).astype(int)
    found: list[str] = []
    size = 0
    # In a scattered order, so that a sample that is cut short still covers the whole.
    for low in np.random.default_rng(0).permutation(np.asarray(lows)).tolist():
        texts = chosen.texts(low, low + _STRETCH_DOCUMENTS)
        found += texts
        size += sum(map(len, texts))
        if size > _SAMPLE_CHARACTERS:
            break
    return found
