"""How two texts and two models' predictions differ.

KL in nats. p_s are the predictions of the steered model, p_b those of the unsteered one, on the
same tokens. Meanings of texts are in `meaning`, what an SAE reads in them in `rereading`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch

LOOP_TOKENS, LOOP_PERIOD = 32, 8
REPEAT_SHARE = 0.25  # of a text, above which its longest repeated n-gram is warned of


class Divergence(NamedTuple):
    """Per generated token: KL(p_s || p_b), KL(p_b || p_s), and -log p_b of the token itself."""

    kl: list[float]
    reverse: list[float]
    surprise: list[float]

    @property
    def perplexity(self) -> float | None:
        """exp of the mean surprise; None without tokens."""
        return math.exp(sum(self.surprise) / len(self.surprise)) if self.surprise else None


class Divergences(NamedTuple):
    """KL(p_s || p_b) and KL(p_b || p_s) per token [T]."""

    kl_T: torch.Tensor
    reverse_T: torch.Tensor


def divergences(base_TV: torch.Tensor, steered_TV: torch.Tensor) -> Divergences:
    """Compare logits of both models for the same tokens; softmax in fp32, before temperature."""
    log_b_TV = base_TV.float().log_softmax(1)
    log_s_TV = steered_TV.float().log_softmax(1)
    gap_TV = log_s_TV - log_b_TV
    kl_T = (log_s_TV.exp() * gap_TV).sum(1).clamp_min(0)
    return Divergences(kl_T, (log_b_TV.exp() * -gap_TV).sum(1).clamp_min(0))


def divergence(
    base_TV: torch.Tensor, steered_TV: torch.Tensor, target_T: torch.Tensor
) -> Divergence:
    """Divergences of both models, and how the unsteered one takes the tokens that came."""
    found = divergences(base_TV, steered_TV)
    surprise_T = -base_TV.float().log_softmax(1).gather(1, target_T[:, None])[:, 0]
    return Divergence(found.kl_T.tolist(), found.reverse_T.tolist(), surprise_T.tolist())


def jensen_shannon(base_TV: torch.Tensor, steered_TV: torch.Tensor) -> list[float]:
    """(KL(p_s || m) + KL(p_b || m)) / 2 per token with m their mean, from logits; 0 to ln 2."""
    log_b_TV = base_TV.float().log_softmax(1)
    log_s_TV = steered_TV.float().log_softmax(1)
    log_m_TV = torch.logaddexp(log_b_TV, log_s_TV) - math.log(2)
    towards_s_T = (log_s_TV.exp() * (log_s_TV - log_m_TV)).sum(1)
    towards_b_T = (log_b_TV.exp() * (log_b_TV - log_m_TV)).sum(1)
    return ((towards_s_T + towards_b_T) / 2).clamp(0, math.log(2)).tolist()


def perplexity(logits_TV: torch.Tensor, target_T: torch.Tensor) -> float | None:
    """exp of the mean -log p of the tokens that came; None without tokens.

    Of a text it is that of the unsteered model, over generated tokens only.
    """
    if not len(target_T):
        return None
    log_TV = logits_TV.float().log_softmax(1)
    return math.exp(-float(log_TV.gather(1, target_T[:, None]).double().mean()))


def perplexity_change(baseline: float | None, steered: float | None) -> float | None:
    """How much higher the steered text's perplexity is; None if one of them is not known."""
    return None if baseline is None or steered is None else steered - baseline


def perplexity_log_ratio(baseline: float | None, steered: float | None) -> float | None:
    """log(steered / baseline), which long and short texts share a scale in; None if unknown."""
    return None if not baseline or not steered else math.log(steered / baseline)


class Mover(NamedTuple):
    """A token whose probability changed."""

    token_id: int
    baseline: float
    steered: float

    @property
    def change(self) -> float:
        """How much more probable it is in the steered model."""
        return self.steered - self.baseline


def top_movers(
    base_TV: torch.Tensor, steered_TV: torch.Tensor, count: int = 10
) -> list[list[Mover]]:
    """Per token the `count` entries whose probability changed most, the largest change first.

    Entries that did not change are left out.
    """
    base_TV, steered_TV = base_TV.float().softmax(1), steered_TV.float().softmax(1)
    found_TK = (steered_TV - base_TV).abs().topk(min(count, base_TV.shape[1]), dim=1).indices
    b_TK, s_TK = base_TV.gather(1, found_TK), steered_TV.gather(1, found_TK)
    rows = zip(found_TK.tolist(), b_TK.tolist(), s_TK.tolist(), strict=True)
    return [
        [Mover(i, b, s) for i, b, s in zip(*row, strict=True) if b != s]  # ids, both probabilities
        for row in rows
    ]


