"""The Datasets tab over a real studio: import, wrong inputs, list, details, deletion."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import QMimeData, QPointF, Qt, QUrl
from PySide6.QtGui import QDropEvent, QGuiApplication
from pytestqt.qtbot import QtBot

from mistudio.core.dataset_configs import TokenizeConfig
from mistudio.core.errors import NotFound
from mistudio.gui.services import Services
from mistudio.gui.tabs.datasets import DatasetsTab
from mistudio.gui.tabs.datasets.detail import DatasetDialog
from mistudio.gui.tabs.datasets.import_card import ImportDatasetCard
from mistudio.gui.tabs.datasets.sample_card import excerpt, marked
from mistudio.gui.tabs.datasets.statistics import part_lines, token_lines
from mistudio.gui.tabs.datasets.token_chips import described, shown
from mistudio.jobs import tokenize_preview
from mistudio.jobs.dataset_pages import Chip
from mistudio.jobs.tokenize_preview import Chip as TokenChip
from mistudio.jobs.tokenize_preview import TokenEstimate, TokenPreview
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
    made.sources.open("files")
    made.show()
    settle(qtbot, services)
    return made


def settle(qtbot: QtBot, services: Services, until: Callable[[], bool] = lambda: True) -> None:
    """Wait until jobs and questions are done and a condition holds."""

    def done() -> bool:
        waiting = JOBS.select(services.studio.db(), "status IN ('queued', 'running')")
        return not waiting and services.lanes.is_idle() and is_quiet(services) and until()

    qtbot.waitUntil(done, timeout=30_000)
    qtbot.wait(80)  # the views gather announcements for a moment before they read again
    qtbot.waitUntil(lambda: is_quiet(services), timeout=30_000)


def is_quiet(services: Services) -> bool:
    return services.query.is_idle() and services.network.is_idle()


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


def visit(qtbot: QtBot, tab: DatasetsTab, dialog: DatasetDialog, name: str) -> Any:
    """Turn to a page of a dataset's dialog."""
    dialog.pages.setCurrentIndex(PAGE_NAMES.index(name))
    settle(qtbot, tab.services)
    page = dialog.page(name)
    assert dialog.pages.currentWidget() is page
    return page


PAGE_NAMES = ("Overview", "Samples", "Tokenization", "Statistics")


def test_a_dataset_opens_with_its_first_page_only(
    qtbot: QtBot, tab: DatasetsTab, tmp_path: Path
) -> None:
    row = import_stories(qtbot, tab, tmp_path)
    dialog = open_details(qtbot, tab, row.id)
    assert [dialog.pages.tabText(i) for i in range(4)] == list(PAGE_NAMES)
    assert list(dialog._made) == ["Overview"]
    for name in reversed(PAGE_NAMES):
        visit(qtbot, tab, dialog, name)
    assert set(dialog._made) == set(PAGE_NAMES)
    assert [dialog.pages.tabText(i) for i in range(4)] == list(PAGE_NAMES)
    dialog.close()


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
    assert tab.importer.form.fields["path"].problem.text() == "File or folder is missing."
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


