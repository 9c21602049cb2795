"""How alike in meaning texts are: cosines of a sentence encoder, or of word counts without one.

What is measured without an encoder is the likeness of words, and is named so (`Meaning.method`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

WORDS = "words"  # the method without an encoder


class Embeds(Protocol):
    """A sentence encoder, as `embedding.Encoder` is one."""

    name: str

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors [N, D]."""
        ...


@dataclass(frozen=True)
class Meaning:
    """Cosines between texts, all embedded together; None where a text holds nothing to compare."""

    method: str
    _index: dict[str, int]
    _cosine_NN: NDArray[np.float64]

    @classmethod
    def of(cls, texts: Sequence[str], encoder: Embeds | None) -> Meaning:
        """Read texts once; pairs of them can then be compared."""
        index = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        if encoder is None:
            return cls(WORDS, index, _word_cosines(list(index)))
        unit_ND = encoder.embed(list(index)).astype(np.float64)
        return cls(encoder.name, index, unit_ND @ unit_ND.T)

    def cosine(self, first: str, second: str) -> float | None:
        """cos(e(first), e(second)); None if one of them is empty."""
        if not first.strip() or not second.strip():
            return None
        found = float(self._cosine_NN[self._index[first], self._index[second]])
        return None if np.isnan(found) else found

    def relevance(self, prompt: str, baseline: str, steered: str) -> float | None:
        """cos(e(steered), e(prompt)) - cos(e(baseline), e(prompt)); negative: it strayed."""
        after, before = self.cosine(steered, prompt), self.cosine(baseline, prompt)
        return None if after is None or before is None else after - before


def similarity(meaning: Meaning, baseline: str, steered: str) -> float | None:
    """How alike both texts are in meaning."""
    return meaning.cosine(baseline, steered)


def concept_similarity(meaning: Meaning, text: str, label: str) -> float | None:
    """How alike a text and a feature's label are in meaning."""
    return meaning.cosine(text, label)


def _word_cosines(texts: Sequence[str]) -> NDArray[np.float64]:
    """Cosines of word counts, case ignored; not a number where a text has no word."""
    counts = [Counter(re.findall(r"\w+", text.lower())) for text in texts]
    lengths = [sqrt(sum(n * n for n in count.values())) for count in counts]
    cosine_NN = np.full((len(texts), len(texts)), np.nan)
    for i, first in enumerate(counts):
        for j, second in enumerate(counts):
            if lengths[i] and lengths[j]:
                shared = sum(n * second[word] for word, n in first.items())
                cosine_NN[i, j] = shared / (lengths[i] * lengths[j])
    return cosine_NN
