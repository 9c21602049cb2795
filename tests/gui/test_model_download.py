"""Getting a model from the Hub: what a repository takes, tokens, the cache."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from pytestqt.qtbot import QtBot

from mistudio.core.memory import estimate_bytes
from mistudio.gui.services import Services
from mistudio.gui.tabs.models import ModelsTab
from mistudio.gui.tabs.models.download_card import CODE_WARNING, NEEDS_CODE, DownloadModelCard
from mistudio.jobs import hub_pages, model_pages
from mistudio.jobs.hub_pages import CachedRepo, ModelPage, RepoFile
from mistudio.jobs.model_pages import DeviceMemory
from mistudio.store.tables import JOBS, MODELS
from tests.gui.model_world import add_model, answer_jobs, open_tab, settle

TOKEN = "hf_" + "PlantedSecret0123456789"
LINEAR, OTHERS = 2_800_000_000, 400_000_000
PAGE = ModelPage(
    id="meta/big",
    sha="abc",
    licence="llama3.2",
    gated=True,
    downloads=1_234_567,
    download_bytes=6_400_000_000,
    cached_bytes=0,
    files=[RepoFile("model.safetensors", 6_400_000_000)],
    gguf_files=[],
    architecture="LlamaForCausalLM",
    needs_code=False,
    linear_weights=LINEAR,
    other_weights=OTHERS,
    has_pickle_only=False,
    problem="",
)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the Hub answers; the tests change it."""
    answers: dict[str, Any] = {"page": PAGE, "free": 15_000_000_000, "cached": [], "asked": []}

    def page(studio: Any, repo: str, revision: str = "main", token: str = "") -> ModelPage:
        answers["asked"].append((repo, revision, token))
        return dataclasses.replace(answers["page"], id=repo)

    monkeypatch.setattr(hub_pages, "model_page", page)
    monkeypatch.setattr(hub_pages, "cached_models", lambda studio: answers["cached"])
    monkeypatch.setattr(
        hub_pages, "download_room", lambda studio, size: (size, answers["free"], 10**10)
    )
    memory = DeviceMemory("cpu", 20_000_000_000, 32_000_000_000)
    monkeypatch.setattr(model_pages, "device_memory", lambda studio: memory)
    return answers


@pytest.fixture
def tab(qtbot: QtBot, services: Services, hub: dict[str, Any]) -> ModelsTab:
    made = open_tab(qtbot, services)
    made.sources.open("hub")
    return made


def look_up(qtbot: QtBot, tab: ModelsTab, repo: str = "meta/big") -> DownloadModelCard:
    tab.download.repository.line.setText(repo)
    tab.download.look_up()
    settle(qtbot, tab.services)
    return tab.download


def test_each_format_tells_its_memory_and_large_downloads_warn(
    qtbot: QtBot, tab: ModelsTab, hub: dict[str, Any]
) -> None:
    card = look_up(qtbot, tab)
    combo = card.formats.combo
    texts = {combo.itemData(i): combo.itemText(i) for i in range(combo.count())}
    assert estimate_bytes(LINEAR, OTHERS, "bf16") == 8_180_000_000
    assert texts["fp32"] == "FP32 · about 15.9 GB · too large"
    assert texts["bf16"] == "BF16 · about 8.2 GB · fits well · Recommended"
    assert texts["nf4"] == "NF4 · about 3.1 GB · fits well"
    assert texts["auto"] == "Automatic"
    assert "3,200,000,000 parameters · 6.4 GB to download" in card.facts.text()
    assert "gated" in card.facts.text()
    assert card.warning.text() == "This downloads 6.4 GB. It leaves 8.6 GB on the disk."
    card.repository.line.setText("meta/other")
    assert combo.itemText(combo.findData("nf4")) == "NF4"
    assert not card.warning.isVisible()
    hub["page"] = dataclasses.replace(PAGE, download_bytes=10**9, cached_bytes=10**9)
    look_up(qtbot, tab, "meta/other")
    assert "all 1.0 GB are in your Hugging Face cache" in card.facts.text()
    assert not card.warning.isVisible()


def test_own_code_is_off_and_warned_of(qtbot: QtBot, tab: ModelsTab, hub: dict[str, Any]) -> None:
    hub["page"] = dataclasses.replace(PAGE, needs_code=True, download_bytes=1000)
    card = look_up(qtbot, tab)
    assert card.code.value() is False
    assert card.warning.text() == NEEDS_CODE
    card.code.set_value(True)
    assert card.warning.text() == CODE_WARNING
    hub["page"] = dataclasses.replace(PAGE, problem="Only safetensors and GGUF are opened.")
    look_up(qtbot, tab, "meta/pickle")
    assert card.problem.text() == "Only safetensors and GGUF are opened."
    assert not card.button.isEnabled()


def test_download_passes_the_token_on_and_writes_it_nowhere(
    qtbot: QtBot, tab: ModelsTab, hub: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answer_jobs(monkeypatch, "download_model", {})
    card = tab.download
    assert not card.button.isEnabled()
    card.token.line.setText(TOKEN)
    look_up(qtbot, tab)
    assert hub["asked"][-1] == ("meta/big", "main", TOKEN)
    card.form.set_values({"format": "int8", "revision": "v2"})
    card.submit()
    settle(qtbot, tab.services, lambda: len(asked) == 1)
    assert (asked[0].repo, asked[0].revision, asked[0].format) == ("meta/big", "v2", "int8")
    studio = tab.services.studio
    assert studio.tokens.of("meta/big") == TOKEN
    assert card.token.token() == ""
    assert card.repository.value() == ""
    assert card.formats.value() == "int8"  # kept for the next one
    tab.services.settings.save()
    for path in studio.paths.home.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path


def test_a_gated_model_fills_the_form_again(
    qtbot: QtBot, tab: ModelsTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mistudio.core.errors import Gated
    from mistudio.jobs.registry import JOB_KINDS

    def refuse(ctx: Any, config: Any) -> dict[str, Any]:
        raise Gated("The owner of 'meta/big' must grant access first.")

    known = dataclasses.replace(JOB_KINDS["download_model"], run=refuse, prepare=None)
    monkeypatch.setitem(JOB_KINDS, "download_model", known)
    card = look_up(qtbot, tab)
    card.submit()
    settle(qtbot, tab.services, card.problem.isVisible)
    assert card.problem.text() == "The owner of 'meta/big' must grant access first."
    assert card.repository.value() == "meta/big"


def test_models_of_the_cache_are_offered_at_once(
    qtbot: QtBot, services: Services, hub: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answer_jobs(monkeypatch, "download_model", {})
    hub["cached"] = [
        CachedRepo("org/new", "model", "main", "sha1", 269_000_000, 269_000_000, Path("/x")),
        CachedRepo("org/known", "model", "main", "sha2", 100, 100, Path("/y")),
    ]
    add_model(services, repo_id="org/known", revision="main", commit_sha="sha2")
    tab = open_tab(qtbot, services)
    assert list(tab.cached.adders) == ["org/new"]
    tab.cached.adders["org/new"].click()
    settle(qtbot, services, lambda: len(asked) == 1)
    assert (asked[0].repo, asked[0].revision) == ("org/new", "main")
    MODELS.insert(
        services.studio.db(),
        name="new",
        origin="hub",
        path="/z",
        status="ready",
        repo_id="org/new",
        commit_sha="sha1",
    )
    tab.refresh()
    settle(qtbot, services, lambda: not tab.cached.adders)
    assert not tab.cached.isVisible()
    assert JOBS.select(services.studio.db(), "status = 'failed'") == []