def test_a_thousand_datasets_make_only_the_cards_in_view(qtbot: QtBot, tab: DatasetsTab) -> None:
    add_rows(tab.services, 1000)
    tab.refresh()
    qtbot.waitUntil(lambda: len(tab.grid.keys()) == 1000, timeout=20_000)
    assert 0 < len(tab._cards) < 40
    bar = tab.page.verticalScrollBar()
    qtbot.waitUntil(lambda: bar.maximum() > 20_000, timeout=5000)
    assert list(tab._cards) == [entry.row.id for entry in tab._rows[: len(tab._cards)]]
    bar.setValue(bar.maximum())
    last = tab._rows[-1].row
    qtbot.waitUntil(lambda: last.id in tab.grid.in_view(), timeout=5000)
    assert tab._cards[last.id].name.text() == last.name
    bar.setValue(bar.maximum() // 2)
    place, key = bar.value(), tab.grid.in_view()[0]
    DATASETS.update(tab.services.studio.db(), key, name="renamed")
    tab.services.publisher.publish("datasets")
    qtbot.waitUntil(lambda: tab._cards[key].name.text() == "renamed", timeout=5000)
    assert bar.value() == place
    assert len(tab._cards) < 250


def shown_names(tab: DatasetsTab) -> list[str]:
    keys = tab.grid.keys()
    return [tab._by_id[key].row.name for key in keys]


def test_filters(qtbot: QtBot, tab: DatasetsTab) -> None:
    add_rows(tab.services, 30)
    db = tab.services.studio.db()
    DATASETS.insert(db, name="from afar", source="huggingface", status="ready", num_samples=1)
    DATASETS.insert(db, name="broken", source="local", status="error")
    tab.refresh()
    settle(qtbot, tab.services, lambda: len(tab._rows) == 32)
    tab.filters.search.setText("text 01")
    tab.filters.search.returnPressed.emit()
    assert tab.filters.count.text() == "11 of 32 datasets"  # 001, and 010 to 019
    tab.filters.clear()
    sources = tab.filters.further
    assert [sources.itemText(i) for i in range(3)] == ["All sources", "huggingface", "local"]
    sources.setCurrentIndex(1)
    assert shown_names(tab) == ["from afar"]
    tab.filters.clear()
    tab.filters.state.setCurrentIndex(tab.filters.state.findData("failed"))
    assert shown_names(tab) == ["broken"]
    tab.filters.search.setText("nothing like it")
    tab.filters.search.returnPressed.emit()
    assert tab.nothing.isVisible()
    qtbot.mouseClick(tab.nothing.button, Qt.MouseButton.LeftButton)
    assert len(tab.grid.keys()) == 32


def test_samples_page_by_page_and_searched(qtbot: QtBot, tab: DatasetsTab, tmp_path: Path) -> None:
    row = import_stories(qtbot, tab, tmp_path)
    dialog = open_details(qtbot, tab, row.id)
    page = visit(qtbot, tab, dialog, "Samples")
    assert dialog.page("Overview").tiles["Samples"].value() == "80"
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
    page = visit(qtbot, tab, dialog, "Tokenization")
    assert page.form.models.value() == model.id
    page.form.form.set_values({"context": "32"})
    page.form.submit()
    settle(qtbot, tab.services, page.view.isVisible)
    made = TOKENIZATIONS.select(studio.db())[0]
    assert page._cards[made.id].name.text() == "tiny, 32 tokens per row"
    assert (
        f"packed · {made.rows:,} rows · {made.tokens:,} tokens" in page._cards[made.id].facts.text()
    )
    assert page.view.number.maximum() == made.rows
    first = page.view.chips.text()
    assert any(first.strip() in story for story in STORIES)
    page.view.next.click()
    settle(qtbot, tab.services)
    assert page.view.chips.text() != first
    statistics = visit(qtbot, tab, dialog, "Statistics")
    statistics.of.setCurrentIndex(statistics.of.findData(made.id))
    assert statistics.tiles["Tokens"].value() == f"{made.tokens:,}"
    assert statistics.parts.rowCount() == 3
    assert sum(int(statistics.parts.item(i, 1).text()) for i in range(3)) == made.rows
    assert tab._cards[row.id].extra.text() == "1 tokenisation"
    dialog.close()


def test_without_a_model_a_tokenizer_is_named(
    qtbot: QtBot, tab: DatasetsTab, tmp_path: Path, window_stub: Any
) -> None:
    row = import_stories(qtbot, tab, tmp_path)
    folder = save_tiny_llama(tmp_path / "tiny")
    form = visit(qtbot, tab, open_details(qtbot, tab, row.id), "Tokenization").form
    form.to_models.click()
    assert window_stub.opened == [("Models", {})]
    assert form.form.fields["tokenizer"].isVisibleTo(form)
    assert form.form.fields["truncation"].isHidden()
    form.submit()
    assert form.form.fields["model"].problem.text().startswith("Choose a model, or write")
    form.form.set_values({"tokenizer": str(folder), "context": 16})
    trial = form.trial
    settle(qtbot, tab.services, lambda: bool(trial.estimate.text()))
    trial.text.setPlainText("the fox")
    shown = lambda: "".join(chip.text for chip in trial.chips._chips).strip()  # noqa: E731
    settle(qtbot, tab.services, lambda: shown() == "the fox")
    assert "tokens" in trial.count.text()
    assert trial.estimate.text().startswith("Estimate from 80 samples: about ")
    said = int(trial.estimate.text().split(" rows, ")[1].split(" tokens")[0].replace(",", ""))
    form.submit()
    settle(qtbot, tab.services)
    made = TOKENIZATIONS.select(tab.services.studio.db())[0]
    assert made.model_id is None
    assert made.tokens == pytest.approx(said, rel=0.1)
    assert (
        tab._dialogs[row.id].page("Tokenization")._cards[made.id].name.text().startswith("tiny, 16")
    )
    kept = tab.services.settings.recall("tokenize")
    assert kept["tokenizer"] == str(folder)
    assert "column" not in kept
    tab._dialogs[row.id].close()


def test_a_tokenizer_of_the_hub_is_asked_for_first(
    qtbot: QtBot, tab: DatasetsTab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = import_stories(qtbot, tab, tmp_path)
    got: list[str] = []

    def preview(_: object, config: TokenizeConfig, text: str) -> TokenPreview:
        if not got:
            raise NotFound("It is not on this machine yet.", code="tokenizer_not_here")
        return TokenPreview([TokenChip(text, 7, text, False)], 1, 1, 0)

    monkeypatch.setattr(tokenize_preview, "preview", preview)
    monkeypatch.setattr(tokenize_preview, "estimate", lambda *_: TokenEstimate(2, 3, 4, 5))
    monkeypatch.setattr(
        tokenize_preview, "fetch_tokenizer", lambda _, config: got.append(config.tokenizer)
    )
    form = visit(qtbot, tab, open_details(qtbot, tab, row.id), "Tokenization").form
    form.form.set_values({"tokenizer": "some/model"})
    settle(qtbot, tab.services, lambda: not form.trial.get.isHidden())
    assert form.trial.count.text() == "It is not on this machine yet."
    form.trial.get.click()
    settle(qtbot, tab.services, lambda: form.trial.count.text().startswith("1 token, 1 row"))
    assert got == ["some/model"]
    tab._dialogs[row.id].close()


def test_samples_by_split_length_and_as_tokens(
    qtbot: QtBot, tab: DatasetsTab, tmp_path: Path
) -> None:
    rows = [{"text": f"{'long ' * (i % 7)}story {i}", "title": f"T{i}"} for i in range(60)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    tab.importer.take_path(path)
    tab.importer.form.set_values({"test_share": "0.3"})
    tab.importer.submit()
    settle(qtbot, tab.services, lambda: len(tab._rows) == 1)
    db = tab.services.studio.db()
    row = DATASETS.select(db)[0]
    folder = save_tiny_llama(tmp_path / "tiny")
    model = MODELS.insert(db, name="tiny", origin="folder", path=str(folder), status="ready")
    TOKENIZATIONS.insert(
        db, dataset_id=row.id, model_id=model.id, tokenizer_name="t", settings_hash="h",
        context=8, status="ready", settings={"context": 8},
    )  # fmt: skip
    tab.refresh()
    settle(qtbot, tab.services)
    page = visit(qtbot, tab, open_details(qtbot, tab, row.id), "Samples")
    splits = (row.statistics or {})["splits"]
    first, behind = splits["test"]
    page.split.setCurrentIndex(page.split.findData("test"))
    settle(qtbot, tab.services)
    assert page.place.text() == f"1–{behind - first} of {behind - first}"
    assert page._cards[0].title.text() == f"Sample {first + 1} · test"
    assert page._cards[0].metadata.text().startswith("title: T")
    page.split.setCurrentIndex(0)
    page.longest.lineEdit().setText("10")
    page.longest.editingFinished.emit()
    settle(qtbot, tab.services)
    short = sum(len(r["text"]) <= 10 for r in rows)
    assert page.place.text() == f"1–{short} of {short}"
    page.view.setCurrentIndex(1)
    settle(qtbot, tab.services)
    card = page._cards[0]
    assert card.chips is not None
    assert card.chips.isVisibleTo(page)
    assert card.chips.text().strip() == card.token_text()
    page.view.setCurrentIndex(0)
    assert not card.chips.isVisibleTo(page)
    tab._dialogs[row.id].close()


def test_the_word_index_is_built_on_request(qtbot: QtBot, tab: DatasetsTab, tmp_path: Path) -> None:
    row = import_stories(qtbot, tab, tmp_path)
    db = tab.services.studio.db()
    (tab.services.studio.paths.dataset(row.id) / "search.db").unlink(missing_ok=True)
    DATASETS.update(db, row.id, is_indexed=0)
    tab.refresh()
    settle(qtbot, tab.services)
    page = visit(qtbot, tab, open_details(qtbot, tab, row.id), "Samples")
    assert not page.build_index.isVisibleTo(page)
    page.search.setText("fox")
    page.search.returnPressed.emit()
    settle(qtbot, tab.services)
    found = page.place.text()
    assert page.build_index.isVisibleTo(page)
    page.build_index.click()
    settle(qtbot, tab.services)
    assert DATASETS.get(db, row.id).is_indexed
    assert not page.build_index.isVisibleTo(page)
    assert page.place.text() == found
    tab._dialogs[row.id].close()


def test_the_first_samples_show_before_the_import(
    qtbot: QtBot, tab: DatasetsTab, tmp_path: Path
) -> None:
    path = tmp_path / "notes.csv"
    lines = "\n".join(f"T{i};story {i}" for i in range(20))
    path.write_text(f"title;body\n{lines}\n", encoding="utf-8")
    card = tab.importer
    assert isinstance(card, ImportDatasetCard)
    card.take_path(path)
    settle(qtbot, tab.services, card.preview.isVisible)
    assert card.preview.table.rowCount() == 10
    assert card.preview.facts.text().startswith("csv")
    assert "semicolon" in card.preview.facts.text()
    assert card.preview.table.item(0, 0).text() == "T0"  # the first column that holds text
    card.columns.menu.aboutToShow.emit()
    body = next(a for a in card.columns.menu.actions() if a.data() == "body")
    body.trigger()
    settle(qtbot, tab.services, lambda: card.preview.table.item(0, 0).text() == "story 0")
    assert card.form.values().text_column == ("body",)
    card.form.set_values({"path": str(tmp_path / "gone.csv")})
    settle(qtbot, tab.services, card.notice.isVisible)
    assert "gone.csv" in card.notice.text()
    assert not card.preview.isVisible()


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
    before = DATASETS.get(studio.db(), row.id)
    tab._cards[row.id].delete.click()
    settle(qtbot, tab.services, lambda: not tab._rows)
    assert asked[1].startswith("Delete dataset “stories”? This frees ")
    assert not studio.paths.dataset(row.id).exists()
    assert not tab._cards
    assert tab.empty.isVisible()
    qtbot.waitUntil(lambda: not _is_visible(dialog))
    said = window_stub.banners[-1]
    assert said.startswith("The dataset “stories” is deleted.")
    assert said.endswith("are free in 10 s.")
    for work in window_stub.undone[said]:
        work()
    settle(qtbot, tab.services, lambda: row.id in tab._cards)
    assert studio.paths.dataset(row.id).exists()
    assert DATASETS.get(studio.db(), row.id) == before


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
