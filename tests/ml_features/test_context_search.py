"""Searching features by text, against a brute force over texts, offsets and dense activations."""

from __future__ import annotations

import itertools
import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from mistudio.core.control import JobControl
from mistudio.core.errors import Cancelled, NotFound
from mistudio.core.search_words import search_terms
from mistudio.ml.data.text import TextStore
from mistudio.ml.data.token_store import TokenStore
from mistudio.ml.features import context_words
from mistudio.ml.features.context_search import ContextSearch
from mistudio.ml.features.feature_store import FeatureStore
from tests.ml_features.conftest import Workbench


@pytest.fixture(scope="module")
def store(workbench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    folder = tmp_path_factory.mktemp("context") / "fs"
    workbench.harvest(folder)
    made = FeatureStore(folder, workbench.tokens.folder, workbench.text.folder)
    with pytest.raises(NotFound, match="not indexed"):
        ContextSearch(made)
    context_words.build(made)
    return made


def dense(store: FeatureStore) -> np.ndarray:
    """Activations [tokens, features], each divided by its feature's maximum."""
    acts = np.zeros((np.load(store.folder / "ids.npy").size, store.n_features))
    for feature in range(store.n_features):
        tokens, values = store.entries(feature)
        if values.size:
            acts[tokens, feature] = values / values.max()
    return acts


def plain_words(text: str) -> list[tuple[str, int, int]]:
    """Letter by letter: runs of letters and digits with the marks on them, without accents."""
    words: list[tuple[str, int, int]] = []
    start = None
    for place, character in enumerate(text + " "):
        inside = character.isalnum() or (
            start is not None and unicodedata.category(character) == "Mn"
        )
        if inside and start is None:
            start = place
        if not inside and start is not None:
            decomposed = unicodedata.normalize("NFKD", text[start:place].casefold())
            word = "".join(c for c in decomposed if unicodedata.category(c) != "Mn")
            words.append((word, start, place))
            start = None
    return words


class Brute:
    """Every word of every row with the tokens whose characters it shares, by plain loops."""

    def __init__(self, store: FeatureStore, tokens: TokenStore, texts: TextStore) -> None:
        self.rows: list[list[list[tuple[str, list[int]]]]] = []
        length = store.row_length
        for row, (token_row, offset) in enumerate(np.load(store.folder / "rows.npy")):
            runs: list[list[tuple[str, list[int]]]] = []
            mask = tokens.mask[token_row, offset : offset + length]
            docs = tokens.docs[token_row, offset : offset + length]
            places = [p for p in range(len(mask)) if mask[p] != 2]
            for doc, grouped in itertools.groupby(places, key=lambda p: int(docs[p])):
                group = list(grouped)
                if doc < 0:
                    continue
                spans = {p: tokens.offsets[token_row, offset + p].tolist() for p in group}
                low = min(a for a, _ in spans.values())
                high = max(b for _, b in spans.values())
                words: list[tuple[str, list[int]]] = []
                for word, start, stop in plain_words(texts.text(doc)[low:high]):
                    on = [
                        row * length + p
                        for p, (a, b) in spans.items()
                        if a < low + stop and b > low + start and b > a
                    ]
                    words.append((word, on))
                runs.append(words)
            self.rows.append(runs)

    def hits(self, phrase: list[str], *, begins: bool = False) -> list[tuple[int, list[int]]]:
        found: list[tuple[int, list[int]]] = []
        for row, runs in enumerate(self.rows):
            for words in runs:
                for at in range(len(words) - len(phrase) + 1):
                    part = words[at : at + len(phrase)]
                    same = [a == b for (a, _), b in zip(part, phrase, strict=True)]
                    if begins:
                        same[-1] = part[-1][0].startswith(phrase[-1])
                    if all(same):
                        found.append((row, [t for _, on in part for t in on]))
        return found


@pytest.fixture(scope="module")
def brute(store: FeatureStore, workbench: Workbench) -> Brute:
    return Brute(store, workbench.tokens, workbench.text)


def scores_of(acts: np.ndarray, hits: list[tuple[int, list[int]]]) -> np.ndarray:
    total = np.zeros(acts.shape[1])
    for _, tokens in hits:
        total += acts[range(min(tokens), max(tokens) + 1)].max(axis=0)
    return total / max(1, len(hits))


def queries(brute: Brute) -> list[str]:
    draw = random.Random(5)
    runs = [words for row in brute.rows for words in row if len(words) > 4]
    made = ["café", "naive", "CAFÉ ends here", "zebra", "s", "crow"]
    while len(made) < 50:
        words, size = draw.choice(runs), draw.randint(1, 3)
        at = draw.randrange(len(words) - size)
        made.append(" ".join(word for word, _ in words[at : at + size]))
    return made


def test_fifty_phrases_equal_brute_force(store: FeatureStore, brute: Brute) -> None:
    search, acts = ContextSearch(store), dense(store)
    found_any = 0
    for query in queries(brute):
        hits = brute.hits([word for word, _, _ in plain_words(query)])
        found = search.find(search_terms(f'"{query}"'))
        assert found.hits == found.used == len(hits), query
        expected = scores_of(acts, hits)
        got = np.zeros(store.n_features)
        got[found.features] = found.scores
        assert got == pytest.approx(expected, abs=1e-9), query
        assert (np.diff(found.scores) <= 0).all()
        found_any += found.hits > 0
    assert found_any > 40


def test_all_words_beginnings_and_rare_features(store: FeatureStore, brute: Brute) -> None:
    search, acts = ContextSearch(store), dense(store)
    words = [word for row in brute.rows for run in row for word, _ in run]
    long = next(word for word in words if len(word) >= 5)
    begun = brute.hits([long[:4]], begins=True)
    assert search.find(search_terms(f"{long[:4]}*")).hits == len(begun)
    first, second = words[0], words[3]
    one, two = brute.hits([first]), brute.hits([second])
    common = {row for row, _ in one} & {row for row, _ in two}
    both = [hit for hit in one + two if hit[0] in common]
    both = list({tuple(tokens): (row, tokens) for row, tokens in both}.values())
    found = search.find(search_terms(f"{first} {second}"))
    assert found.hits == len(both) > 0
    got = np.zeros(store.n_features)
    got[found.features] = found.scores
    assert got == pytest.approx(scores_of(acts, both), abs=1e-9)
    rare = search.find(search_terms(first), rare=True)
    counts = store.statistics["count"]
    weight = np.log(store.kept_tokens / counts[rare.features])
    expected = scores_of(acts, one)[rare.features] * weight
    assert rare.scores == pytest.approx(expected, abs=1e-9)


def test_more_hits_than_the_cap_are_sampled_and_told(store: FeatureStore, brute: Brute) -> None:
    words = [word for row in brute.rows for run in row for word, _ in run]
    common = max(set(words), key=words.count)
    search = ContextSearch(store)
    found = search.find(search_terms(common), cap=5)
    assert (found.hits, found.used) == (words.count(common), 5)
    again = search.find(search_terms(common), cap=5)
    assert found.features.tolist() == again.features.tolist()
    assert (found.firing <= 5).all()


def test_scripts_without_blanks_are_found_in_parts() -> None:
    assert [word for word, _, _ in context_words.words_in("東京 Tower's naïve_x")] == [
        "東", "京", "tower", "s", "naive", "x",
    ]  # fmt: skip


def test_nothing_to_find_and_a_cancelled_index(
    store: FeatureStore, workbench: Workbench, tmp_path: Path
) -> None:
    assert ContextSearch(store).find([]).hits == 0
    assert ContextSearch(store).find(search_terms("zzzz")).features.size == 0
    workbench.harvest(tmp_path / "fs")
    fresh = FeatureStore(tmp_path / "fs", workbench.tokens.folder, workbench.text.folder)
    control = JobControl()
    control.cancel()
    with pytest.raises(Cancelled):
        context_words.build(fresh, control.check)
    assert not list((tmp_path / "fs").glob("*context*"))
