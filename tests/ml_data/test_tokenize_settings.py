"""Every setting of a tokenisation against the tokenizer asked document by document."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mistudio.core.control import JobControl
from mistudio.core.errors import InvalidInput
from mistudio.core.events import SilentReporter
from mistudio.ml.activations.capture import Capture
from mistudio.ml.activations.masking import iterate_rows
from mistudio.ml.data.text import TextStore
from mistudio.ml.data.token_store import PADDING, TokenStore
from mistudio.ml.data.tokenize import TokenizeSettings, tokenize_dataset
from tests.helpers.tiny import STORIES, tiny_loaded, tiny_tokenizer, write_texts

CONTEXT = 24
TEXTS = [
    f"{story[: 8 + 5 * (i % 20)]} End {i}. " * (1 + i % 3) for i, story in enumerate(STORIES[:40])
]
ODD = [
    "family 👨‍👩‍👧 flags 🇩🇪🇫🇷 thumbs 👍🏽 done",
    "漢字かな交じり文 and 한국어",
    "e\u0301 n\u0303 A\u030a ﬁ ａｂｃ \u0e01\u0e33",
    "one\r\ntwo\r\n\r\nthree\ttab  blanks",
    "שלום עולם مرحبا بالعالم mixed",
]


def made(folder: Path, tokenizer: Any, texts: list[str] = TEXTS, **settings: Any) -> TokenStore:
    write_texts(folder, texts)
    values = TokenizeSettings(**{"context": CONTEXT, **settings})
    place = folder / "tokens" / "x"
    tokenize_dataset(TextStore(folder), tokenizer, values, place, SilentReporter(), JobControl())
    return TokenStore(place)


def encoded(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def rows_of(store: TokenStore) -> list[list[int]]:
    """The tokens of every row without padding."""
    ids, mask = np.asarray(store.ids[:]), np.asarray(store.mask[:])
    return [row[keep != PADDING].tolist() for row, keep in zip(ids, mask, strict=True)]


def documents_in_order(store: TokenStore) -> list[int]:
    docs = np.asarray(store.docs[:]).ravel()
    return list(dict.fromkeys(int(doc) for doc in docs if doc >= 0))


@pytest.mark.parametrize("start", ["on", "off"])
@pytest.mark.parametrize("special", [True, False])
def test_packed_rows_hold_every_token_once(tmp_path: Path, start: str, special: bool) -> None:
    tokenizer = tiny_tokenizer(add_bos=True)
    store = made(tmp_path, tokenizer, start_token=start, special_tokens=special)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    order = documents_in_order(store)
    assert sorted(order) == list(range(len(TEXTS)))
    wanted = [
        token
        for doc in order
        for token in encoded(tokenizer, TEXTS[doc]) + ([eos] if special else [])
    ]
    starts = special and start == "on"
    found: list[int] = []
    for row in rows_of(store):
        assert not starts or row[0] == bos
        found += row[1:] if starts else row
    assert found == wanted
    assert store.meta["tokens"] == len(found) + (len(store) if starts else 0)


@pytest.mark.parametrize("padding", ["max_length", "longest", "do_not_pad"])
@pytest.mark.parametrize("truncation", ["longest_first", "split", "do_not_truncate"])
def test_documents_in_rows_of_their_own(tmp_path: Path, truncation: str, padding: str) -> None:
    tokenizer = tiny_tokenizer()
    store = made(
        tmp_path, tokenizer, arrangement="document", truncation=truncation, padding=padding
    )
    whole = [encoded(tokenizer, text) for text in TEXTS]
    assert any(len(ids) > CONTEXT for ids in whole)
    assert any(len(ids) < CONTEXT for ids in whole)
    by_document: dict[int, list[list[int]]] = {}
    docs = np.asarray(store.docs[:])
    for number, row in enumerate(rows_of(store)):
        [doc] = {int(d) for d in docs[number] if d >= 0}
        by_document.setdefault(doc, []).append(row)
    for doc, ids in enumerate(whole):
        pieces = [ids[i : i + CONTEXT] for i in range(0, len(ids), CONTEXT)]
        if truncation == "longest_first":
            assert by_document[doc] == pieces[:1]
        elif truncation == "split":
            assert by_document[doc] == pieces
        else:
            assert by_document.get(doc) == (pieces if len(pieces) == 1 else None)
    longest = max(len(row) for row in rows_of(store))
    width = {"max_length": CONTEXT, "longest": longest}.get(padding)
    assert width is None or store.ids.shape[1] == width
    if padding == "do_not_pad":
        stored = sum(path.stat().st_size for path in store.folder.glob("*.npy"))
        padded = made(tmp_path / "b", tokenizer, arrangement="document", truncation=truncation)
        assert stored < sum(path.stat().st_size for path in padded.folder.glob("*.npy"))


def test_unpadded_rows_serve_every_reader(tmp_path: Path) -> None:
    loaded = tiny_loaded(tmp_path / "model")
    values = {"arrangement": "document", "context": CONTEXT}
    ragged = made(tmp_path / "a", loaded.tokenizer, padding="do_not_pad", **values)
    padded = made(tmp_path / "b", loaded.tokenizer, padding="max_length", **values)
    width = ragged.ids.shape[1]
    for name in ("ids", "mask", "docs", "offsets"):
        one, other = getattr(ragged, name), getattr(padded, name)
        assert np.array_equal(one[5], other[5][:width])
        assert np.array_equal(one[3:9], other[3:9][:, :width])
        chosen = np.array([7, 2, 2, 11])
        assert np.array_equal(one[chosen], other[chosen][:, :width])
        assert np.array_equal(one[4, 1:3], other[4, 1:3])
    capture = Capture(loaded, 1, "resid_post")
    first = list(iterate_rows(capture, ragged, range(10), 4))
    second = list(iterate_rows(capture, padded, range(10), 4))
    for one, other in zip(first, second, strict=True):
        assert list(one.rows) == list(other.rows)
        assert torch.allclose(one.x_BSD[one.keep_BS], other.x_BSD[other.keep_BS], atol=1e-6)


def byte_level() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet
    )
    made.train_from_iterator(STORIES, trainer)
    return made


def byte_fallback() -> Tokenizer:
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Replace(" ", "▁")
    tokens = ["<s>", "</s>", "<unk>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=tokens)
    made.train_from_iterator(STORIES, trainer)
    # bytes are pieces of text, not special tokens
    plain = made.get_vocab()
    rebuilt = Tokenizer(
        models.BPE(vocab=plain, merges=_merges(made), byte_fallback=True, unk_token="<unk>")
    )
    rebuilt.normalizer = normalizers.Replace(" ", "▁")
    rebuilt.add_special_tokens(["<s>", "</s>"])
    return rebuilt


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    import json

    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in merges]


def unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>"
    )
    made.train_from_iterator(STORIES, trainer)
    return made


def word_piece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=["<s>", "</s>", "<unk>"])
    made.train_from_iterator([*STORIES, *ODD], trainer)
    return made


@pytest.mark.parametrize("build", [byte_level, byte_fallback, unigram, word_piece])
def test_offsets_reproduce_the_source(tmp_path: Path, build: Any) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=build(), bos_token="<s>", eos_token="</s>")
    texts = [*ODD, *STORIES[:20]]
    store = made(tmp_path, tokenizer, texts, context=64)
    text = TextStore(tmp_path)
    shown: dict[int, str] = {}
    spans: dict[int, list[tuple[int, int]]] = {}
    for row in range(len(store)):
        docs, offsets = store.docs[row], store.offsets[row]
        mask = store.mask[row]
        for doc, (low, high), kind in zip(docs, offsets, mask, strict=True):
            if kind == 0:
                spans.setdefault(int(doc), []).append((int(low), int(high)))
        for piece in store.pieces(text, row, 0, store.context):
            if not piece.special:
                shown.setdefault(int(docs[piece.lo]), "")
                shown[int(docs[piece.lo])] += piece.text
    for doc, source in enumerate(texts):
        assert sorted(spans[doc]) == spans[doc], "spans rise"
        covered = set()
        for low, high in spans[doc]:
            assert 0 <= low <= high <= len(source)
            covered |= set(range(low, high))
        missing = [c for i, c in enumerate(source) if i not in covered]
        # only what a tokenizer throws away may be missing: blanks between words
        assert all(c.isspace() for c in missing), (source, missing)
        if build in (byte_level, byte_fallback):
            assert shown[doc] == source


def test_columns_and_splits(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="column 'none'"):
        made(tmp_path, tiny_tokenizer(), column="none")
    with pytest.raises(InvalidInput, match="split 'none'"):
        made(tmp_path / "b", tiny_tokenizer(), split="none")
