"""Names by a language model: texts, prompts, the judge's probabilities, scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mistudio.core.errors import Cancelled
from mistudio.ml.features.examples import Example, ExamplePiece
from mistudio.ml.features.labels import prompts
from mistudio.ml.features.labels.by_model import Asked, name_feature
from mistudio.ml.features.labels.corpus import FIT, SCORE, halves
from mistudio.ml.features.labels.prompts import Prompt
from mistudio.ml.features.labels.windows import (
    AFTER,
    BEFORE,
    INACTIVE,
    Window,
    choose_windows,
    mark,
    wrongly_marked,
)
from mistudio.ml.features.labels.writer import LocalWriter
from mistudio.ml.loading import LoadedModel
from tests.helpers.tiny import tiny_loaded
from tests.ml_labels.conftest import FEATURES, LENGTH, ROWS, VOCABULARY, Harvest


class Store:
    """The made-up harvest, read as a `FeatureStore` is."""

    def __init__(self, made: Harvest) -> None:
        self._made = made
        self.rows, self.row_length, self.mask = ROWS, LENGTH, made.mask_RS

    def entries(self, feature: int) -> tuple[np.ndarray, np.ndarray]:
        part = slice(self._made.splits_F[feature], self._made.splits_F[feature + 1])
        return self._made.tokens_E[part], self._made.values_E[part].astype(np.float64)

    def example_window(
        self, feature: int, row: int, position: int, *, before: int, after: int
    ) -> Example:
        tokens, values = self.entries(feature)
        known = dict(zip(tokens.tolist(), values.tolist(), strict=True))
        low, high = max(0, position - before), min(LENGTH, position + after + 1)
        pieces = tuple(
            ExamplePiece(
                VOCABULARY[self._made.ids_RS[row, at]],
                known.get(row * LENGTH + at, 0.0),
                at > 0,
                at == position,
                at,
                at + 1,
                at == 0,
            )
            for at in range(low, high)
        )
        value = known.get(row * LENGTH + position, 0.0)
        return Example(row, position, row, position, row, value, pieces)

    def lens(self, feature: int) -> None:
        return None


def test_windows_name_from_one_half_and_score_on_the_other(made: Harvest) -> None:
    store: Any = Store(made)
    feature = FEATURES.index("graded")
    asked: list[tuple[int, int]] = []
    plain = store.example_window

    def recorded(feature: int, row: int, position: int, *, before: int, after: int) -> Example:
        asked.append((row, position))
        assert (before, after) == (BEFORE, AFTER)
        return plain(feature, row, position, before=before, after=after)

    store.example_window = recorded
    found = choose_windows(store, feature, 0)
    assert (len(found.to_name), len(found.active), len(found.inactive)) == (40, 50, 0)
    half_R = halves(ROWS, 0)
    rows = [row for row, _ in asked]
    assert {half_R[row] for row in rows[:40]} == {FIT}
    assert {half_R[row] for row in rows[40:]} == {SCORE}
    assert len(set(rows[:40])) == 40, "one window a row where there are enough"
    tokens, values = store.entries(feature)
    in_half = np.sort(values[half_R[tokens // LENGTH] == SCORE])
    ranks = [int(np.searchsorted(in_half, window.value)) for window in found.active]
    deciles = [min(9, rank * 10 // in_half.size) for rank in ranks]
    assert [deciles.count(d) for d in range(10)] == pytest.approx([5] * 10, abs=1)  # ties
    assert deciles == sorted(deciles, reverse=True)
    assert found.least == pytest.approx(0.3 * values.max())


def test_inactive_windows_hold_no_activation(made: Harvest) -> None:
    store: Any = Store(made)
    found = choose_windows(store, FEATURES.index("rare"), 0)
    assert len(found.inactive) == INACTIVE
    assert all(value == 0 for window in found.inactive for _, value in window.spans)


def test_marks_join_neighbours() -> None:
    window = Window(((" a", 0.0), (" b", 2.0), (" c", 1.0), (" d", 0.1), (" e", 3.0)), 2.0, 1)
    assert window.marked(0.5) == " a<< b c>> d<< e>>"
    assert window.text == " a b c d e"
    assert mark(window.spans, [True] + [False] * 4) == "<< a>> b c d e"
    (wrong,) = wrongly_marked([window], [window, window], 0.5, 0)
    assert wrong.replace("<<", "").replace(">>", "") == window.text
    inside = [part.split(">>")[0] for part in wrong.split("<<")[1:]]
    assert sum(len(part.split()) for part in inside) == 3, "as many as are marked on average"


def test_the_prompt_holds_texts_levels_and_lists(made: Harvest) -> None:
    store: Any = Store(made)
    windows = choose_windows(store, FEATURES.index("before_cat"), 0)
    prompt = prompts.name_prompt(windows, [" dog", "\n"], [" x"])
    lines = prompt.user.splitlines()
    assert sum(line.startswith("(") for line in lines) == 40
    assert lines[1].startswith("(10) ")
    assert "<<" in lines[1]
    assert 'Tokens after them: "cat"' in lines
    assert 'Tokens that the feature promotes: " dog", "↵"' in lines
    assert prompts.level(0.95, 4.0) == 3


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("  Numbers in dates.\nBecause", "Numbers in dates"),
        ('"quoted"', "quoted"),
        ("Name: 1. years", "1. years"),
        ("- **months**", "months"),
        ("", "fallback"),
        ("...", "fallback"),
        ("The marked tokens: if they are alike, name", "fallback"),
        ("x" * 200, "x" * 80),
    ],
)
def test_names_are_read_from_answers(answer: str, expected: str) -> None:
    assert prompts.name_of(answer, "fallback") == expected


class Judge:
    """A writer whose judgement is known."""

    name = "judge"

    def __init__(self, fits: Callable[[str], float]) -> None:
        self._fits = fits
        self.asked: list[Prompt] = []

    def answer(self, prompt: Prompt, check: Callable[[], None]) -> str:
        self.asked.append(prompt)
        return "say cat\n"

    def fits(self, asked: Sequence[Prompt], check: Callable[[], None]) -> list[float]:
        self.asked += asked
        return [self._fits(prompt.user.split("Text: ")[1]) for prompt in asked]


def test_scores_of_a_name_are_those_of_the_judge(made: Harvest) -> None:
    store: Any = Store(made)
    judge = Judge(lambda text: 0.9 if " cat" in text else 0.1)
    words = ("cat", "dog", "the")

    def embed(texts: Sequence[str]) -> np.ndarray:
        vectors = np.array([[text.count(word) + 0.01 for word in words] for text in texts])
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    index = FEATURES.index("before_cat")
    named = name_feature(
        store, index, judge, Asked(True, True, True), embed, seed=0, check=lambda: None
    )
    assert named is not None
    assert named.text == "say cat"
    windows = choose_windows(store, index, 0)
    detection = named.scores["detection"]
    assert all(" cat" in w.text for w in windows.active)
    false = sum(" cat" in w.text for w in windows.inactive)
    n = len(windows.inactive)
    assert detection["balanced_accuracy"] == pytest.approx((1 + (n - false) / n) / 2, abs=1e-5)
    assert detection["auroc"] == pytest.approx(1 - 0.5 * false / n, abs=1e-5)
    assert (named.score, named.n) == (detection["auroc"], 50 + n)
    assert detection["positives"] == 50
    assert set(named.scores) == {"detection", "fuzzing", "embedding"}
    vectors = embed(["say cat", *(w.text for w in (*windows.active, *windows.inactive))])
    cosines = vectors[1:] @ vectors[0]
    p, q = cosines[:50], cosines[50:]
    expected = np.mean((p[:, None] > q) + 0.5 * (p[:, None] == q))
    assert named.scores["embedding"]["auroc"] == pytest.approx(float(expected), abs=1e-5)
    assert named.prompt["user"] == judge.asked[0].user
    shown = {one.user.split("Text: ")[1] for one in judge.asked[1:101]}
    assert not any("<<" in text for text in shown), "detection sees the plain text"


def test_a_feature_with_few_texts_has_a_name_but_no_score(made: Harvest) -> None:
    store: Any = Store(made)
    judge = Judge(lambda _text: 0.5)
    rare = name_feature(
        store, FEATURES.index("rare"), judge, Asked(), None, seed=0, check=lambda: None
    )
    assert rare is not None
    assert rare.score is None
    assert len(judge.asked) == 1
    dead = FEATURES.index("dead")
    assert name_feature(store, dead, judge, Asked(), None, seed=0, check=lambda: None) is None


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return tiny_loaded(tmp_path_factory.mktemp("writer"))


def test_the_judge_gives_the_probability_of_1_whatever_it_is_read_with(loaded: LoadedModel) -> None:
    writer = LocalWriter(loaded, "tiny")
    asked = [prompts.detection_prompt("x", "a fox " * n) for n in (1, 9, 3)]
    together = writer.fits(asked, lambda: None)
    for prompt, value in zip(asked, together, strict=True):
        ids = loaded.tokenizer(prompt.plain(), return_tensors="pt").input_ids
        with torch.inference_mode():
            p_V = loaded.model(input_ids=ids).logits[0, -1].softmax(0)
        digits = [
            {loaded.tokenizer(t, add_special_tokens=False).input_ids[-1] for t in (d, f" {d}")}
            for d in "01"
        ]
        no, yes = (sum(float(p_V[i]) for i in found) for found in digits)
        assert value == pytest.approx(yes / (yes + no), rel=1e-4)


def test_the_answer_is_greedy_and_short(loaded: LoadedModel) -> None:
    prompt = Prompt("Name it.", "a fox by the river " * 30)
    answer = LocalWriter(loaded, "tiny").answer(prompt, lambda: None)
    ids = loaded.tokenizer(prompt.plain(), return_tensors="pt").input_ids[:, -500:]
    with torch.inference_mode():
        made = loaded.model.generate(
            ids, max_new_tokens=12, do_sample=False, pad_token_id=0, attention_mask=ids * 0 + 1
        )
    expected = loaded.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
    assert expected.startswith(answer)
    assert answer


def test_a_cancel_acts_within_a_prompt(loaded: LoadedModel) -> None:
    calls: list[int] = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        LocalWriter(loaded, "tiny").answer(Prompt("", "a fox " * 200), check)


def test_an_encoder_is_found_below_a_folder(tmp_path: Path) -> None:
    from mistudio.ml.embedding import find_encoder

    assert find_encoder([tmp_path / "none", tmp_path]) is None
    inner = tmp_path / "b" / "model"
    inner.mkdir(parents=True)
    (inner / "modules.json").write_text("[]")
    assert find_encoder([tmp_path / "none", tmp_path]) == inner
