"""Scores of rules against brute force, and that no rule sees the rows it is scored on."""

from __future__ import annotations

import numpy as np
import pytest

from mistudio.ml.features.labels import profile, rules
from mistudio.ml.features.labels.auroc import LEAST_POSITIVES, auroc, judge
from mistudio.ml.features.labels.corpus import FIT, SCORE, Corpus, read_corpus
from mistudio.ml.features.labels.draw import (
    NOTHING,
    POSITIVES,
    RANDOM,
    SAME_STRING,
    draw,
    draw_active,
)
from mistudio.ml.features.labels.make import RuleLabel, label_features
from mistudio.ml.features.labels.strings import strings_of
from mistudio.ml.features.sampling import hash_tokens
from tests.ml_labels.conftest import FEATURES, LENGTH, ROWS, VOCABULARY, Harvest


def corpus_of(made: Harvest) -> Corpus:
    return read_corpus(made.folder, LENGTH, strings_of(VOCABULARY), 0)


def labels_of(made: Harvest, **options: object) -> dict[tuple[str, str], RuleLabel]:
    found = label_features(made.folder, LENGTH, made.kept, VOCABULARY, **options)  # type: ignore[arg-type]
    return {(FEATURES[label.feature], label.method): label for label in found}


def chosen(found: dict[tuple[str, str], RuleLabel]) -> dict[str, RuleLabel]:
    return {name: label for (name, _), label in found.items() if label.chosen}


def test_auroc_is_the_share_of_pairs_in_the_right_order() -> None:
    generator = np.random.default_rng(1)
    positive = generator.integers(0, 6, (40, 23)).astype(np.float32)
    negative = generator.integers(0, 6, (40, 31)).astype(np.float32) - 1
    positive[generator.random(positive.shape) < 0.2] = np.nan
    negative[generator.random(negative.shape) < 0.2] = np.nan
    positive[3] = np.nan
    for line, value in enumerate(auroc(positive, negative)):
        p = positive[line][~np.isnan(positive[line])]
        q = negative[line][~np.isnan(negative[line])]
        if not p.size:
            assert np.isnan(value)
            continue
        pairs = [(a > b) + 0.5 * (a == b) for a in p for b in q]
        assert value == pytest.approx(np.mean(pairs), abs=1e-12)


def test_rates_precision_and_too_few_positives() -> None:
    positive = np.full((2, 12), np.nan, np.float32)
    positive[0, :10] = [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]
    positive[1, : LEAST_POSITIVES - 1] = 1
    negative = np.tile(np.array([1, 0, 0, 0, 1, 1], np.float32), (2, 1))
    found = judge(positive, negative, 4, np.full(2, 0.5, np.float32), np.array([0.02, 0.02]))
    assert found.true_rate_F[0] == pytest.approx(0.8)
    assert found.false_rate_F[0] == pytest.approx(0.25), "random negatives only"
    expected = 0.8 * 0.02 / (0.8 * 0.02 + 0.25 * 0.98)
    assert found.precision_F[0] == pytest.approx(expected)
    assert found.auroc_F[0] == pytest.approx(0.5 * (1 + 0.8 - 0.5))  # = balanced accuracy
    assert found.random_F[0] == pytest.approx(0.5 * (1 + 0.8 - 0.25))
    assert found.hard_F[0] == pytest.approx(0.5 * (1 + 0.8 - 1.0))
    assert np.isnan(found.auroc_F[1])
    assert found.positives_F.tolist() == [10, 9]


