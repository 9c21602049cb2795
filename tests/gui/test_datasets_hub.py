"""The Datasets tab and the Hub: search, preview, download, tokens, and the cards of downloads."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

from mistudio.core.control import JobControl
from mistudio.core.dataset_configs import DownloadDatasetConfig
from mistudio.core.errors import NoAnswer
from mistudio.core.events import RecordingReporter
from mistudio.gui.services import Services
from mistudio.gui.tabs.datasets import DatasetsTab
from mistudio.gui.tabs.library.cards import JobCard
from mistudio.gui.tabs.library.hub_search import cells_of
from mistudio.jobs import dataset_preview, hub_pages
from mistudio.jobs.dataset_preview import DatasetPreview, SplitInfo
from mistudio.jobs.hub_pages import FoundRepo
from mistudio.store import jobs
from mistudio.store.records import JobRow
from mistudio.store.tables import DATASETS, JOBS
from tests.helpers.hub import hf_home, hub  # noqa: F401
from tests.helpers.local_hub import GOOD_TOKEN, LocalHub

TOKEN = "hf_plantedplantedplantedplanted"


@pytest.fixture
def tab(qtbot: QtBot, services: Services) -> DatasetsTab:
    made = DatasetsTab(services)
    qtbot.addWidget(made)
    made.resize(1240, 560)
    made.sources.open("hub")
    made.show()
    settle(qtbot, services)
    return made


def settle(qtbot: QtBot, services: Services, until: Callable[[], bool] = lambda: True) -> None:
    """Wait until questions are answered and a condition holds."""

    def done() -> bool:
        quiet = services.query.is_idle() and services.network.is_idle()
        return quiet and services.lanes.is_idle() and until()

    qtbot.waitUntil(done, timeout=30_000)
    qtbot.wait(80)  # the views gather announcements for a moment before they read again
    qtbot.waitUntil(done, timeout=30_000)


def described(size: int | None = 1_000_000, **values: Any) -> DatasetPreview:
    made: dict[str, Any] = {
        "id": "owner/stories",
        "sha": "f" * 40,
        "description": "Stories.",
        "licence": "mit",
        "gated": False,
        "configs": ["en", "de"],
        "config": "de",
        "splits": [SplitInfo("train", 60, 900), SplitInfo("test", None, 100)],
        "columns": {"id": "number", "title": "text", "text": "text"},
        "text_column": ("text",),
        "rows": 60,
        "size_bytes": size,
        "first": [{"id": "1", "title": "A", "text": "Once upon a time"}],
    }
    return DatasetPreview(**{**made, **values})


def fake_preview(
    monkeypatch: pytest.MonkeyPatch, found: DatasetPreview
) -> list[tuple[str, str, str, str, str]]:
    """Answer every preview with `found`; what was asked is in the list."""
    asked: list[tuple[str, str, str, str, str]] = []

    def preview(_: object, repo: str, *rest: str, control: object) -> DatasetPreview:
        asked.append((repo, *rest))
        return found

    monkeypatch.setattr(dataset_preview, "preview", preview)
    monkeypatch.setattr(hub_pages, "download_room", lambda *_: (1_000_000, 5_000_000_000, 0))
    return asked


def test_what_is_typed_is_searched(
    qtbot: QtBot, tab: DatasetsTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        FoundRepo("a/one", "dataset", 1_500_000, "mit", 1234, False, False, False),
        FoundRepo("a/two", "dataset", None, None, None, True, False, True),
    ]
    asked: list[tuple[str, str]] = []

    def search(_: object, kind: str, words: str, limit: int) -> list[FoundRepo]:
        asked.append((kind, words))
        return found

    monkeypatch.setattr(hub_pages, "search", search)
    field = tab.download.repository
    tab.activateWindow()
    field.line.setFocus()
    qtbot.waitUntil(field.line.hasFocus)
    qtbot.keyClicks(field.line, "two")
    qtbot.waitUntil(lambda: field.popup.table.rowCount() == 2, timeout=5000)
    assert asked == [("dataset", "two")]
    assert field.popup.isVisible()
    assert tab.rect().contains(field.popup.geometry())
    assert cells_of(found[0]) == ("a/one", "1.5 MB", "mit", "1,234", "open")
    assert cells_of(found[1]) == ("a/two", "—", "—", "—", "gated, here")
    qtbot.keyClick(field.line, Qt.Key.Key_Up)
    qtbot.keyClick(field.line, Qt.Key.Key_Return)
    assert field.value() == "a/two"
    assert not field.popup.isVisible()
    assert tab.download.button.isEnabled()


def test_the_end_of_the_hits_asks_for_more(
    qtbot: QtBot, tab: DatasetsTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def search(_: object, kind: str, words: str, limit: int) -> list[FoundRepo]:
        asked.append(limit)
        return [
            FoundRepo(f"a/s{i}", "dataset", 1, None, 1, False, False, False)
            for i in range(min(limit, 47))
        ]

    monkeypatch.setattr(hub_pages, "search", search)
    field = tab.download.repository
    tab.activateWindow()
    field.line.setFocus()
    qtbot.waitUntil(field.line.hasFocus)
    qtbot.keyClicks(field.line, "stories")
    table = field.popup.table
    qtbot.waitUntil(lambda: table.rowCount() == 20, timeout=5000)
    table.selectRow(19)
    bar = table.verticalScrollBar()
    bar.setValue(bar.maximum())
    qtbot.waitUntil(lambda: table.rowCount() == 40, timeout=5000)
    assert (table.currentRow(), asked) == (19, [20, 40])
    bar.setValue(bar.maximum())
    qtbot.waitUntil(lambda: table.rowCount() == 47, timeout=5000)
    bar.setValue(0)
    bar.setValue(bar.maximum())
    settle(qtbot, tab.services)
    assert asked == [20, 40, 60]


def test_a_token_in_the_field_of_the_repository_is_not_sent(
    qtbot: QtBot, tab: DatasetsTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_pages, "search", lambda *_: pytest.fail("it was sent"))
    field = tab.download.repository
    tab.activateWindow()
    field.line.setFocus()
    qtbot.waitUntil(field.line.hasFocus)
    qtbot.keyClicks(field.line, TOKEN)
    qtbot.waitUntil(field.popup.isVisible, timeout=5000)
    assert "access token" in field.popup.note.text()
    settle(qtbot, tab.services)
    assert not tab.download.button.isEnabled()


def test_the_list_of_hits_goes_when_the_page_scrolls_and_with_escape(
    qtbot: QtBot, tab: DatasetsTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [FoundRepo("a/one", "dataset", 1_500_000, "mit", 1234, False, False, False)]
    asked = list[str]()
    monkeypatch.setattr(
        hub_pages, "search", lambda _, kind, words, limit: asked.append(words) or found
    )
    field, page = tab.download.repository, tab.page
    tab.resize(1240, 300)
    tab.activateWindow()
    field.line.setFocus()
    qtbot.waitUntil(field.line.hasFocus)
    qtbot.keyClicks(field.line, "one")
    qtbot.waitUntil(lambda: field.popup.table.rowCount() == 1, timeout=5000)
    page.verticalScrollBar().setValue(page.verticalScrollBar().value() + 20)
    assert not field.popup.isVisible()
    qtbot.keyClicks(field.line, "two")
    assert field._soon.isActive()
    qtbot.keyClick(field.line, Qt.Key.Key_Escape)  # before anything was asked
    assert not field._soon.isActive()
    assert asked == ["one"]


def test_a_pasted_address_becomes_id_and_revision(tab: DatasetsTab) -> None:
    assert not tab.download.button.isEnabled()
    tab.download.repository.line.setText("https://huggingface.co/datasets/a/b/tree/v2")
    assert tab.download.repository.value() == "a/b"
    assert tab.download.form.values().revision == "v2"
    tab.download.repository.line.setText("a//b")
    assert not tab.download.button.isEnabled()


def test_preview_fills_the_choices_and_download_clears_the_form(
    qtbot: QtBot, tab: DatasetsTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, card = fake_preview(monkeypatch, described()), tab.download
    card.form.set_values({"repo": "owner/stories", "amount": "rows", "count": 50})
    card.token.line.setText(TOKEN)
    card.preview_button.click()
    settle(qtbot, tab.services, card.shown.isVisible)
    assert asked == [("owner/stories", "", "", "main", TOKEN)]
    assert card.shown.tiles["Rows"].value() == "60"
    assert card.shown.splits.text() == "Splits: train 60 rows (900 B), test (100 B)"
    assert "text (text, read)" in card.shown.columns.text()
    assert card.shown.table.item(0, 2).text() == "Once upon a time"
    assert card.configs.combo.itemText(0) == "Default (de)"
    card.configs.set_value("en")
    settle(qtbot, tab.services, lambda: len(asked) == 2)
    assert asked[1][1] == "en"
    card.splits.set_value("test")
    settle(qtbot, tab.services, lambda: len(asked) == 3)
    card.columns.set_value(["title", "text"])
    card.button.click()
    job = JOBS.select(tab.services.studio.db())[0]
    assert job.kind == "download_dataset"
    wanted = DownloadDatasetConfig(
        repo="owner/stories", config="en", split="test", text_column=("title", "text"),
        amount="rows", count=50,
    )  # fmt: skip
    assert job.config == json.loads(json.dumps(vars(wanted)))
    assert tab.services.studio.tokens.of("owner/stories") == TOKEN
    assert card.repository.value() == ""
    assert card.token.token() == ""
    assert not card.shown.isVisible()
    assert not card.button.isEnabled()
    assert tab.services.settings.recall("download_dataset") == {"amount": "rows", "count": "50"}


def test_no_token_reaches_a_file(
    qtbot: QtBot, tab: DatasetsTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_preview(monkeypatch, described())
    kept: list[str] = []

    def remember(token: str) -> str:
        kept.append(token)
        return "alice"

    monkeypatch.setattr(hub_pages, "remember_token", remember)
    card = tab.download
    card.form.set_values({"repo": "owner/stories"})
    card.token.line.setText("not a token")
    card.submit()
    assert "hf_" in card.token.problem.text()
    assert JOBS.select(tab.services.studio.db()) == []
    card.token.line.setText(TOKEN)
    assert not card.token.problem.isVisible()
    assert TOKEN[3:] not in card.token.line.displayText()
    card.token.keep.setChecked(True)
    card.preview()
    settle(qtbot, tab.services, card.shown.isVisible)
    card.submit()
    settle(qtbot, tab.services, lambda: bool(kept))
    assert set(kept) == {TOKEN}
    tab.services.settings.save()
    home = tab.services.studio.paths.home
    holding = [p for p in home.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]
    assert holding == []
    assert TOKEN not in repr(tab.services.studio.tokens)


def test_everything_of_a_very_large_dataset_is_confirmed_twice(
    qtbot: QtBot, tab: DatasetsTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = described(200_000_000_000, warning="This is 200.0 GB.", suggests_tokens=True)
    fake_preview(monkeypatch, large)
    card = tab.download
    card.form.set_values({"repo": "owner/stories", "amount": "everything"})
    card.preview()
    settle(qtbot, tab.services, card.shown.isVisible)
    assert card.form.values().amount == "tokens"
    assert card.shown.warning.text() == "This is 200.0 GB."
    card.form.set_values({"amount": "everything"})
    answers, asked = [True, False, True, True], list[str]()

    def confirm(_: object, title: str, *rest: object, **more: object) -> bool:
        asked.append(title)
        return answers[len(asked) - 1]

    monkeypatch.setattr("mistudio.gui.tabs.datasets.download_card.confirm", confirm)
    card.submit()
    assert asked == ["Download all 200.0 GB?", "Really everything?"]
    assert JOBS.select(tab.services.studio.db()) == []
    card.submit()
    assert JOBS.select(tab.services.studio.db())[0].config["accept_large"] is True


def test_a_preview_that_fails_says_why(
    qtbot: QtBot,
    tab: DatasetsTab,
    hub: LocalHub,  # noqa: F811
) -> None:
    tab.download.form.set_values({"repo": "no/such"})
    tab.download.preview()
    settle(qtbot, tab.services, tab.download.problem.isVisible)
    assert tab.download.problem.text().startswith("There is no dataset 'no/such' on the Hub.")
    assert not tab.download.shown.isVisible()


def test_a_late_answer_does_not_reach_a_cleared_form(
    qtbot: QtBot, tab: DatasetsTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = threading.Event()

    def late(*_: object, control: object) -> DatasetPreview:
        gone.wait(10)
        raise NoAnswer("The Hub has a problem (500). Try again later.")

    monkeypatch.setattr(dataset_preview, "preview", late)
    tab.download.form.set_values({"repo": "owner/stories"})
    tab.download.preview()
    tab.download.submit()
    gone.set()
    settle(qtbot, tab.services)
    assert tab.download.repository.value() == ""
    assert not tab.download.problem.isVisible()


def test_a_gated_dataset_from_search_to_samples(
    qtbot: QtBot,
    tab: DatasetsTab,
    hub: LocalHub,  # noqa: F811
) -> None:
    rows = [{"title": f"T{i}", "text": f"story number {i} of the fox"} for i in range(40)]
    lines = "\n".join(json.dumps(row) for row in rows).encode()
    hub.add("datasets", "alice/stories", {"train.jsonl": lines, "README.md": b"# Stories\n"})
    hub.gated["alice/stories"] = {"alice"}
    card, services = tab.download, tab.services
    services.lanes.start()
    card.form.set_values({"repo": "alice/stories"})
    card.preview()
    settle(qtbot, services, card.problem.isVisible)
    assert "alice/stories" in card.problem.text()
    card.token.line.setText(GOOD_TOKEN)
    shown = card.token.line.displayText()  # what a picture of the window would hold
    assert len(set(shown)) == 1
    assert not set(shown) & set(GOOD_TOKEN)
    card.preview()
    settle(qtbot, services, card.shown.isVisible)
    assert card.shown.table.rowCount() == 10
    assert card.shown.gated.isVisible()
    card.submit()
    db = services.studio.db()

    def is_ready() -> bool:
        return [row.status for row in DATASETS.select(db)] == ["ready"]

    qtbot.waitUntil(is_ready, timeout=30_000)
    settle(qtbot, services, lambda: not tab._jobs)
    row = DATASETS.select(db)[0]
    assert (row.source, row.repo_id, row.num_samples) == ("huggingface", "alice/stories", 40)
    tab.open(row.id)
    settle(qtbot, services)
    dialog: Any = tab._dialogs[row.id]
    dialog.pages.setCurrentIndex(1)
    settle(qtbot, services)
    assert dialog.page("Samples").place.text() == "1–40 of 40"
    assert "alice/stories" in dialog.page("Overview").facts["On the Hub"].text()
    dialog.close()
    services.settings.save()
    home = services.studio.paths.home
    token = GOOD_TOKEN.encode()
    assert [p for p in home.rglob("*") if p.is_file() and token in p.read_bytes()] == []


def scripted(services: Services, status: str, **values: Any) -> JobRow:
    config = DownloadDatasetConfig(repo=f"a/{status}")
    made = jobs.add_job(
        services.studio.db(), "download_dataset", "io", f"Download {status}", dict(vars(config))
    )
    JOBS.update(services.studio.db(), made.id, status=status, **values)
    return JOBS.get(services.studio.db(), made.id)


@pytest.mark.parametrize(
    ("status", "phase", "shown", "asked"),
    [
        ("queued", "", ["Cancel"], ["cancel"]),
        ("running", "Downloading", ["Pause", "Cancel"], ["pause", "cancel"]),
        (
            "running",
            "Waiting 57 s to try again",
            ["Retry now", "Pause", "Cancel"],
            ["now", "pause", "cancel"],
        ),
        ("paused", "Downloading", ["Resume", "Cancel"], ["resume", "cancel"]),
        ("interrupted", "Downloading", ["Resume", "Cancel"], ["resume", "cancel"]),
        ("failed", "failed", ["Retry", "Dismiss"], ["retry", "dismiss"]),
        ("cancelled", "cancelled", ["Retry", "Dismiss"], ["retry", "dismiss"]),
    ],
)
def test_what_a_download_card_offers(
    qtbot: QtBot, services: Services, status: str, phase: str, shown: list[str], asked: list[str]
) -> None:
    job = scripted(services, status, phase=phase)
    card = JobCard(job.id, "database", "blue")
    qtbot.addWidget(card)
    card.show_job(job, None)
    card.show()
    buttons = [b for b in (card.now, card.pause, card.delete) if b.isVisible()]
    assert [b.text() for b in buttons] == shown
    told: list[tuple[str, str]] = []
    card.asked.connect(lambda job_id, verb: told.append((job_id, verb)))
    for made in buttons:
        made.click()
    assert told == [(job.id, verb) for verb in asked]
    cancelling = status in ("running", "paused")
    assert (card.pill.state() == "cancelling") is cancelling


def test_a_failed_download_stays_until_it_is_tried_again_or_dismissed(
    qtbot: QtBot, tab: DatasetsTab
) -> None:
    services = tab.services
    sentence = "No answer for 30 s; 3.1 of 8.0 GB are kept."
    failed = scripted(services, "failed", error_message=sentence)
    gone = scripted(services, "cancelled")
    tab.refresh()
    settle(qtbot, services, lambda: len(tab._jobs) == 2)
    assert tab._cards[failed.id].facts.text() == sentence
    gone_card: Any = tab._cards[gone.id]
    gone_card.delete.click()
    settle(qtbot, services, lambda: len(tab._jobs) == 1)
    assert gone.id not in tab._cards
    card: Any = tab._cards[failed.id]
    card.pause.click()
    settle(qtbot, services, lambda: failed.id not in tab._cards)
    again = tab._jobs[0]
    assert (again.status, again.retry_of, again.config) == ("queued", failed.id, failed.config)


def test_the_choice_of_source_survives(services: Services, qtbot: QtBot, tmp_path: Path) -> None:
    first = DatasetsTab(services)
    qtbot.addWidget(first)
    assert first.sources.current() == "hub"
    first.select(import_file=True)
    assert first.sources.current() == "files"
    second = DatasetsTab(services)
    qtbot.addWidget(second)
    assert second.sources.current() == "files"
    qtbot.waitUntil(services.query.is_idle)


def test_datasets_of_the_cache_are_offered_at_once(
    qtbot: QtBot,
    services: Services,
    hub: LocalHub,  # noqa: F811
) -> None:
    for name in ("known", "new"):
        hub.add("datasets", f"o/{name}", {"train.jsonl": b'{"text": "Once upon a time"}\n'})
        config = DownloadDatasetConfig(repo=f"o/{name}")
        services.studio.run_now("download_dataset", config, RecordingReporter(), JobControl())
    gone = next(row for row in DATASETS.select(services.studio.db()) if row.repo_id == "o/new")
    DATASETS.delete(services.studio.db(), gone.id)
    tab = DatasetsTab(services)
    qtbot.addWidget(tab)
    tab.sources.open("hub")
    tab.show()
    settle(qtbot, services, lambda: list(tab.cached.adders) == ["o/new"])
    tab.cached.adders["o/new"].click()
    settle(qtbot, services, tab.download.shown.isVisible)
    assert tab.download.repository.value() == "o/new"
    assert "all files are in your Hugging Face cache already" in tab.download.shown.room.text()
    sent = dict(hub.sent)
    services.lanes.start()
    tab.download.submit()
    settle(qtbot, services, lambda: not tab.cached.adders)
    assert hub.sent == sent
    assert not tab.cached.isVisible()
