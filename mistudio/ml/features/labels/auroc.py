"""How well a score tells active from inactive tokens."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEAST_POSITIVES = 10  # with fewer there is no score


class Score(NamedTuple):
    """A rule's score on tokens that it was not fitted on, one line per feature.

    `auroc_F` = P(s+ > s-) + P(s+ = s-) / 2 over all pairs, NaN with fewer than
    `LEAST_POSITIVES` positives or without negatives; `random_F` and `hard_F` the same against
    the random and the hard negatives alone. `true_rate_F`, `false_rate_F`: share of positives
    and of random negatives above the threshold. `precision_F`: at the feature's natural density
    pi, tpr pi / (tpr pi + fpr (1 - pi)); NaN where no random negative is above the threshold.
    """

    auroc_F: NDArray[np.float64]
    random_F: NDArray[np.float64]
    hard_F: NDArray[np.float64]
    positives_F: NDArray[np.int64]
    negatives_F: NDArray[np.int64]
    true_rate_F: NDArray[np.float64]
    false_rate_F: NDArray[np.float64]
    precision_F: NDArray[np.float64]


def auroc(
    positive_FP: NDArray[np.floating], negative_FQ: NDArray[np.floating]
) -> NDArray[np.float64]:
    """P(s+ > s-) + P(s+ = s-) / 2 of each line; NaN marks places without a token."""
    have_p, have_q = ~np.isnan(positive_FP), ~np.isnan(negative_FQ)
    n_p, n_q = have_p.sum(1), have_q.sum(1)
    yes_p, yes_q = (positive_FP == 1).sum(1), (negative_FQ == 1).sum(1)
    no_p, no_q = (positive_FP == 0).sum(1), (negative_FQ == 0).sum(1)
    if (yes_p + no_p == n_p).all() and (yes_q + no_q == n_q).all():
        # a predicate: its pairs are counted without sorting
        won = yes_p * no_q + (yes_p * yes_q + no_p * no_q) / 2
        return _share(won, n_p, n_q)
    # the rank sum: of all tokens sorted, those of a tie share the mean rank
    every = np.concatenate([positive_FP, negative_FQ], axis=1).astype(np.float64)
    every = np.where(np.isnan(every), np.inf, every)
    order = np.argsort(every, axis=1, kind="stable")
    ordered = np.take_along_axis(every, order, 1)
    width = every.shape[1]
    place = np.arange(width)
    new = np.ones(every.shape, bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.maximum.accumulate(np.where(new, place, 0), axis=1)
    ends = np.ones(every.shape, bool)
    ends[:, :-1] = new[:, 1:]
    last = np.minimum.accumulate(np.where(ends, place, width)[:, ::-1], axis=1)[:, ::-1]
    mean_rank = (first + last) / 2 + 1
    is_positive = order < positive_FP.shape[1]
    real = np.take_along_axis(np.concatenate([have_p, have_q], axis=1), order, 1)
    total = np.where(is_positive & real, mean_rank, 0.0).sum(1)
    return _share(total - n_p * (n_p + 1) / 2, n_p, n_q)


def _share(
    won: NDArray[np.float64], n_p: NDArray[np.int64], n_q: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Pairs won of all pairs; NaN where there are none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = won / (n_p * n_q)
    return np.where((n_p > 0) & (n_q > 0), found, np.nan)


def judge(
    positive_FP: NDArray[np.floating],
    negative_FQ: NDArray[np.floating],
    random: int,
    threshold_F: NDArray[np.floating],
    density_F: NDArray[np.floating],
) -> Score:
    """The score of a rule from what it gives on positives and negatives, NaN for no token.

    The first `random` negatives are random ones; `density_F` is the share of all kept tokens on
    which the feature is active.
    """
    n_p, n_q = (~np.isnan(positive_FP)).sum(1), (~np.isnan(negative_FQ)).sum(1)
    drawn = negative_FQ[:, :random]
    few = n_p < LEAST_POSITIVES
    with np.errstate(divide="ignore", invalid="ignore"):
        true = (positive_FP > threshold_F[:, None]).sum(1) / n_p
        false = (drawn > threshold_F[:, None]).sum(1) / (~np.isnan(drawn)).sum(1)
        hit = true * density_F
        precision = np.where(false > 0, hit / (hit + false * (1 - density_F)), np.nan)
    return Score(
        np.where(few, np.nan, auroc(positive_FP, negative_FQ)),
        np.where(few, np.nan, auroc(positive_FP, drawn)),
        np.where(few, np.nan, auroc(positive_FP, negative_FQ[:, random:])),
        n_p,
        n_q,
        np.where(few, np.nan, true),
        np.where(few, np.nan, false),
        np.where(few, np.nan, precision),
    )