def test_rows_are_halved_and_tokens_drawn_as_told(made: Harvest) -> None:
    corpus = corpus_of(made)
    expected = [int(h) & 1 for h in hash_tokens(0, np.arange(ROWS, dtype=np.uint32), 0x73706C)]
    assert corpus.half_R.tolist() == expected
    neighbours = np.roll(np.arange(len(FEATURES), dtype=np.int32), 1)[:, None]
    for half, active in zip((FIT, SCORE), draw_active(corpus, 0, len(FEATURES), 0), strict=True):
        drawn = draw(corpus, active, 0, half, neighbours, 0)
        for index, name in enumerate(FEATURES):
            own = made.active(name)
            in_half = own[corpus.half_R[own // LENGTH] == half]
            positive = drawn.positive_FP[index][drawn.positive_FP[index] != NOTHING]
            negative = drawn.negative_FQ[index]
            kept = negative[negative != NOTHING]
            assert set(positive.tolist()) <= set(in_half.tolist())
            assert len(set(positive.tolist())) == min(POSITIVES, in_half.size)
            assert not set(kept.tolist()) & set(own.tolist()), "negatives are inactive"
            assert set(corpus.half_R[kept // LENGTH].tolist()) <= {half}
            assert corpus.kept_T[kept].all()
            same = negative[RANDOM : RANDOM + SAME_STRING]
            strings = set(corpus.string_T[positive].tolist())
            assert set(corpus.string_T[same[same != NOTHING]].tolist()) <= strings
            beside = negative[RANDOM + SAME_STRING :]
            other = set(made.active(FEATURES[index - 1]).tolist())
            assert set(beside[beside != NOTHING].tolist()) <= other


def test_positives_are_equally_many_of_each_decile(made: Harvest) -> None:
    corpus = corpus_of(made)
    index = FEATURES.index("everywhere")
    active = draw_active(corpus, index, index + 1, 0)[SCORE]
    drawn = draw(corpus, active, index, SCORE, None, 0)
    rank = {int(token): place for place, token in enumerate(active.token)}
    assert list(active.bits) == sorted(active.bits)
    deciles = [rank[int(t)] * 10 // active.token.size for t in drawn.positive_FP[0]]
    assert np.bincount(deciles).tolist() == [10] * 10


def test_predicates_give_one_where_they_hold(made: Harvest) -> None:
    corpus = corpus_of(made)
    tokens = np.arange(ROWS * LENGTH)[None, :].repeat(4, 0)
    fitted = rules.no_rules(4)
    cat = corpus.strings.texts.index("cat")
    fitted.string_FT[:3, 0] = cat
    fitted.slot_F[:] = (rules.TOKEN, rules.PREVIOUS, rules.NEXT, rules.NEXT)
    fitted.class_F[3] = 0  # digits
    found = rules.apply(fitted, rules.look(corpus, tokens))
    ids = made.ids_RS
    is_cat = ids == VOCABULARY.index(" cat")
    edge = np.zeros((ROWS, 1), bool)
    digits = np.isin(ids, (VOCABULARY.index(" 7"), VOCABULARY.index(" 42")))
    for line, expected in enumerate(
        (
            is_cat,
            np.hstack([edge, is_cat[:, :-1]]),
            np.hstack([is_cat[:, 1:], edge]),
            np.hstack([digits[:, 1:], edge]),
        )
    ):
        assert (found[line] == expected.reshape(-1)).all()


def test_the_graded_score_is_naive_bayes_over_three_slots_and_the_position(made: Harvest) -> None:
    corpus = corpus_of(made)
    features = len(FEATURES)
    fit, held = draw_active(corpus, 0, features, 0)
    drawn = draw(corpus, held, 0, SCORE, None, 0)
    asked = rules.look(corpus, drawn.positive_FP)
    base = profile.base_of(corpus)
    stands = rules.look(corpus, fit.token)
    groups = [rules.group(fit, stands, slot) for slot in range(rules.SLOTS)]
    (scores,) = profile.Profile(base, features).scores(fit, stands.position, groups, (asked,))
    pool = corpus.pool[FIT]
    slots = (lambda t: corpus.string_T[t], corpus.previous, corpus.following)
    for name in ("graded", "after_dot", "rare"):
        index = FEATURES.index(name)
        own = fit.token[fit.feature == index]
        for k in (0, 3):
            token = drawn.positive_FP[index, k]
            if token == NOTHING:
                assert np.isnan(scores[index, k])
                continue
            expected = 0.0
            for slot in slots:
                here = int(slot(np.array([token]))[0])
                if here >= 0:
                    share = np.mean(slot(own) == here)
                    rate = np.mean(slot(pool) == here)
                    expected += np.log1p(0.5 * share / max(rate, 1e-9))
            bins = [int(min(np.floor(2 * np.log2(t % LENGTH + 1)), 15)) for t in own]
            at = int(min(np.floor(2 * np.log2(token % LENGTH + 1)), 15))
            rate = np.mean(np.floor(2 * np.log2(pool % LENGTH + 1)) == at)
            share = (bins.count(at) + 20 * rate) / (len(bins) + 20)
            expected += np.log(share / rate)
            assert scores[index, k] == pytest.approx(expected, rel=1e-4)


def test_labels_say_what_was_planted(made: Harvest) -> None:
    found = chosen(labels_of(made))
    assert {name: label.text for name, label in found.items() if name in FEATURES[:4]} == {
        "the": found["the"].text,
        "before_cat": 'say "cat"',
        "digits": found["digits"].text,
        "after_dot": 'after "."',
    }
    assert found["the"].text.casefold() == 'token: "the"', "as it is written most often"
    assert set(found["digits"].text.removeprefix("token: ").split(", ")) == {'"7"', '"42"'}
    assert found["the"].scores["auroc"] == 1.0
    assert found["the"].scores["precision"] is None  # no random negative has the token
    assert found["before_cat"].scores["auroc"] == 1.0
    assert "dead" not in found
    assert found["rare"].scores["auroc"] is None
    assert 0 < found["rare"].scores["positives"] < LEAST_POSITIVES
    assert found["graded"].method == "words"
    assert 0.6 < found["graded"].scores["auroc"] < 0.95
    assert found["early"].scores["auroc"] > 0.9
    assert found["everywhere"].scores["auroc"] == pytest.approx(0.5, abs=0.12)


def test_a_class_of_tokens_is_named(made: Harvest) -> None:
    every = labels_of(made)
    assert every["digits", "class"].text == "digits"
    assert every["digits", "class"].scores["auroc"] > 0.9
    assert every["early", "class"].text == "the first tokens of a row"


def test_labels_do_not_depend_on_how_features_are_grouped(made: Harvest) -> None:
    neighbours = np.roll(np.arange(len(FEATURES), dtype=np.int32), 1)[:, None]
    one = labels_of(made, neighbours_FM=neighbours)
    other = labels_of(made, neighbours_FM=neighbours, block=2)
    assert one == other


def test_rules_never_see_the_rows_they_are_scored_on(made: Harvest, tmp_path: object) -> None:
    """Other tokens and activations in the scoring rows leave every text and fit as it is."""
    corpus = corpus_of(made)
    scoring_T = np.repeat(corpus.half_R, LENGTH) == SCORE
    ids = made.ids_RS.reshape(-1).copy()
    generator = np.random.default_rng(9)
    changed = scoring_T & (made.mask_RS.reshape(-1) == 0)
    ids[changed] = generator.integers(1, len(VOCABULARY), int(changed.sum()))
    folder = made.folder / "changed"
    folder.mkdir()
    for name in ("mask", "csc_splits", "csc_tokens"):
        np.save(folder / f"{name}.npy", np.load(made.folder / f"{name}.npy"))
    np.save(folder / "ids.npy", ids)
    values = np.load(made.folder / "csc_values.npy")
    in_scoring = scoring_T[made.tokens_E.astype(np.int64)]
    values[in_scoring] = generator.permutation(values[in_scoring])
    np.save(folder / "csc_values.npy", values)
    before = labels_of(made)
    after = labels_of(made._replace(folder=folder))
    assert before.keys() == after.keys()
    for key, label in before.items():
        assert (label.text, label.chosen) == (after[key].text, after[key].chosen)
        assert label.scores["fit_auroc"] == after[key].scores["fit_auroc"]
    aurocs = [(label.scores["auroc"], after[key].scores["auroc"]) for key, label in before.items()]
    assert any(a != b for a, b in aurocs), "the scores do depend on those rows"


def test_a_predicates_auroc_is_that_of_counting_its_pairs() -> None:
    rng = np.random.default_rng(3)
    positive = rng.choice([0.0, 1.0, np.nan], (20, 9)).astype(np.float32)
    negative = rng.choice([0.0, 1.0, np.nan], (20, 14)).astype(np.float32)
    positive[0], negative[1] = np.nan, np.nan
    graded = (positive * 2 + 0.5, negative * 2 + 0.5)  # the same order, sorted to be ranked
    found = auroc(positive, negative)
    assert np.array_equal(found, auroc(*graded), equal_nan=True)
    for line in range(20):
        p, q = (a[line][~np.isnan(a[line])] for a in (positive, negative))
        pairs = (p[:, None] > q).astype(float) + (p[:, None] == q) / 2
        assert (found[line] == pairs.mean()) if pairs.size else np.isnan(found[line])
