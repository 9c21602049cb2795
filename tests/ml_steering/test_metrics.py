"""Metrics against NumPy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

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
