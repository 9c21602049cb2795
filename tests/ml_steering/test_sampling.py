"""Sampling rules against transformers' own, and noise that is the same for every row."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mistudio.ml.steering.sampling import (
    SamplingSettings,
    choose,
    gumbel_noise,
    keep_likely,
    penalise,
)


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.7), (12, 0.5), (3, 0.99)])
def test_rules_keep_what_transformers_keeps(top_k: int, top_p: float) -> None:
    torch.manual_seed(0)
    logits, ids = torch.randn(3, 60) * 3, torch.randint(0, 60, (3, 8))
    rules = [RepetitionPenaltyLogitsProcessor(1.3), TemperatureLogitsWarper(0.6)]
    rules += [TopKLogitsWarper(top_k)] if top_k else []
    rules += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    expected = LogitsProcessorList(rules)(ids, logits.clone())
    ours = keep_likely(penalise(logits, list(ids), 1.3) / 0.6, top_k, top_p)
    torch.testing.assert_close(ours, expected)


def test_noise_draws_from_the_softmax() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    draws = torch.stack([logits + gumbel_noise(7, step, 4) for step in range(4000)]).argmax(1)
    share = torch.bincount(draws, minlength=4) / 4000
    torch.testing.assert_close(share, logits.softmax(0), atol=0.03, rtol=0)


def test_noise_depends_on_seed_and_step_only() -> None:
    assert torch.equal(gumbel_noise(1, 5, 100), gumbel_noise(1, 5, 100))
    assert not torch.equal(gumbel_noise(1, 5, 100), gumbel_noise(1, 6, 100))
    assert not torch.equal(gumbel_noise(1, 5, 100), gumbel_noise(2, 5, 100))


def test_rows_with_equal_logits_draw_equal_tokens() -> None:
    settings = SamplingSettings(temperature=1.5, top_k=0, top_p=1.0)
    logits = torch.randn(1, 200).expand(3, -1)
    greedy = torch.tensor([False, False, True])
    seen = [torch.zeros(1, dtype=torch.int64)] * 3
    picks = [choose(logits, seen, settings, greedy, gumbel_noise(0, s, 200)) for s in range(30)]
    assert all(pick[0] == pick[1] for pick in picks)
    assert all(pick[2] == logits[2].argmax() for pick in picks)
    assert len({int(pick[0]) for pick in picks}) > 10
