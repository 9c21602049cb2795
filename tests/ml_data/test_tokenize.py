"""Tokenising: the same tokens as the tokenizer gives, full rows, spans that show the original."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from mistudio.core.control import JobControl
from mistudio.core.errors import Cancelled, Damaged, InvalidInput, NotFound
from mistudio.core.events import RecordingReporter, SilentReporter
from mistudio.ml.data.offsets import Encoder
from mistudio.ml.data.parts import PartReader, assign_parts, document_hash
from mistudio.ml.data.text import TextStore
from mistudio.ml.data.token_settings import hash_of
from mistudio.ml.data.token_store import CONTENT, Piece, TokenStore, joins
from mistudio.ml.data.tokenize import (
    TokenizeSettings,
    adds_bos,
    settings_hash,
    tokenize_dataset,
)
from tests.helpers.tiny import STORIES, tiny_tokenizer, write_texts, write_tokens

ODD = [
    "hi 🦊🦊 漢字 e\u0301\r\nשלום 👨‍👩‍👧 done",
    "مرحبا بالعالم tomatoes 🇩🇪🇫🇷 👍🏽",
    "  two  blanks\t\n\n and <|eos|> inside \u2028 ",
    "ａｂｃ ﬁ Å \U0001f9d1\u200d\U0001f4bb \u0e01\u0e33",
]
TEXTS = [f"{story} Number {i}." for i, story in enumerate(STORIES)] + ODD


def content(store: TokenStore, doc: int) -> np.ndarray:
    """Ids of one document over all rows, without row starts and the separator behind it."""
    ids = store.ids[store.docs == doc]
    return ids[:-1] if store.meta["settings"]["arrangement"] == "packed" else ids


@pytest.mark.parametrize("add_bos", [False, True])
def test_rows_hold_what_the_tokenizer_gives(tmp_path: Path, add_bos: bool) -> None:
    tokenizer = tiny_tokenizer(add_bos=add_bos)
    store = write_tokens(tmp_path, TEXTS, tokenizer, 32)
    backend = tokenizer.backend_tokenizer
    texts = TextStore(tmp_path)
    expected: dict[str, list[int]] = {}
    for part in ("train", "calibration", "evaluation"):
        rows = store.rows(part)
        ids = store.ids[rows.start : rows.stop, int(add_bos) :].ravel()
        docs = store.docs[rows.start : rows.stop, int(add_bos) :].ravel()
        real = docs >= 0
        expected[part] = []
        for doc in dict.fromkeys(docs[real].tolist()):
            ids_of = backend.encode(texts.text(doc), add_special_tokens=False).ids
            expected[part] += [*ids_of, 1]
        assert ids[real].tolist() == expected[part]
    assert store.meta["dropped_tokens"] == 0
    assert store.meta["tokens"] == sum(len(v) for v in expected.values()) + (
        len(store) if add_bos else 0
    )


def test_bos_is_neither_doubled_nor_invented(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(add_bos=True)
    assert adds_bos(tokenizer)
    assert not adds_bos(tiny_tokenizer())
    texts = [f"<|bos|>{t}" for t in TEXTS]
    store = write_tokens(tmp_path / "a", texts, tokenizer, 48, arrangement="document")
    assert (store.ids[:, 0] == 0).all()
    assert (store.ids[:, 1] != 0).all()
    plain = write_tokens(tmp_path / "b", TEXTS, tiny_tokenizer(), 32)
    assert not (plain.ids == 0).any()
    forced = write_tokens(tmp_path / "c", TEXTS, tiny_tokenizer(), 32, start_token="on")
    assert (forced.ids[:, 0] == 0).all()
    off = write_tokens(tmp_path / "d", TEXTS, tokenizer, 32, start_token="off")
    assert not (off.ids == 0).any()


def test_bos_cannot_be_had_from_a_tokenizer_without(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = None
    with pytest.raises(InvalidInput, match="no BOS token"):
        write_tokens(tmp_path, TEXTS, tokenizer, 32, start_token="on")
    assert not (tmp_path / "tokens" / "tok").exists()
    assert write_tokens(tmp_path, TEXTS, tokenizer, 32).meta["row_start_id"] is None


def test_separator_falls_back_to_bos(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    store = write_tokens(tmp_path, TEXTS, tokenizer, 32)
    assert store.meta["separator_id"] == 0
    assert store.meta["special_tokens"]["<|bos|>"] > 50


def test_packed_rows_are_full_but_for_each_parts_last(tmp_path: Path) -> None:
    store = write_tokens(tmp_path, TEXTS * 3, tiny_tokenizer(add_bos=True), 32)
    padded = np.flatnonzero((store.mask == 2).any(axis=1)).tolist()
    lasts = [store.rows(part).stop - 1 for part in ("train", "calibration", "evaluation")]
    assert padded
    assert set(padded) <= set(lasts)
    assert (store.mask[:, 0] == 1).all()
    assert (store.docs[:, 0] == -1).all()
    assert (store.mask[(store.ids == 1) & (store.mask != 2)] == 1).all()
    assert store.meta["content_tokens"] == int((store.mask == 0).sum())


def test_parts_never_share_a_row_or_a_text(tmp_path: Path) -> None:
    store = write_tokens(tmp_path, TEXTS * 2, tiny_tokenizer(), 16)
    texts = TextStore(tmp_path)
    seen: dict[str, set[str]] = {}
    for part in ("train", "calibration", "evaluation"):
        rows = store.rows(part)
        docs = np.unique(store.docs[rows.start : rows.stop])
        seen[part] = {texts.text(int(d)) for d in docs if d >= 0}
        assert seen[part]
    assert not seen["train"] & seen["evaluation"]
    assert not seen["train"] & seen["calibration"]
    assert not seen["calibration"] & seen["evaluation"]
    assert store.rows("all") == range(len(store))
    with pytest.raises(InvalidInput, match="no part 'test'"):
        store.rows("test")


def test_parts_follow_the_hash(tmp_path: Path) -> None:
    write_texts(tmp_path, [f"document {i}" for i in range(2000)])
    parts = assign_parts(TextStore(tmp_path))
    for i in (0, 17, 1999):
        u = document_hash(f"document {i}") / 2**64
        assert parts[i] == (2 if u < 0.05 else 1 if u < 0.1 else 0)
    assert 60 < int((parts == 2).sum()) < 140


@pytest.mark.parametrize("count", [50, 2000, 3000])
def test_another_share_is_held_out(tmp_path: Path, count: int) -> None:
    write_texts(tmp_path, [f"document {i}" for i in range(count)])
    texts = TextStore(tmp_path)
    smaller, larger = (assign_parts(texts, share=share) for share in (0.05, 0.3))
    assert set(np.flatnonzero(smaller == 2)) < set(np.flatnonzero(larger == 2))
    assert 0.2 < (larger == 2).mean() < 0.4
    assert 0.2 < (larger == 1).mean() < 0.4
    assert sorted(np.unique(assign_parts(texts, share=0.01))) == [0, 1, 2]
    if count > 50:
        u = np.array([document_hash(f"document {i}") / 2**64 for i in range(count)])
        assert (larger == np.where(u < 0.3, 2, np.where(u < 0.6, 1, 0))).all()
    reader = PartReader(texts, lambda: None, 0.3)
    for part in (0, 1, 2):
        assert [n for n, _ in reader.read(part)] == np.flatnonzero(larger == part).tolist()


def test_few_documents_leave_some_to_train_on(tmp_path: Path) -> None:
    write_texts(tmp_path, ["a", "b", "c", "d"])
    assert sorted(assign_parts(TextStore(tmp_path), share=0.4)) == [0, 0, 1, 2]


def test_the_usual_share_is_not_part_of_the_hash() -> None:
    told = {"context": 32, "arrangement": "packed", "start_token": "model", "tokenizer": "t"}
    plain = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    assert hash_of(TokenizeSettings(32), "t") == plain
    assert hash_of(TokenizeSettings(32, held_out_share=10.0), "t") != plain


def test_few_documents_are_shared_out(tmp_path: Path) -> None:
    write_texts(tmp_path / "three", ["a", "b", "c"])
    assert sorted(assign_parts(TextStore(tmp_path / "three"))) == [0, 1, 2]
    write_texts(tmp_path / "two", ["a", "b", "a", "b"])
    with pytest.raises(InvalidInput, match="2 different documents, at least 3 are needed"):
        assign_parts(TextStore(tmp_path / "two"))


def test_short_parts_are_padded(tmp_path: Path) -> None:
    store = write_tokens(tmp_path, ["one", "two", "three"], tiny_tokenizer(), 64)
    assert len(store) == 3
    assert [len(store.rows(p)) for p in ("train", "calibration", "evaluation")] == [1, 1, 1]
    assert store.meta["tokens"] == int((store.mask != 2).sum()) < 64


def test_one_document_per_row(tmp_path: Path) -> None:
    texts = [*TEXTS, "long " * 200]
    store = write_tokens(tmp_path, texts, tiny_tokenizer(add_bos=True), 48, arrangement="document")
    assert len(store) == len(texts)
    backend = tiny_tokenizer().backend_tokenizer
    for row in range(len(store)):
        doc = int(store.docs[row, 1])
        ids = backend.encode(texts[doc], add_special_tokens=False).ids[:47]
        assert store.ids[row, 1 : 1 + len(ids)].tolist() == ids
        assert (store.mask[row, 1 + len(ids) :] == 2).all()
        assert (store.docs[row, 1 + len(ids) :] == -1).all()


def test_spans_equal_the_librarys() -> None:
    tokenizer = tiny_tokenizer()
    library = tokenizer.backend_tokenizer.encode_batch(TEXTS, add_special_tokens=False)
    batch = Encoder(tokenizer).encode(TEXTS)
    for i, theirs in enumerate(library):
        ids_T, spans_T2 = batch.document(i)
        assert ids_T.tolist() == theirs.ids
        assert spans_T2.tolist() == [list(span) for span in theirs.offsets], TEXTS[i]


def awkward_tokenizers() -> dict[str, Any]:
    """Tokenizers whose own spans have gaps, or that change the text first."""
    found = {}
    for name, pre, normalizer in (
        ("trimmed", pre_tokenizers.ByteLevel(add_prefix_space=True), None),
        ("spaces", pre_tokenizers.Metaspace(), None),
        ("lower", pre_tokenizers.Whitespace(), normalizers.Lowercase()),
        ("composed", pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.NFC()),
    ):
        tokenizer = Tokenizer(models.BPE(unk_token="<|bos|>"))
        tokenizer.pre_tokenizer = pre
        if normalizer is not None:
            tokenizer.normalizer = normalizer
        if name == "trimmed":
            tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
        trainer = trainers.BpeTrainer(
            vocab_size=500, special_tokens=["<|bos|>", "<|eos|>"], show_progress=False,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        )  # fmt: skip
        tokenizer.train_from_iterator(TEXTS, trainer)
        found[name] = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token="<|bos|>", eos_token="<|eos|>"
        )
    return found


AWKWARD = awkward_tokenizers()


@pytest.mark.parametrize("name", [*AWKWARD, "plain"])
def test_pieces_are_the_original_text(tmp_path: Path, name: str) -> None:
    tokenizer = AWKWARD.get(name) or tiny_tokenizer()
    store = write_tokens(tmp_path, TEXTS, tokenizer, 256, arrangement="document")
    texts = TextStore(tmp_path)
    for row in range(len(store)):
        doc = int(store.docs[row].max())
        pieces = store.pieces(texts, row, 0, 256)
        assert "".join(p.text for p in pieces) == texts.text(doc)
        assert [p.lo for p in pieces] == [0, *[p.hi for p in pieces][:-1]]
        assert store.span_text(texts, row, 0, 256) == texts.text(doc)


def test_visible_characters_stay_whole(tmp_path: Path) -> None:
    store = write_tokens(tmp_path, TEXTS, tiny_tokenizer(), 256, arrangement="document")
    texts = TextStore(tmp_path)
    pieces: list[str] = []
    for row in range(len(store)):
        if int(store.docs[row, 0]) >= len(STORIES):
            pieces += [p.text for p in store.pieces(texts, row, 0, 256)]
    for whole in ("🦊", "漢", "e\u0301", "\r\n", "👨‍👩‍👧", "🇩🇪", "🇫🇷", "👍🏽", "ש"):
        assert whole in pieces, whole
    assert "".join(pieces).count("tomatoes") == 1


def test_pieces_across_documents_and_inside_a_character(tmp_path: Path) -> None:
    store = write_tokens(tmp_path, ["🦊"] + ["ab"] * 9 + ["🦊", "cd"], tiny_tokenizer(), 12)
    texts = TextStore(tmp_path)
    row = next(r for r in range(len(store)) if (store.docs[r] == 0).any())
    first = int(np.flatnonzero(store.docs[row] == 0)[0])
    assert store.pieces(texts, row, first + 1, first + 3) == [Piece("🦊", first + 1, first + 3)]
    assert store.span_text(texts, row, first + 1, first + 2) == "🦊"
    row = store.rows("train").start
    pieces = store.pieces(texts, row, 0, 12)
    assert [p.special for p in pieces].count(True) == int((store.mask[row] != 0).sum())
    assert "\n" in store.span_text(texts, row, 0, 12)
    assert store.pieces(texts, row, 5, 5) == []


def test_joined_characters() -> None:
    assert joins("e", "\u0301")
    assert joins("\r", "\n")
    assert joins("🇩", "🇪")
    assert not joins("🇩🇪", "🇫")
    assert not joins("a", "b")
    assert not joins("", "\u0301")


def test_counts_are_brute_force_counts(tmp_path: Path) -> None:
    store = write_tokens(tmp_path, TEXTS, tiny_tokenizer(add_bos=True), 32)
    meta = json.loads((tmp_path / "tokens" / "tok" / "meta.json").read_text())
    real = store.ids[store.mask != 2]
    assert (meta["tokens"], meta["rows"]) == (real.size, len(store))
    assert meta["unique_tokens"] == len(np.unique(real))
    top = meta["top_tokens"][0]
    values, counts = np.unique(store.ids[store.mask == 0], return_counts=True)
    assert (top["id"], top["count"]) == (int(values[counts.argmax()]), int(counts.max()))
    assert meta["special_tokens"]["<|bos|>"] == int((real == 0).sum())
    lengths = Encoder(tiny_tokenizer()).encode(TEXTS).lengths_N
    assert meta["document_tokens"]["max"] == max(lengths)
    assert meta["document_tokens"]["mean"] == pytest.approx(np.mean(lengths))
    assert sum(meta["document_tokens"]["histogram_counts"]) == len(TEXTS)


def test_settings_hash_tells_settings_and_tokenizers_apart() -> None:
    plain, other = tiny_tokenizer(), tiny_tokenizer(add_bos=True)
    base = TokenizeSettings(context=32)
    assert settings_hash(base, plain) == settings_hash(TokenizeSettings(context=32), plain)
    hashes = {settings_hash(s, t) for s in (base, TokenizeSettings(33)) for t in (plain, other)}
    assert len(hashes) == 4


@pytest.mark.parametrize(
    "settings",
    [
        TokenizeSettings(1),
        TokenizeSettings(5000),
        TokenizeSettings(32, "rows"),
        TokenizeSettings(32, "packed", "maybe"),
    ],
)
def test_bad_settings(tmp_path: Path, settings: TokenizeSettings) -> None:
    write_texts(tmp_path, TEXTS)
    with pytest.raises(InvalidInput):
        tokenize_dataset(
            TextStore(tmp_path), tiny_tokenizer(), settings, tmp_path / "tok", SilentReporter(),
            JobControl(),
        )  # fmt: skip
    assert not (tmp_path / "tok").exists()


def test_cancel_leaves_nothing(tmp_path: Path) -> None:
    write_texts(tmp_path, TEXTS * 10)

    class CancelLater(RecordingReporter):
        def progress(self, fraction: float, phase: str, **_: Any) -> None:
            if phase == "Tokenising":
                control.cancel()

    control = JobControl()
    with pytest.raises(Cancelled):
        tokenize_dataset(
            TextStore(tmp_path), tiny_tokenizer(), TokenizeSettings(32), tmp_path / "tok",
            CancelLater(), control,
        )  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == ["info.json", "text"]


def test_missing_and_damaged_tokens(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="tokenise the dataset again"):
        TokenStore(tmp_path)
    store = write_tokens(tmp_path, TEXTS, tiny_tokenizer(), 32)
    file = store.folder / "docs.npy"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(Damaged, match="tokenise the dataset again"):
        TokenStore(store.folder)


@pytest.mark.parametrize(
    "text", ["plain words é here", "a\tb\nc", "cafe\u0301 x", "a\r\nb", "🇦🇹 ok"]
)
def test_plain_text_is_cut_as_any_other(text: str) -> None:
    """The quick way gives what the careful one gives, and is not taken where tokens may join."""
    size = len(text)
    arrays = {
        "ids": np.arange(size, dtype=np.int32)[None],
        "offsets": np.array([[i, i + 1] for i in range(size)], np.int32)[None],
        "mask": np.full((1, size), CONTENT, np.uint8),
        "docs": np.zeros((1, size), np.int32),
    }
    store = object.__new__(TokenStore)
    store.__dict__.update(arrays, meta={"context": size})
    quick = store.pieces_of(lambda _doc: text, 0, 0, size)
    store._is_plain = lambda *_: False  # type: ignore[method-assign]
    assert quick == store.pieces_of(lambda _doc: text, 0, 0, size)
    assert "".join(piece.text for piece in quick) == text
    joined = any(c in text for c in "\u0301\r🇦")
    assert (len(quick) < size) == joined
