"""Streamed text grows by whole characters and ends as the whole decoding."""

from __future__ import annotations

import pytest

from mistudio.ml.steering.detokenize import TextStream
from tests.helpers.tiny import tiny_tokenizer


@pytest.mark.parametrize(
    "text", [" the fox lived", "🦊 and 🐺!", "naïve café—très", "\n\n  two  spaces", "日本語"]
)
def test_stream_ends_as_the_whole_text_and_shows_no_half_character(text: str) -> None:
    tokenizer = tiny_tokenizer()
    prompt = tokenizer("Once upon a time")["input_ids"]
    ids = tokenizer(text)["input_ids"]
    stream = TextStream(tokenizer, prompt)
    shown = [stream.add(token) for token in ids]
    assert stream.finish() == text
    assert all(text.startswith(part) and "\ufffd" not in part for part in shown)
    assert len(set(shown)) > 1


def test_an_unfinished_character_is_shown_at_the_end() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer("a🦊")["input_ids"][:-1]
    stream = TextStream(tokenizer, [])
    assert [stream.add(token) for token in ids][-1] == "a"
    assert stream.finish().startswith("a\ufffd")


def test_special_tokens_have_no_text() -> None:
    tokenizer = tiny_tokenizer()
    stream = TextStream(tokenizer, [0])
    assert stream.add(0) == ""
    assert stream.add(tokenizer("x")["input_ids"][0]) == "x"
