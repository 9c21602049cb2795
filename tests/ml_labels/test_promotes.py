"""Labels from the output side: promoted tokens, enriched classes, neighbours of directions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mistudio.ml.features.labels import promotes
from mistudio.ml.features.labels.directions import promoted_classes
from mistudio.ml.features.labels.strings import CLASSES, classes_of, strings_of
from tests.helpers.tiny import tiny_loaded
from tests.ml_labels.conftest import VOCABULARY


def test_enrichment_is_the_running_sum_over_falling_logits() -> None:
    generator = np.random.default_rng(2)
    for many in (1, 9, 25, 38, 49):  # also more members than others
        member = generator.permuted(np.tile(np.arange(50) < many, (12, 1)), axis=1)
        for line, score in enumerate(promotes.running_sum(member)):
            total, extreme = 0.0, 0.0
            for inside in member[line]:
                total += 1 / many if inside else -1 / (50 - many)
                extreme = total if abs(total) > abs(extreme) + 1e-9 else extreme
            assert abs(score) == pytest.approx(abs(extreme), abs=1e-9)
            assert score == pytest.approx(extreme, abs=1e-9) or score > 0  # of two as far


def test_entries_are_sorted_by_falling_logit_and_equal_ones_stay_in_order() -> None:
    generator = np.random.default_rng(4)
    logits = generator.integers(-3, 4, (5, 40)).astype(np.float32) / 2
    logits[0, ::3], logits[0, 1::3] = 0.0, -0.0
    logits[1, 7], logits[1, 8] = np.inf, -np.inf
    expected = np.argsort(-logits, axis=1, kind="stable")
    assert (promotes.falling(logits) == expected).all()


def test_a_promoted_class_is_found_and_chance_is_not() -> None:
    generator = np.random.default_rng(3)
    classes = np.zeros(600, np.uint32)
    digits = 1 << CLASSES.index("digits")
    classes[:40] = digits
    classes[40:300] = 1 << CLASSES.index("word endings")
    logits = generator.standard_normal((40, 600)).astype(np.float32)
    logits[:3, :40] += 2.0
    found = promotes.Enrichment(classes, 0)(logits)
    assert found.class_F[:3].tolist() == [CLASSES.index("digits")] * 3
    assert (found.z_F[:3] > promotes.SIGNIFICANT).all()
    assert (found.class_F[3:] == -1).all(), "random logits promote no class"


def test_promoted_tokens_are_named_where_the_logits_are_skewed(tmp_path: Path) -> None:
    strings = strings_of(VOCABULARY)
    cat, dog, ship = (VOCABULARY.index(f" {word}") for word in ("cat", "dog", "ship"))
    np.save(tmp_path / "lens_skew.npy", np.array([4.0, 2.9, np.nan], np.float32))
    np.save(tmp_path / "lens_positive_ids.npy", np.array([[cat, dog, ship]] * 3, np.int32))
    logits = np.array([[4.0, 2.1, 1.9]] * 3, np.float32)
    np.save(tmp_path / "lens_positive_logits.npy", logits)
    found = promotes.lens_rules(tmp_path, strings, VOCABULARY, 0, 3)
    assert found is not None
    rules, texts = found
    assert texts == ['promotes "cat", "dog"', "", ""]
    named = {strings.texts[i] for i in rules.string_FT[0] if i >= 0}
    assert named == {"cat", "dog"}
    assert (rules.string_FT[1:] == -1).all()
    assert promotes.lens_rules(tmp_path / "none", strings, VOCABULARY, 0, 3) is None


def test_classes_of_directions_by_a_model(tmp_path: Path) -> None:
    """A direction along the digits' own unembedding promotes digits."""
    loaded = tiny_loaded(tmp_path / "model")
    size = len(loaded.blocks.unembedding.weight)  # type: ignore[union-attr, arg-type]
    vocabulary = [f" {i}" if i % 3 == 0 else f" w{i}" for i in range(size)]
    strings = strings_of(vocabulary)
    weight = loaded.blocks.unembedding.weight.float()  # type: ignore[union-attr]
    digits = torch.tensor([t.strip().isdigit() for t in vocabulary])
    toward = weight[digits].mean(0) - weight[~digits].mean(0)
    directions = torch.stack([toward, torch.randn(toward.shape)])
    found = promoted_classes(loaded, directions, strings, np.arange(size))
    assert CLASSES[found.class_F[0]] == "digits"
    assert found.score_F[0] > found.score_F[1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" 1984", ["digits", "years"]),
        ("7", ["digits"]),
        ("\n\n", ["line breaks"]),
        ("  ", ["blanks"]),
        (" The", ["capitalised words"]),
        (" USA", ["words in capitals"]),
        ("ing", ["word endings"]),
        (" мир", ["Cyrillic letters"]),
        (" naïve", ["accented letters"]),
        (".", ["punctuation"]),
        ("();", ["code symbols"]),
        (" =", ["code symbols"]),
        ("→", ["other symbols"]),
        (" I", ["single letters"]),
        (" cat", []),
        ("語", ["single letters", "Chinese or Japanese letters"]),
    ],
)
def test_classes_of_a_token(text: str, expected: list[str]) -> None:
    assert [name for name in classes_of(text) if name != "punctuation" or text == "."] == expected
