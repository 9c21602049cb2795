"""Features found by text and by meaning: the jobs behind it, and what is told without them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mistudio.cli import main
from mistudio.core.errors import InvalidInput, NotFound
from mistudio.core.feature_search_configs import (
    EmbedFeaturesConfig,
    IndexContextsConfig,
    MapFeaturesConfig,
)
from mistudio.jobs import (
    context_search,
    encoders,
    feature_hits,
    feature_pages,
    lookup,
    map_features,
    meaning_search,
    sae_library,
)
from mistudio.jobs.runner import Studio
from mistudio.store import feature_marks, feature_texts, features
from tests.helpers.studio import run


class FakeEncoder:
    """Counts letters: texts of the same letters are near each other."""

    made = 0

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        FakeEncoder.made += 1

    def embed(self, texts: list[str], *, check: Any = lambda _: None) -> np.ndarray:
        check(0.0)
        counts = np.array([[text.count(c) + 0.01 for c in "abcdefghij"] for text in texts])
        return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


def test_texts_are_indexed_once_and_searched(trained: Studio) -> None:
    sae = lookup.sae(trained, "last")
    found = features.newest_set(trained.db(), sae.id)
    assert found is not None
    with pytest.raises(NotFound, match="not indexed"):
        context_search.search(trained, sae, "the")
    made = run(trained, "index_contexts", IndexContextsConfig(sae="last"))
    assert made["feature_set"] == found.id
    assert context_search.is_indexed(trained, found)
    matched = context_search.search(trained, sae, "the", limit=5)
    assert matched.hits >= matched.used > 0
    assert len(matched.features) == len(matched.scores) <= 5
    assert matched.scores == sorted(matched.scores, reverse=True)
    assert context_search.search(trained, sae, "zebrafish").features == []
    with pytest.raises(InvalidInput, match="words"):
        context_search.search(trained, sae, " ... ")


def test_meaning_by_vectors_that_end_with_their_labels(
    trained: Studio, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(encoders, "find", lambda studio, named="": tmp_path / "letters")
    monkeypatch.setattr("mistudio.ml.embedding.Encoder", FakeEncoder)
    db, sae = trained.db(), lookup.sae(trained, "last")
    found = features.newest_set(db, sae.id)
    assert found is not None
    live = [feature for feature, _ in feature_texts.texts(db, found)]
    feature_marks.set_label(db, sae.id, live[1], "abba")
    feature_marks.set_label(db, sae.id, live[2], "jig")
    assert meaning_search.search(trained, sae, "baab").stale
    run(trained, "embed_features", EmbedFeaturesConfig(sae="last"))
    matched = meaning_search.search(trained, sae, "baab", limit=3)
    assert (matched.features[0], matched.encoder, matched.stale) == (live[1], "letters", False)
    assert matched.scores[0] == pytest.approx(1.0, abs=1e-3)
    texts = feature_texts.texts(db, found)
    vectors = FakeEncoder(tmp_path).embed([text for _, text in texts])
    cosines = vectors @ FakeEncoder(tmp_path).embed(["jig"])[0]
    best = meaning_search.search(trained, sae, "jig", limit=len(texts))
    assert best.scores == pytest.approx(sorted(cosines.tolist(), reverse=True), abs=2e-3)
    feature_marks.set_label(db, sae.id, live[1], "other")
    assert meaning_search.search(trained, sae, "baab").stale, "a label changed"
    run(trained, "embed_features", EmbedFeaturesConfig(sae="last"))
    folder = trained.paths.absolute(found.path or "") / meaning_search.FOLDER
    assert len(list(folder.iterdir())) == 1, "older vectors are gone"
    with pytest.raises(InvalidInput, match="at least 3"):
        meaning_search.search(trained, sae, "ab")


def test_without_an_encoder_shared_words_are_ranked(
    trained: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders, "find", lambda studio, named="": None)
    db, sae = trained.db(), lookup.sae(trained, "last")
    feature_marks.set_label(db, sae.id, 7, "zebras and lions")
    feature_marks.set_label(db, sae.id, 9, "zebras")
    matched = meaning_search.search(trained, sae, "zebras lions?")
    assert matched.features[0] == 7
    assert set(matched.features) == {7, 9}
    assert matched.encoder == ""
    assert meaning_search.search(trained, sae, "***").features == []
    with pytest.raises(InvalidInput, match="no sentence encoder"):
        run(trained, "embed_features", EmbedFeaturesConfig(sae="last"))


def test_the_map_is_computed_once_and_written(trained: Studio, tmp_path: Path) -> None:
    sae = lookup.sae(trained, "last")
    found = features.newest_set(trained.db(), sae.id)
    assert found is not None
    assert map_features.known(trained, sae) is None
    made = run(trained, "map_features", MapFeaturesConfig(sae="last"))
    placed = map_features.known(trained, sae)
    assert placed is not None
    assert made["features"] == len(placed.features) == found.n_live
    assert placed.shares[0] >= placed.shares[1] > 0
    W_dec_FO = sae_library.read_sae(trained, sae).W_dec_FO.detach().double().numpy()
    unit = W_dec_FO[placed.features]
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    spread = np.linalg.svd(unit - unit.mean(0), compute_uv=False)
    assert np.linalg.norm(placed.xs) == pytest.approx(spread[0], rel=1e-4)
    assert np.linalg.norm(placed.ys) == pytest.approx(spread[1], rel=1e-4)
    run(trained, "map_features", MapFeaturesConfig(sae="last"))
    again = map_features.known(trained, sae)
    assert again is not None
    assert again.made_at == placed.made_at
    map_features.write_csv(placed, tmp_path / "map.csv")
    lines = (tmp_path / "map.csv").read_text().splitlines()
    assert lines[0] == "index,x,y"
    assert len(lines) == len(placed.features) + 1


def test_hits_come_twenty_at_a_time_with_their_strongest_examples(
    trained: Studio, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders, "find", lambda studio, named="": None)
    sae = lookup.sae(trained, "last")
    found = features.newest_set(trained.db(), sae.id)
    assert found is not None
    ranked = [feature for feature, _ in feature_texts.texts(trained.db(), found)][:25][::-1]
    scores = [float(25 - place) for place in range(25)]
    first = feature_hits.hits(trained, found, ranked, scores)
    second = feature_hits.hits(trained, found, ranked, scores, page=2, examples=1)
    assert [hit.row.index for hit in (*first, *second)] == ranked
    assert [hit.score for hit in (*first, *second)] == scores
    assert len(first) == 20
    assert feature_hits.pages(25) == 2
    whole = feature_pages.page(trained, sae, ranked[0], before=8, after=8)
    texts = [feature_pages.text_of(example) for example in whole.examples[:9]]
    distinct = [e for i, e in enumerate(whole.examples[:9]) if texts[i] not in texts[:i]]
    assert first[0].examples == distinct[:3]
    assert second[0].examples[0].value == second[0].row.max
    feature_marks.set_label(trained.db(), sae.id, ranked[0], "xylophones")
    words = ["--home", str(trained.paths.home), "--json", "features", "find-meaning", "last"]
    assert main([*words, "xylophones", "--examples", "2"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["features"]
    assert [row["index"] for row in told] == [ranked[0]]
    assert told[0]["examples"].count("<<") == min(2, len(whole.examples))
    assert main([*words, "abc", "--page", "0"]) == 2
