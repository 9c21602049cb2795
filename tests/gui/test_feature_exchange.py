"""Exporting features and importing explanations from the window; chips show original text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from PySide6.QtGui import QDesktopServices
from pytestqt.qtbot import QtBot

from mistudio.core.control import JobControl
from mistudio.core.events import SilentReporter
from mistudio.gui.services import Services
from mistudio.gui.tabs.features.example_card import ExampleCard, View
from mistudio.gui.tabs.features.export_dialog import ExportFeaturesDialog
from mistudio.gui.tabs.features.import_explanations_dialog import ImportExplanationsDialog
from mistudio.gui.tabs.training.matches_page import BY, MatchesPage
from mistudio.jobs import feature_matches, feature_pages
from mistudio.store import analyses, feature_export, feature_marks
from mistudio.store.tables import JOBS
from tests.gui import feature_world
from tests.gui.test_features_tab import settle, shown_tab
from tests.helpers.odd_texts import ODD_TEXTS, documents_of, odd_store


def finish(services: Services, job_id: str) -> None:
    """Run a queued job in this thread and tell the window, as a lane would."""
    services.studio.execute(job_id, SilentReporter(), JobControl(), wait=True)
    services.lanes.finished.emit(job_id, JOBS.get(services.studio.db(), job_id).status)


def exporting(services: Services, qtbot: QtBot) -> tuple[Any, ExportFeaturesDialog]:
    tab = shown_tab(services, qtbot)
    tab.table.view.select_id(9)
    tab.export_button.click()
    dialog = tab.findChild(ExportFeaturesDialog)
    assert dialog is not None
    qtbot.waitUntil(services.query.is_idle)
    return tab, dialog


def test_what_can_be_exported(services: Services, qtbot: QtBot) -> None:
    world, db = feature_world.add_world(services.studio.db()), services.studio.db()
    with db.atomic():
        db.execute("INSERT INTO feature_lists VALUES ('l1', 'Mine', '', 'x', 'x')")
        db.execute(
            "INSERT INTO feature_list_items VALUES ('l1', ?, 3, '', 0, 'x', 'x')", [world.sae.id]
        )
    tab, dialog = exporting(services, qtbot)
    combo = dialog.which.combo
    shown = {combo.itemData(i): combo.itemText(i) for i in range(combo.count())}
    assert shown["given:Those of the table, in its order"].endswith("(56)")
    assert shown["list:l1"] == "List: Mine (1)"
    expected = {
        "given:Feature #9": ("9", "live", ""),
        "which:favourites": ("", "favourites", ""),
        "which:all": ("", "all", ""),
        "list:l1": ("", "live", "l1"),
    }
    for value, wanted in expected.items():
        dialog.which.set_value(value)
        config = dialog.form.checked()
        assert config is not None
        assert (config.features, config.which, config.list) == wanted
        assert config.sae == world.sae.id
    dialog.which.set_value("given:Those of the table, in its order")
    config = dialog.form.checked()
    assert config is not None
    assert config.features.startswith("0-6,8-14")
    assert tab.table.ids().tolist()[:9] == [0, 1, 2, 3, 4, 5, 6, 8, 9]


def test_settings_follow_the_format(services: Services, qtbot: QtBot) -> None:
    feature_world.add_world(services.studio.db())
    _, dialog = exporting(services, qtbot)
    fields = dialog.form.fields
    for kind, hidden in {
        "csv": {"examples", "context", "model_id", "vectors"},
        "html": {"model_id", "vectors"},
        "neuronpedia": set(),
        "saedashboard": {"vectors"},
    }.items():
        fields["format"].editor.set_value(kind)
        gone = {name for name in fields if fields[name].isHidden()}
        assert gone >= hidden, kind
        assert not gone - hidden - {"set_name", "creator"}, kind
        assert dialog.meaning.text()


def test_a_finished_export_says_where_it_is(
    services: Services, qtbot: QtBot, monkeypatch: Any, tmp_path: Path
) -> None:
    feature_world.add_world(services.studio.db())
    tab, dialog = exporting(services, qtbot)
    path = tmp_path / "f.csv"

    def run(ctx: Any, config: Any) -> dict[str, Any]:
        path.write_text("x", "utf-8")
        return {
            "format": "csv", "features": 56, "skipped": 2, "path": str(path), "bytes": 1234
        }  # fmt: skip

    from mistudio.jobs import registry

    kind = registry.JOB_KINDS["export_features"]
    changed = type(kind)(**{**vars(kind), "run": run})
    monkeypatch.setitem(registry.JOB_KINDS, "export_features", changed)
    dialog.start()
    assert not dialog.start_button.isEnabled()
    assert not dialog.job.cancel_button.isHidden()
    finish(services, dialog.job.id)
    settle(tab, qtbot)
    assert dialog.written.text() == (
        f"56 features are written; 2 never fired: the file {path}, 1.2 kB."
    )
    opened: list[str] = []
    monkeypatch.setattr(QDesktopServices, "openUrl", lambda url: opened.append(url.toLocalFile()))
    dialog.folder_button.click()
    assert opened == [str(tmp_path)]
    assert dialog.start_button.isEnabled()


def test_an_export_that_cannot_be_is_a_sentence(services: Services, qtbot: QtBot) -> None:
    feature_world.add_world(services.studio.db())
    _, dialog = exporting(services, qtbot)
    dialog.which.set_value("which:favourites")
    dialog.start()
    assert "nothing to write" in dialog.job.problem.text()
    assert JOBS.select(services.studio.db()) == []


def test_explanations_are_counted_before_they_are_taken(
    services: Services, qtbot: QtBot, tmp_path: Path
) -> None:
    world, db = feature_world.add_world(services.studio.db()), services.studio.db()
    feature_marks.set_label(db, world.sae.id, 1, "mine")
    rows = [{"layer": "3-x", "index": str(i), "description": f"theirs {i}"} for i in (1, 2, 99)]
    path = tmp_path / "batch-0.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    tab = shown_tab(services, qtbot)
    tab.import_button.click()
    dialog = tab.findChild(ImportExplanationsDialog)
    assert dialog is not None
    assert not dialog.start_button.isEnabled()
    dialog.form.fields["path"].editor.set_value(str(path))
    dialog.count()
    qtbot.waitUntil(dialog.start_button.isEnabled)
    assert "3 explanations in 1 file label 2 features. 1 of them keep your own" in (
        dialog.found.text()
    )
    assert feature_export.labels_of(db, world.sae.id, [2]) == {}  # nothing is stored yet
    dialog.form.fields["layer"].editor.set_value("3-x")  # other settings are to be counted anew
    assert not dialog.start_button.isEnabled()
    dialog.count()
    qtbot.waitUntil(dialog.start_button.isEnabled)
    dialog.start()
    finish(services, dialog.job.id)
    settle(tab, qtbot)
    assert dialog.found.text().startswith("1 features show an imported label; 1 labels are kept")
    told = feature_export.written_of(db, world.sae.id, [1, 2])
    assert (told[1].label, told[2].label) == ("mine", "theirs 2")
    dialog.form.fields["path"].editor.set_value(str(tmp_path / "none"))
    dialog.count()
    qtbot.waitUntil(lambda: bool(dialog.job.problem.text()))
    assert "is not there" in dialog.job.problem.text()


def test_chips_show_the_original_text(services: Services, qtbot: QtBot, tmp_path: Path) -> None:
    store, texts, _ = odd_store(tmp_path, latents=6)
    card = ExampleCard()
    qtbot.addWidget(card)
    seen: set[str] = set()
    for feature in range(store.n_features):
        for found in store.examples(feature, 20, before=60, after=60):
            example = feature_pages._example(store, found)
            card.show_example(1, example, 1.0, View(breaks=True))
            shown = card.tokens.text()
            assert shown == found.text
            ids = store.token_row(found.row)
            for number in range(len(example.pieces)):
                for position, token in example.tokens_of(number):
                    assert token == ids[position]
            places = list(dict(example.tokens_of(example.peak)))
            assert found.position in places
            many = f"positions {places[0]} to {places[-1]}"
            at = f"position {found.position}" if len(places) == 1 else many
            assert card.tokens.tip(example.peak).endswith(f" · {at} in its row")
            drawn = card.tokens._current()._layout.text()
            drawn = drawn.replace("\u2068", "").replace("\u2069", "")  # a line's own direction
            for sign, meant in (
                *(("↵\u2028", "\n"), ("→", "\t"), ("⇤", "\r")),
                *(("\u200b·", " "), ("·", " ")),
            ):
                drawn = drawn.replace(sign, meant)
            drawn = re.sub("⟨([0-9A-F]+)⟩", lambda found: chr(int(found[1], 16)), drawn)
            assert drawn == shown
            parts = documents_of(store, found)
            assert "".join(parts.values()) == shown
            for document, part in parts.items():
                assert part in texts.text(document)
                seen.add(texts.text(document))
    assert seen == set(ODD_TEXTS)


def test_matched_features_are_listed_and_opened(
    services: Services, window_stub: Any, qtbot: QtBot, tmp_path: Path
) -> None:
    db = services.studio.db()
    first = feature_world.add_world(db, 4).sae
    second = feature_world.add_sae(db, 3, name="other")
    feature_marks.set_label(db, second.id, 2, "the second")
    found = {
        "tokens": 100,
        "read": "sample",
        "a": {
            "firings": [5, 9, 0, 7],
            "cosine": [0.9, 0.1, None, 0.2],
            "cosine_of": [2, 0, -1, 0],
            "correlation": [0.8, 0.2, None, 0.6],
            "correlation_of": [2, 0, -1, 0],
            "cosine_correlation": [0.8, 0.2, None, 0.6],
            "correlation_cosine": [0.9, 0.1, None, 0.2],
        },
        "b": {
            "firings": [6, 3, 4],
            "cosine": [0.2, 0.0, 0.9],
            "cosine_of": [3, 1, 0],
            "correlation": [0.6, -0.1, 0.8],
            "correlation_of": [3, 1, 0],
        },
    }
    analyses.keep(db, first.id, analyses.WHOLE_SAE, feature_matches.KIND, "k", found)
    page = MatchesPage(services, (first, second))
    qtbot.addWidget(page)
    page.resize(1100, 500)
    page.show()
    page.opened.connect(lambda sae, feature: window_stub.open_tab("Features", at=(sae, feature)))
    page.show_matches({"sae": first.id, "key": "k"})

    def cells() -> list[list[str]]:
        model = page.model
        return [[model.data(model.index(r, c)) for c in range(7)] for r in range(model.rowCount())]

    qtbot.waitUntil(lambda: page.model.rowCount() == 2 and cells()[0][0] != "…")
    assert cells() == [
        ["#0  river word0", "#2  the second", "0.900", "0.800", BY["both"], "5", "4"],
        ["#3  harbour word3", "#0", "0.200", "0.600", "activation", "7", "6"],
    ]
    assert "2 matched pairs among 3 features of A and 3 of B" in page.sentence.text()
    assert [b.text() for b in page.kinds.buttons()] == [
        "Matched (2)", "Only in A (1)", "Only in B (1)"
    ]  # fmt: skip
    page._on_sort("firings_a", True)
    qtbot.waitUntil(lambda: cells()[0][0] != "…")
    assert [row[5] for row in cells()] == ["7", "5"]
    page.view.select_id(1)
    page.open_b.click()
    page.open_a.click()
    page.kinds.button(2).click()
    qtbot.waitUntil(lambda: page.model.rowCount() == 1 and cells()[0][0] != "…")
    assert cells()[0][:4] == ["—", "#1", "0.000", "-0.100"]
    page.view.select_id(0)
    assert not page.open_a.isEnabled()
    page.view.opened.emit(0)
    opened = [selection["at"] for _, selection in window_stub.opened]
    assert opened == [(second.id, 2), (first.id, 0), (second.id, 1)]
    page.write(tmp_path / "m.csv")
    qtbot.waitUntil(lambda: bool(window_stub.banners))
    assert len((tmp_path / "m.csv").read_text("utf-8").splitlines()) == 5
    page.show_matches({"sae": first.id, "key": "gone"})
    qtbot.waitUntil(lambda: "compare the SAEs again" in page.sentence.text())
