"""Unigram and trigram language models over token ids: what the sample model has to beat.

Both read rows of token ids and predict every token but the first of a row from the tokens before
it in the row, so a network scored on the same rows is compared on exactly the same predictions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

Rows = Sequence[Sequence[int]]


class Unigram:
    """Token frequencies with one count added to each token of the vocabulary."""

    def __init__(self, documents: Iterable[Sequence[int]], vocabulary: int) -> None:
        self.counts = Counter(token for ids in documents for token in ids)
        self.total = sum(self.counts.values()) + vocabulary

    def probability(self, token: int) -> float:
        return (self.counts[token] + 1) / self.total

    def nats(self, rows: Rows) -> float:
        """Mean cross-entropy in nats per predicted token."""
        losses = [-math.log(self.probability(token)) for row in rows for token in row[1:]]
        return math.fsum(losses) / len(losses)


class Trigram:
    """Interpolated Kneser-Ney trigram model.

    Each order takes a discount d = n1 / (n1 + 2 n2) off its counts (n1, n2: how many entries
    were counted once, twice) and gives what it took to the order below, which counts in how many
    different contexts a token was seen. Chen and Goodman, "An empirical study of smoothing
    techniques for language modeling", 1999, sections 2.7 and 4.1.6.
    """

    def __init__(self, documents: Iterable[Sequence[int]], vocabulary: int) -> None:
        trigrams: Counter[tuple[int, int, int]] = Counter()
        for ids in documents:
            trigrams.update(zip(ids, ids[1:], ids[2:], strict=False))
        bigrams = Counter((second, third) for _, second, third in trigrams)
        unigrams = Counter(third for _, third in bigrams)
        self.high = _Order({(gram[:2], gram[2]): n for gram, n in trigrams.items()})
        self.middle = _Order(dict(bigrams))
        self.low = unigrams
        self.low_total = len(bigrams) + vocabulary

    def probability(self, token: int, context: Sequence[int]) -> float:
        """p(token | the last two tokens of context); one token of context is enough."""
        below = (self.low[token] + 1) / self.low_total
        below = self.middle.interpolate(context[-1], token, below)
        return self.high.interpolate(tuple(context[-2:]), token, below)

    def nats(self, rows: Rows) -> float:
        """Mean cross-entropy in nats per predicted token."""
        losses = [
            -math.log(self.probability(row[at], row[max(0, at - 2) : at]))
            for row in rows
            for at in range(1, len(row))
        ]
        return math.fsum(losses) / len(losses)


class _Order:
    """Discounted counts of (context, token), with the weight left over for the order below."""

    def __init__(self, counts: dict[tuple[Hashable, int], int]) -> None:
        self.counts = counts
        sizes = Counter(counts.values())
        self.discount = sizes[1] / (sizes[1] + 2 * sizes[2]) if sizes[1] else 0.0
        self.total: Counter[Hashable] = Counter()
        self.kinds: Counter[Hashable] = Counter()
        for (context, _), count in counts.items():
            self.total[context] += count
            self.kinds[context] += 1

    def interpolate(self, context: Hashable, token: int, below: float) -> float:
        total = self.total[context]
        if total == 0:
            return below
        seen = max(0.0, self.counts.get((context, token), 0) - self.discount)
        return (seen + self.discount * self.kinds[context] * below) / total
