"""The Datasets tab over a real studio: import, wrong inputs, list, details, deletion."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import QMimeData, QPointF, Qt, QUrl
from PySide6.QtGui import QDropEvent, QGuiApplication
from pytestqt.qtbot import QtBot

from mistudio.gui.services import Services
from mistudio.gui.tabs.datasets import DatasetsTab
from mistudio.gui.tabs.datasets.detail import DatasetDialog
from mistudio.gui.tabs.datasets.sample_card import excerpt, marked
from mistudio.gui.tabs.datasets.statistics import part_lines, token_lines
from mistudio.gui.tabs.datasets.token_chips import described, shown
from mistudio.jobs.dataset_pages import Chip
from mistudio.store import jobs
from mistudio.store.records import DatasetRow
from mistudio.store.tables import DATASETS, JOBS, MODELS, TOKENIZATIONS
from tests.helpers.tiny import STORIES, save_tiny_llama


@pytest.fixture
def tab(qtbot: QtBot, services: Services) -> DatasetsTab:
    services.lanes.start()
    made = DatasetsTab(services)
    qtbot.addWidget(made)
    made.resize(1240, 560)
    made.show()
    settle(qtbot, services)
    return made


def settle(qtbot: QtBot, services: Services, until: Callable[[], bool] = lambda: True) -> None:
    """Wait until jobs and questions are done and a condition holds."""

    def done() -> bool:
        waiting = JOBS.select(services.studio.db(), "status IN ('queued', 'running')")
        return not waiting and services.lanes.is_idle() and services.query.is_idle() and until()

    qtbot.waitUntil(done, timeout=30_000)
    qtbot.wait(80)  # the views gather announcements for a moment before they read again
    qtbot.waitUntil(services.query.is_idle, timeout=5000)


def story_file(folder: Path) -> Path:
    path = folder / "stories.txt"
    path.write_text("\n\n".join(STORIES), encoding="utf-8")
    return path


def import_stories(qtbot: QtBot, tab: DatasetsTab, folder: Path) -> DatasetRow:
    tab.importer.take_path(story_file(folder))
    tab.importer.submit()
    settle(qtbot, tab.services, lambda: len(tab._rows) == 1)
    return DATASETS.select(tab.services.studio.db())[0]


def open_details(qtbot: QtBot, tab: DatasetsTab, dataset_id: str) -> DatasetDialog:
    tab.open(dataset_id)
    dialog = tab._dialogs[dataset_id]
    assert isinstance(dialog, DatasetDialog)
    settle(qtbot, tab.services)
    return dialog


def test_empty_tab_offers_the_sample(qtbot: QtBot, services: Services, window_stub: Any) -> None:
    tab = DatasetsTab(services)
    qtbot.addWidget(tab)
    tab.show()
    qtbot.waitUntil(tab.empty.isVisible)
    assert not tab.filters.isVisible()
    qtbot.mouseClick(tab.empty.button, Qt.MouseButton.LeftButton)
    assert [job.kind for job in JOBS.select(services.studio.db())] == ["demo"]
    assert window_stub.opened == [("Training", {})]


def test_importing_a_text_file(qtbot: QtBot, tab: DatasetsTab, tmp_path: Path) -> None:
    row = import_stories(qtbot, tab, tmp_path)
    card = tab._cards[row.id]
    assert card.name.text() == "stories"
    assert f"local · {row.size_bytes / 1000:.1f} kB · 80 samples" == card.facts.text()
    assert card.pill.state() == "ready"
    assert tab.filters.isVisible()
    assert not tab.empty.isVisible()
    assert tab.importer.form.fields["path"].editor.value() == ""
    assert tab.services.settings.recall("import_dataset")["format"] == "auto"


def test_a_dropped_file_becomes_the_path(tab: DatasetsTab, tmp_path: Path) -> None:
    path = story_file(tmp_path)
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path))])
    tab.dropEvent(
        QDropEvent(
            QPointF(5, 5),
            Qt.DropAction.CopyAction,
            data,
            Qt.MouseButton.LeftButton,
            Qt.KeyboardModifier.NoModifier,
        )
    )
    assert tab.importer.form.fields["path"].editor.value() == str(path)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("empty.txt", b"", "empty.txt"),
        ("program.txt", b"\x7fELF\x00\x01\x02\x00" * 400, "program.txt"),
        ("table.csv", b"id,date\n1,2020-01-01\n", "No column holds text; found id (number), "),
        ("rows.jsonl", b'{"text": "a"}\n{"text": \n', "Row 2 of rows.jsonl is not valid JSON."),
    ],
)
def test_wrong_files_are_sentences_without_debris(
    qtbot: QtBot, tab: DatasetsTab, tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    tab.importer.take_path(path)
    tab.importer.submit()
    settle(qtbot, tab.services, tab.importer.problem.isVisible)
    assert sentence in tab.importer.problem.text()
    studio = tab.services.studio
    assert DATASETS.select(studio.db()) == []
    assert list((studio.paths.home / "datasets").glob("*")) == []
    assert tab.importer.form.fields["path"].editor.value() == str(path)


def test_missing_values_and_missing_files_are_told_at_once(tab: DatasetsTab) -> None:
    tab.importer.submit()
    assert tab.importer.form.fields["path"].problem.text() == "File is missing."
    tab.importer.form.set_values({"path": "/no/such/file.txt"})
    tab.importer.submit()
    assert tab.importer.problem.text() == "There is no file '/no/such/file.txt'."
    assert JOBS.select(tab.services.studio.db()) == []


def add_rows(services: Services, count: int) -> None:
    for number in range(count):
        DATASETS.insert(
            services.studio.db(),
            name=f"text {number:03d}",
            source="local",
            status="ready",
            num_samples=number,
            size_bytes=1000 * number,
        )


def test_two_hundred_cards(qtbot: QtBot, tab: DatasetsTab) -> None:
    add_rows(tab.services, 200)
    began = time.perf_counter()
    tab.refresh()
    cards = tab._cards
    qtbot.waitUntil(lambda: sum(c.isVisible() for c in cards.values()) == 200, timeout=20_000)
    assert time.perf_counter() - began < 10.0  # a quarter of it where nothing else runs
    qtbot.wait(50)
    bar = tab.page.verticalScrollBar()
    bar.setValue(bar.maximum() // 2)
    place, first = bar.value(), tab._cards[tab._rows[0].row.id]
    DATASETS.update(tab.services.studio.db(), tab._rows[0].row.id, name="renamed")
    tab.services.publisher.publish("datasets")
    qtbot.waitUntil(lambda: first.name.text() == "renamed", timeout=5000)
    assert bar.value() == place
    tab.filters.search.setText("text 01")
    tab.filters.search.returnPressed.emit()
    assert sum(card.isVisible() for card in tab._cards.values()) == 12
    assert tab.filters.count.text() == "12 of 200"
    tab.filters.search.setText("nothing like it")
    tab.filters.search.returnPressed.emit()
    assert tab.nothing.isVisible()
    qtbot.mouseClick(tab.nothing.button, Qt.MouseButton.LeftButton)
    assert sum(card.isVisible() for card in tab._cards.values()) == 200


def test_samples_page_by_page_and_searched(qtbot: QtBot, tab: DatasetsTab, tmp_path: Path) -> None:
    row = import_stories(qtbot, tab, tmp_path)
    dialog = open_details(qtbot, tab, row.id)
    page = dialog.samples
    assert dialog.overview.tiles["Samples"].value() == "80"
    assert page.place.text() == "1–50 of 80"
    page.next.click()
    settle(qtbot, tab.services)
    assert page.place.text() == "51–80 of 80"
    assert not page.next.isEnabled()
    page.search.setText("WOLF mill")
    page.search.returnPressed.emit()
    settle(qtbot, tab.services)
    expected = [story for story in STORIES if "wolf" in story and "mill" in story]
    assert page.place.text() == f"1–{len(expected)} of {len(expected)}"
    page._cards[0].copy()
    assert QGuiApplication.clipboard().text() == expected[0]
    page.search.setText("zebra")
    page.search.returnPressed.emit()
    settle(qtbot, tab.services)
    assert page.notice.text() == "No sample holds “zebra”."
    qtbot.keyClick(dialog, Qt.Key.Key_Escape)
    assert not dialog.isVisible()


def test_tokenising_shows_original_text(qtbot: QtBot, tab: DatasetsTab, tmp_path: Path) -> None:
    row = import_stories(qtbot, tab, tmp_path)
    studio = tab.services.studio
    folder = save_tiny_llama(tmp_path / "tiny")
    model = MODELS.insert(
        studio.db(), name="tiny", origin="folder", path=str(folder), status="ready"
    )
    dialog = open_details(qtbot, tab, row.id)
    page = dialog.tokenization
    dialog.pages.setCurrentWidget(page)
    assert page.form.models.value() == model.id
    page.form.form.set_values({"context": "32"})
    page.form.submit()
    settle(qtbot, tab.services, page.view.isVisible)
    made = TOKENIZATIONS.select(studio.db())[0]
    assert page._cards[made.id].name.text() == "For tiny, 32 tokens per row"
    assert (
        f"packed · {made.rows:,} rows · {made.tokens:,} tokens" in page._cards[made.id].facts.text()
    )
    assert page.view.number.maximum() == made.rows
    first = page.view.chips.text()
    assert any(first.strip() in story for story in STORIES)
    page.view.next.click()
    settle(qtbot, tab.services)
    assert page.view.chips.text() != first
    statistics = dialog.statistics
    dialog.pages.setCurrentWidget(statistics)
    statistics.of.setCurrentIndex(statistics.of.findData(made.id))
    assert statistics.tiles["Tokens"].value() == f"{made.tokens:,}"
    assert statistics.parts.rowCount() == 3
    assert sum(int(statistics.parts.item(i, 1).text()) for i in range(3)) == made.rows
    assert tab._cards[row.id].extra.text() == "1 tokenisation"
    dialog.close()


def test_tokenising_needs_a_model(
    qtbot: QtBot, tab: DatasetsTab, tmp_path: Path, window_stub: Any
) -> None:
    row = import_stories(qtbot, tab, tmp_path)
    form = open_details(qtbot, tab, row.id).tokenization.form
    assert not form.button.isEnabled()
    form.to_models.click()
    assert window_stub.opened == [("Models", {})]
    tab._dialogs[row.id].close()


def test_deleting_asks_and_closes_the_window(
    qtbot: QtBot,
    tab: DatasetsTab,
    tmp_path: Path,
    window_stub: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = import_stories(qtbot, tab, tmp_path)
    studio = tab.services.studio
    dialog = open_details(qtbot, tab, row.id)
    job = jobs.add_job(studio.db(), "steer", "none", "Tokenise later", {"dataset": row.id})
    JOBS.update(studio.db(), job.id, status="interrupted")
    tab._cards[row.id].delete.click()
    settle(qtbot, tab.services)
    assert "the interrupted job 'Tokenise later'" in window_stub.banners[-1]
    studio.request(job.id, "cancel")
    asked: list[str] = []

    def answer(parent: object, title: str, sentence: str, *rest: object) -> bool:
        asked.append(f"{title} {sentence}")
        return len(asked) == 2

    monkeypatch.setattr("mistudio.gui.tabs.library.deleting.confirm", answer)
    tab._cards[row.id].delete.click()
    settle(qtbot, tab.services)
    assert DATASETS.find(studio.db(), row.id) is not None
    tab._cards[row.id].delete.click()
    settle(qtbot, tab.services, lambda: not tab._rows)
    assert asked[1].startswith("Delete dataset “stories”? This frees ")
    assert not studio.paths.dataset(row.id).exists()
    assert not tab._cards
    assert tab.empty.isVisible()
    qtbot.waitUntil(lambda: not _is_visible(dialog))


def _is_visible(dialog: DatasetDialog) -> bool:
    from shiboken6 import isValid

    return isValid(dialog) and dialog.isVisible()


def test_excerpt_and_marks() -> None:
    text = "a\nb " + "x" * 500 + " Needle & <thread>"
    assert excerpt("short\ntext", "") == "short text"
    assert "Needle & <thread>" in excerpt(text, "needle")
    assert excerpt(text, "needle").startswith("… x")
    assert marked("a & <Needle>\nb", "needle").count("<span") == 1
    assert "a &amp; &lt;" in marked("a & <Needle>\nb", "needle")
    assert marked("x\ny", "") == "x<br>y"


def test_chips_show_spaces_and_specials() -> None:
    assert shown(Chip("  fox", 5, False)) == "··fox"
    assert shown(Chip("\n", 5, False)) == "↵"
    assert shown(Chip("", 1, True)) == "#1"
    assert described(Chip("fox", 1234, False)) == "token 1,234  “fox”"


def test_statistics_lines() -> None:
    assert part_lines({"train": [0, 90], "evaluation": [90, 100]}, 100) == [
        ("train", "90", "90.0 %"),
        ("evaluation", "10", "10.0 %"),
    ]
    found = {"top_tokens": [{"id": 7, "text": "\n", "count": 25}], "special_tokens": {"<s>": 5}}
    assert token_lines(found, 100) == [
        ("\\n", "7", "25", "25.00 %"),
        ("<s> (special)", "—", "5", "5.00 %"),
    ]