def likeliest(logits_TV: torch.Tensor, count: int = 10) -> list[list[tuple[int, float]]]:
    """Per token the `count` most probable next ones with their probability, largest first."""
    found = logits_TV.float().softmax(1).topk(min(count, logits_TV.shape[1]), dim=1)
    rows = zip(found.indices.tolist(), found.values.tolist(), strict=True)
    return [list(zip(ids, chances, strict=True)) for ids, chances in rows]


def mean(values: Sequence[float]) -> float | None:
    """The mean, or None of nothing."""
    return sum(values) / len(values) if values else None


def word_overlap(first: str, second: str) -> float | None:
    """Shared words over all words of both texts (Jaccard), case ignored; None if there are none."""
    a, b = (set(re.findall(r"\w+", text.lower())) for text in (first, second))
    return len(a & b) / len(a | b) if a | b else None


def distinct(ids: Sequence[int], n: int) -> float | None:
    """Different n-grams over all n-grams; None if the text is shorter than n."""
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def longest_repeat(ids: Sequence[int]) -> int:
    """Length of the longest n-gram that occurs more than once (it may overlap itself); 0 if none.

    From n to n + 1: an n-gram that occurs once cannot begin a longer one that occurs twice.
    """
    starts = list(range(len(ids)))
    length = 0
    while starts:
        places: dict[tuple[int, ...], list[int]] = {}
        for start in starts:
            if start + length < len(ids):
                places.setdefault(tuple(ids[start : start + length + 1]), []).append(start)
        starts = [start for found in places.values() if len(found) > 1 for start in found]
        length += bool(starts)
    return length


def repeat_share(ids: Sequence[int]) -> float | None:
    """The longest repeated n-gram's share of the text, in tokens; None without tokens.

    A text that says one sentence over and over is near 1, whatever the length of the sentence.
    """
    return longest_repeat(ids) / len(ids) if ids else None


def repeats(ids: Sequence[int]) -> bool:
    """Whether `repeat_share` is above 0.25, in a text of at least 32 tokens."""
    return len(ids) >= LOOP_TOKENS and (repeat_share(ids) or 0.0) > REPEAT_SHARE


def edit_distance(first: Sequence[int], second: Sequence[int]) -> float | None:
    """Tokens to insert, delete or replace (Levenshtein) over the longer length, 0 to 1.

    None of two empty texts.
    """
    longer = max(len(first), len(second))
    if not longer:
        return None
    row = list(range(len(second) + 1))
    for number, a in enumerate(first, 1):
        diagonal, row[0] = row[0], number
        for index, b in enumerate(second, 1):
            replaced = diagonal + (a != b)
            diagonal = row[index]
            row[index] = min(replaced, diagonal + 1, row[index - 1] + 1)
    return row[-1] / longer


def concept_share(ids: Sequence[int], concept: Collection[int]) -> float | None:
    """Share of tokens that belong to a feature's token set; None without tokens."""
    return sum(i in concept for i in ids) / len(ids) if ids else None


def concept_probability(logits_TV: torch.Tensor, concept: Collection[int]) -> list[float]:
    """Per token the probability that the next one belongs to a token set, from logits."""
    chosen_K = torch.tensor(sorted(concept), dtype=torch.int64, device=logits_TV.device)
    return logits_TV.float().softmax(1)[:, chosen_K].sum(1).tolist()


def loops(ids: Sequence[int]) -> bool:
    """Whether the last 32 tokens repeat with a period of at most 8."""
    tail = list(ids[-LOOP_TOKENS:])
    if len(tail) < LOOP_TOKENS:
        return False
    return any(tail[period:] == tail[:-period] for period in range(1, LOOP_PERIOD + 1))


def first_divergence(first: Sequence[int], second: Sequence[int]) -> int | None:
    """Index of the first token that differs; None if both are the same."""
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return index
    return None if len(first) == len(second) else min(len(first), len(second))
