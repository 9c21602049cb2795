"""From an example to its sample and to Try text; what the tiles and the lens say of themselves."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from pytestqt.qtbot import QtBot

from mistudio.gui.services import Services
from mistudio.gui.tabs.features.detail import LENS, TRY_TEXT
from mistudio.gui.tabs.features.sample_dialog import SampleDialog, _place
from mistudio.jobs import feature_pages, feature_samples
from mistudio.jobs.feature_samples import ExampleSample
from mistudio.store.tables import JOBS
from tests.gui import feature_world
from tests.gui.test_features_tab import settle, shown_tab
from tests.helpers.odd_texts import odd_store


def test_tokens_of_examples_are_found_in_their_documents(tmp_path: Path) -> None:
    store, texts, _ = odd_store(tmp_path, latents=6)
    seen = 0
    for feature in range(store.n_features):
        for example in store.examples(feature, 20):
            document, low, high, text = store.document_at(example.row, example.position)
            assert document == example.document
            if document >= 0:
                peak = next(piece.text for piece in example.pieces if piece.peak)
                assert text == texts.text(document)
                assert high > low
                # a piece may be several tokens that share a character
                assert text[low:high] in peak or peak in text[low:high]
                seen += 1
    assert seen > 20


def test_an_example_leads_to_its_sample_and_to_try_text(
    services: Services, window_stub: Any, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "👩\r\nIt was\nan old ship"
    found = ExampleSample("ds_1", "novels", 11, "train", 40_000, text, 13, 16)
    asked: list[tuple[int, int]] = []

    def sample_of(studio: Any, sae: Any, row: int, position: int) -> ExampleSample:
        asked.append((row, position))
        return found

    monkeypatch.setattr(feature_pages, "page", feature_world.page)
    monkeypatch.setattr(feature_samples, "sample_of", sample_of)
    world = feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    tab.open_feature(1)
    settle(tab, qtbot)
    detail = tab.detail
    assert detail is not None
    card = detail.examples.column.cards[2]
    card._on_sample()
    settle(tab, qtbot)
    assert asked == [(2, 2)]  # row and position of the third example
    dialog = detail.findChild(SampleDialog)
    assert dialog is not None
    assert "Sample 12 of novels" in dialog.windowTitle()
    assert "40,000 characters" in dialog.facts.text()
    selections = dialog.text.extraSelections()
    assert selections[0].cursor.selectedText() == text[13:16] == "old"
    dialog.open_dataset()
    assert window_stub.opened[-1] == ("Datasets", {"dataset": "ds_1"})
    tips = {name: tile.toolTip() for name, tile in detail.tiles.items()}
    assert world.feature_set.id in tips["frequency"]
    assert "of 100,000 tokens" in tips["frequency"]
    assert world.feature_set.id in tab.tiles["found"].toolTip()
    card._on_try()
    assert detail.pages.currentIndex() == TRY_TEXT
    assert detail.try_text is not None
    assert detail.try_text.text.toPlainText() == card.tokens.text()
    job = JOBS.get(services.studio.db(), detail.try_text.job.id)
    assert (job.kind, job.config["text"]) == ("own_text", card.tokens.text())
    detail.close()


def test_places_count_as_qt_counts() -> None:
    assert _place("👩\r\na", 1) == 2
    assert _place("👩\r\na", 3) == 3


def test_the_lens_tells_the_shape_of_the_logits(
    services: Services, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_pages, "page", feature_world.page)
    world, db = feature_world.add_world(services.studio.db()), services.studio.db()
    with db.atomic():
        db.execute(
            "UPDATE feature_statistics SET skew = 0.25, kurtosis = 3.5 WHERE feature_set_id = ?",
            [world.feature_set.id],
        )
    tab = shown_tab(services, qtbot)
    tab.open_feature(1)
    settle(tab, qtbot)
    detail = tab.detail
    assert detail is not None
    detail.pages.setCurrentIndex(LENS)
    assert detail.lens is not None
    assert detail.lens.shape.text() == "Skew 0.250 · kurtosis 3.50"
    bars: Any = detail.lens.histogram._bars
    colours = [brush.name() for brush in bars.opts["brushes"]]
    assert colours[0] == colours[1] != colours[2] == colours[3]  # split at zero
    detail.close()


def test_raw_logits_and_z_scores_come_from_the_model(
    services: Services, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_pages, "page", feature_world.page)
    monkeypatch.setattr("mistudio.jobs.feature_lens.prepare", lambda *_: None)
    world, db = feature_world.add_world(services.studio.db()), services.studio.db()
    tab = shown_tab(services, qtbot)
    tab.open_feature(1)
    settle(tab, qtbot)
    detail = tab.detail
    assert detail is not None
    detail.pages.setCurrentIndex(LENS)
    lens = detail.lens
    assert lens is not None
    assert lens.positive.text().splitlines()[0] == "·river\t+2.0000"
    assert JOBS.select(db) == []  # what is kept needs no model
    lens.how.setCurrentIndex(1)
    (job,) = JOBS.select(db)
    assert (job.kind, job.config["feature"], job.config["raw"]) == ("feature_lens", 1, True)
    assert lens.positive.text() == ""  # nothing else is shown meanwhile
    lens.again.setEnabled(True)  # as the end of the job does
    told = {
        "sae": world.sae.id,
        "feature": 1,
        "raw": True,
        "positive": [[" up", 3.0, 2.5]],
        "negative": [[" down", -1.0, -1.5]],
        "edges": [-1.0, 1.0, 3.0],
        "counts": [4, 6],
        "mean": 0.5,
        "deviation": 1.0,
        "skew": 0.1,
        "kurtosis": 3.0,
    }
    lens._on_done(told)
    assert lens.positive.text() == "·up\t+3.0000"
    lens.z_scores.setChecked(True)
    assert lens.positive.text() == "·up\t+2.5000"
    assert lens.histogram._edges.tolist() == [-1.5, 0.5, 2.5]
    assert len(JOBS.select(db)) == 1  # the scores came with the logits
    lens.how.setCurrentIndex(0)  # z-scores past the norm are another question
    assert [job.config["raw"] for job in JOBS.select(db)] in ([True, False], [False, True])
    lens.z_scores.setChecked(False)
    assert lens.positive.text().splitlines()[0] == "·river\t+2.0000"
    detail.close()


def test_twenty_tokens_of_each_end_where_the_set_keeps_them(
    services: Services, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def page_of_twenty(*args: Any, **named: Any) -> feature_pages.FeaturePage:
        shown = feature_world.page(*args, **named)
        ends = [
            [feature_pages.LensToken(f" {sign}{i}", sign * (2.0 - 0.05 * i)) for i in range(20)]
            for sign in (1, -1)
        ]
        return dataclasses.replace(shown, positive=ends[0], negative=ends[1])

    monkeypatch.setattr(feature_pages, "page", page_of_twenty)
    monkeypatch.setattr("mistudio.jobs.feature_lens.prepare", lambda *_: None)
    feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    tab.open_feature(1)
    settle(tab, qtbot)
    detail = tab.detail
    assert detail is not None
    detail.pages.setCurrentIndex(LENS)
    lens = detail.lens
    assert lens is not None
    sides = (lens.positive, lens.negative)
    assert [len(side.text().splitlines()) for side in sides] == [10, 10]
    lens.many.setCurrentIndex(1)
    assert [len(side.text().splitlines()) for side in sides] == [20, 20]
    assert JOBS.select(services.studio.db()) == []
    detail.resize(1152, 648)  # nine tenths of the smallest screen
    settle(tab, qtbot)
    assert all(side.height() >= side.sizeHint().height() for side in sides)
    monkeypatch.setattr(feature_pages, "page", feature_world.page)
    detail.pages.setCurrentIndex(0)
    tab.open_feature(2)  # of a set that keeps fewer, the model is asked
    settle(tab, qtbot)
    detail.pages.setCurrentIndex(LENS)
    (job,) = JOBS.select(services.studio.db())
    assert (job.kind, job.config["raw"]) == ("feature_lens", False)
    detail.close()
