"""Metrics against NumPy and by hand."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax

from mistudio.ml.steering import metrics


def test_divergence_by_its_definition() -> None:
    rng = np.random.default_rng(0)
    base, steered = rng.normal(size=(2, 5, 30))
    target = rng.integers(0, 30, 5)
    found = metrics.divergence(torch.tensor(base), torch.tensor(steered), torch.tensor(target))
    p_b = np.exp(base) / np.exp(base).sum(1, keepdims=True)
    p_s = np.exp(steered) / np.exp(steered).sum(1, keepdims=True)
    np.testing.assert_allclose(found.kl, (p_s * np.log(p_s / p_b)).sum(1), rtol=1e-4)
    np.testing.assert_allclose(found.reverse, (p_b * np.log(p_b / p_s)).sum(1), rtol=1e-4)
    own = p_b[np.arange(5), target]
    assert found.perplexity == pytest.approx(np.exp(-np.log(own).mean()), rel=1e-5)
    assert metrics.Divergence([], [], []).perplexity is None


def test_equal_logits_have_no_divergence() -> None:
    logits = torch.randn(4, 50)
    found = metrics.divergence(logits, logits, torch.zeros(4, dtype=torch.int64))
    assert found.kl == found.reverse == [0.0] * 4


def test_word_overlap_is_jaccard() -> None:
    assert metrics.word_overlap("The fox, the hare.", "the FOX ran") == pytest.approx(2 / 4)
    assert metrics.word_overlap("", "...") is None
    assert metrics.word_overlap("a", "b") == 0.0


def test_repetition() -> None:
    assert metrics.distinct([1, 2, 1, 2], 1) == 0.5
    assert metrics.distinct([1, 2, 1, 2], 2) == pytest.approx(2 / 3)
    assert metrics.distinct([1], 2) is None
    assert metrics.loops([9, 9, *[1, 2, 3] * 12])
    assert not metrics.loops([1, 2, 3] * 10)  # too short to tell
    assert not metrics.loops(list(range(9)) * 5)  # period 9


def test_first_divergence() -> None:
    assert metrics.first_divergence([1, 2, 3], [1, 2, 3]) is None
    assert metrics.first_divergence([1, 2, 3], [1, 5, 3]) == 1
    assert metrics.first_divergence([1, 2], [1, 2, 3]) == 2


def test_jensen_shannon_against_scipy() -> None:
    rng = np.random.default_rng(1)
    base, steered = 3 * rng.normal(size=(2, 6, 40))
    found = metrics.jensen_shannon(torch.tensor(base), torch.tensor(steered))
    expected = jensenshannon(softmax(base, 1), softmax(steered, 1), axis=1) ** 2
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    apart = torch.full((1, 40), -1e4)
    first, second = apart.clone(), apart.clone()
    first[0, 0] = second[0, 1] = 0
    assert metrics.jensen_shannon(first, second) == pytest.approx([np.log(2)])
    assert metrics.jensen_shannon(first, first) == [0.0]


def test_perplexity_is_that_of_the_tokens_that_came() -> None:
    rng = np.random.default_rng(2)
    logits, target = rng.normal(size=(7, 30)), rng.integers(0, 30, 7)
    own = softmax(logits, 1)[np.arange(7), target]
    found = metrics.perplexity(torch.tensor(logits), torch.tensor(target))
    assert found == pytest.approx(np.prod(1 / own) ** (1 / 7), rel=1e-5)
    assert metrics.perplexity(torch.zeros(0, 30), torch.zeros(0, dtype=torch.int64)) is None
    assert metrics.perplexity_change(4.0, 10.0) == 6.0
    assert metrics.perplexity_log_ratio(4.0, 10.0) == pytest.approx(np.log(2.5))
    assert metrics.perplexity_change(None, 1.0) is metrics.perplexity_log_ratio(1.0, None) is None


def test_top_movers_are_the_largest_changes_of_probability() -> None:
    rng = np.random.default_rng(3)
    base, steered = rng.normal(size=(2, 4, 30))
    found = metrics.top_movers(torch.tensor(base), torch.tensor(steered), 5)
    change = softmax(steered, 1) - softmax(base, 1)
    for row, movers in enumerate(found):
        assert [m.token_id for m in movers] == np.argsort(-abs(change[row]))[:5].tolist()
        np.testing.assert_allclose([m.change for m in movers], change[row, _ids(movers)], atol=1e-6)
    same = torch.tensor(base)
    assert metrics.top_movers(same, same) == [[], [], [], []]


def _ids(movers: list[metrics.Mover]) -> list[int]:
    return [mover.token_id for mover in movers]


def _longest_repeat(ids: list[int]) -> int:
    sizes = range(len(ids) - 1, 0, -1)
    grams = {n: [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)] for n in sizes}
    return next((n for n in sizes if len(set(grams[n])) < len(grams[n])), 0)


@pytest.mark.parametrize("seed", range(20))
def test_longest_repeat_and_edit_distance_by_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = (rng.integers(0, 4, rng.integers(0, 14)).tolist() for _ in range(2))
    assert metrics.longest_repeat(first) == _longest_repeat(first)

    @cache
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        replaced = distance(i - 1, j - 1) + (first[i - 1] != second[j - 1])
        return min(replaced, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    longer = max(len(first), len(second))
    expected = distance(len(first), len(second)) / longer if longer else None
    assert metrics.edit_distance(first, second) == expected


def test_repeats_and_distances_by_hand() -> None:
    assert metrics.longest_repeat([1, 2, 3, 1, 2, 4]) == 2
    assert metrics.longest_repeat([7] * 5) == 4  # two that overlap
    assert metrics.longest_repeat([1, 2, 3]) == metrics.longest_repeat([]) == 0
    sentence = list(range(20))
    assert metrics.repeat_share([*sentence, *sentence, *sentence]) == 40 / 60
    assert not metrics.loops([*sentence, *sentence, *sentence]), "its period is above 8"
    assert metrics.repeats([*sentence, *sentence, *sentence])
    assert metrics.repeats([*range(50, 59), *range(70, 84), *range(50, 59)])  # 9 of 32
    assert not metrics.repeats([*range(50, 58), *range(70, 86), *range(50, 58)])  # 8 of 32: 0.25
    assert not metrics.repeats([1] * 31), "too short to tell"
    assert metrics.repeat_share([]) is None
    assert metrics.edit_distance([1, 2, 3, 4], [0, 1, 2, 3]) == 0.5  # not 1, as by position
    assert metrics.edit_distance([], []) is None


def test_concept_tokens() -> None:
    assert metrics.concept_share([1, 2, 3, 1], {1, 9}) == 0.5
    assert metrics.concept_share([], {1}) is None
    logits = np.random.default_rng(4).normal(size=(3, 10))
    found = metrics.concept_probability(torch.tensor(logits), {2, 5})
    np.testing.assert_allclose(found, softmax(logits, 1)[:, [2, 5]].sum(1), rtol=1e-5)
