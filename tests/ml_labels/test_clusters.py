"""Words of neighbours: who fires together, what they share, and that no scored row is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mistudio.ml.features.feature_store import KEPT
from mistudio.ml.features.labels import clusters
from mistudio.ml.features.labels.clusters import (
    NOBODY,
    JudgedStrings,
    RowFeatures,
    partners,
    shared_by,
    shared_words,
)
from mistudio.ml.features.labels.corpus import SCORE, halves
from mistudio.ml.features.labels.draw import Active
from mistudio.ml.features.labels.make import MARGIN, RuleLabel, label_features
from tests.ml_labels.conftest import CAPITAL_THE, LENGTH, ROWS, THE, VOCABULARY, Harvest


def rows_of(active: list[set[int]], tokens: int) -> RowFeatures:
    lists = [[f for f, on in enumerate(active) if t in on] for t in range(tokens)]
    splits = np.concatenate([[0], np.cumsum([len(one) for one in lists])])
    return RowFeatures(splits, np.array([f for one in lists for f in one], np.uint16))


def test_partners_are_those_that_fire_together() -> None:
    a = set(range(0, 40, 2))
    active = [a, a | {1}, set(range(40)), set(range(0, 40, 8)), {1, 3, 5}]
    rows = rows_of(active, 40)
    counts = np.array([len(one) for one in active])
    token = np.array(sorted(a))
    fit = Active(
        np.zeros(len(a), np.int64),
        token,
        np.ones(len(a), np.uint16),
        np.array([len(a)]),
        np.array([0]),
    )
    found = partners(rows, fit, 0, counts)[0].tolist()
    weights = {f: len(a & active[f]) / np.sqrt(counts[f]) for f in (1, 2, 3)}
    assert found == [*sorted(weights, key=lambda f: -weights[f]), NOBODY]  # 4 shares no token
    none, nothing = np.empty(0, np.int64), np.array([0])
    nobody = Active(none, none, np.empty(0, np.uint16), nothing, nothing)
    assert partners(rows, nobody, 0, counts).tolist() == [[NOBODY] * clusters.PARTNERS]


def test_words_are_shared_by_three_and_by_half() -> None:
    rates = np.array([0.5, 0.1, 0.1, 0.01, 0.2])
    words_of = np.array(
        [[4, -1, -1], [0, 1, 2], [0, 1, -1], [0, 1, 3], *([[3, -1, -1]] * 2), *([[4, -1, -1]] * 2)],
        np.int32,
    )
    assert shared_words([1, 2, 3, NOBODY], words_of, rates) == [1, 0]  # the rarer of two first
    assert shared_words([1, 2, 3, 3], words_of, rates) == [1, 0]  # a neighbour twice counts once
    assert shared_words([1, 2], words_of, rates) == []
    assert shared_words([1, 2, 3, 4, 5, 6, 7], words_of, rates) == []  # three of seven
    assert shared_words([], words_of, rates) == []
    groups = np.array([[1, 2, 3, NOBODY], [1, 2, NOBODY, NOBODY], [3, 3, 2, 1]], np.int32)
    live = np.array([True, True, False])
    assert shared_by(groups, words_of, rates, live) == {0: [1, 0]}


def test_kept_strings_are_told_as_a_rule_tells_them() -> None:
    width = (clusters.POSITIVES, clusters.RANDOM + clusters.SAME_STRING + clusters.NEIGHBOURS)
    generator = np.random.default_rng(0)
    with JudgedStrings(5) as judged:
        parts = [
            (
                generator.integers(-1, 4, (2, wide)).astype(np.int32),
                generator.random((2, wide)) < 0.2,
            )
            for wide in (width[0], width[1] - 50, width[0], width[1] - 50)
        ]
        judged.keep(3, parts)
        strings = np.array([[1, 3, -1], [0, -1, -1]], np.int32)
        found = judged.named(np.array([4, 3]), strings)
    for values, (string, missing), wide in zip(found, parts, width * 2, strict=True):
        assert values.shape == (2, wide)
        for line, own in ((0, 1), (1, 0)):
            named = np.isin(string[own], strings[line][strings[line] >= 0]).astype(np.float32)
            named[missing[own]] = np.nan
            assert np.array_equal(values[line, : named.size], named, equal_nan=True)
            assert np.isnan(values[line, named.size :]).all(), "no token was drawn there"


def store_of(made: Harvest, folder: Path, shuffle_scored: bool = False) -> Path:
    """Three features of parts of the tokens "the", one of half of them and of anything, and one
    that is nowhere; with `shuffle_scored` the rows that are scored hold other activations."""
    folder.mkdir()
    generator = np.random.default_rng(3)
    ids_T, kept_T = made.ids_RS.reshape(-1), (made.mask_RS == KEPT).reshape(-1)
    the_T = np.isin(ids_T, (THE, CAPITAL_THE)) & kept_T
    chance = generator.random((5, ids_T.size))
    on_FT = the_T & (chance < np.array([0.9, 0.9, 0.9, 0.5, 0.0])[:, None])
    on_FT[3] |= kept_T & (generator.random(ids_T.size) < 0.02)
    if shuffle_scored:
        scored_T = np.repeat(halves(ROWS, 0) == SCORE, LENGTH)
        other_FT = kept_T & (np.random.default_rng(8).random(on_FT.shape) < 0.1)
        on_FT = np.where(scored_T, other_FT & (np.arange(5) < 4)[:, None], on_FT)
    feature, token = np.nonzero(on_FT)
    values = generator.uniform(0.5, 4.0, on_FT.shape).astype(np.float16)[feature, token]
    by_token = np.lexsort((feature, token))
    for name, array in {
        "ids": ids_T,
        "mask": made.mask_RS.reshape(-1),
        "csc_splits": np.concatenate([[0], np.cumsum(on_FT.sum(1))]),
        "csc_tokens": token.astype(np.uint32),
        "csc_values": values,
        "csr_splits": np.concatenate([[0], np.cumsum(on_FT.sum(0))]),
        "csr_features": feature[by_token].astype(np.uint16),
    }.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def labelled(made: Harvest, folder: Path, clusters: bool = False) -> list[RuleLabel]:
    return label_features(folder, LENGTH, made.kept, VOCABULARY, clusters=clusters)


def test_cluster_labels_come_beside_the_others(made: Harvest, tmp_path: Path) -> None:
    folder = store_of(made, tmp_path / "store")
    plain, found = labelled(made, folder), labelled(made, folder, clusters=True)
    beside = [label for label in found if label.method != "cluster"]
    assert [label._replace(chosen=False) for label in beside] == [
        label._replace(chosen=False) for label in plain
    ]
    for feature in {label.feature for label in found}:
        assert sum(label.chosen for label in found if label.feature == feature) == 1
    (own,) = [label for label in found if label.method == "cluster" and label.feature == 3]
    assert own.text.casefold() == 'cluster: "the"'  # its partners are the other three
    assert own.scores["positives"] > 10
    # every positive that is "the" beats a negative that is not, half of the negatives are alike
    assert 0.5 < own.scores["auroc"] < 1
    best = next(label for label in found if label.feature == 3 and label.chosen)
    fits = {label.method: label.scores["fit_auroc"] for label in found if label.feature == 3}
    fits["words"] -= MARGIN
    assert fits[best.method] == max(fits.values())


def test_words_of_neighbours_do_not_see_scored_rows(made: Harvest, tmp_path: Path) -> None:
    texts = []
    for shuffled in (False, True):
        folder = store_of(made, tmp_path / str(shuffled), shuffled)
        found = labelled(made, folder, clusters=True)
        texts.append({label.feature: label.text for label in found if label.method == "cluster"})
    assert texts[0][3].casefold() == texts[1][3].casefold() == 'cluster: "the"'
