"""The window that adds an SAE: from files, and from a local Hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtWidgets import QLabel, QWidget
from pytestqt.qtbot import QtBot
from safetensors.torch import load_file, save_file
from shiboken6 import isValid

from mistudio.core.configs import DownloadSaeConfig, ImportSaeConfig
from mistudio.core.errors import InUse
from mistudio.gui.services import Services
from mistudio.gui.tabs.training.import_dialog import HUB, LOCAL, ImportSaeDialog
from mistudio.ml.formats.saelens import write_saelens
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.store.tables import MODELS, SAES
from tests.gui.model_world import settle
from tests.gui.test_named_controls import unnamed
from tests.helpers.hub import hf_home, hub  # noqa: F401 - fixtures
from tests.helpers.local_hub import GOOD_TOKEN, LocalHub
from tests.ml_formats.foreign_files import K, parts

REPO = "lab/saes"


@pytest.fixture
def window(qtbot: QtBot) -> Iterator[QWidget]:
    made = QWidget()
    made.resize(1240, 640)
    yield made
    made.close()


@pytest.fixture
def dialog(qtbot: QtBot, services: Services, window: QWidget) -> Iterator[ImportSaeDialog]:
    made = ImportSaeDialog(services, window)
    made.sources.open(HUB)
    made.show()
    settle(qtbot, services)
    yield made
    if isValid(made):  # an import closes it
        made.close()


@pytest.fixture
def offered(hub: LocalHub, tmp_path: Path) -> LocalHub:  # noqa: F811
    """Eleven SAEs of SAELens."""
    p = parts()
    sae = SparseAutoencoder(p["W_enc"], p["b_enc"], p["W_dec"], p["b_dec"], "topk", k=K)
    write_saelens(tmp_path / "sae", sae, {"model_name": "unknown"})
    files = {path.name: path.read_bytes() for path in (tmp_path / "sae").iterdir()}
    for layer in range(11):
        hub.add("models", REPO, {f"L{layer}/{name}": content for name, content in files.items()})
    return hub


def shown(dialog: ImportSaeDialog) -> list[str]:
    found = dialog.places.list
    return [found.item(line).text().split()[0] for line in range(found.count())]


def test_an_address_is_looked_up_and_one_of_its_saes_is_imported(
    qtbot: QtBot, services: Services, dialog: ImportSaeDialog, offered: LocalHub
) -> None:
    services.lanes.start()
    dialog.repository.line.setText(f"https://huggingface.co/{REPO}/tree/main/L1")
    assert (dialog.repository.value(), dialog.folder.value()) == (REPO, "L1")
    qtbot.waitUntil(lambda: bool(shown(dialog)), timeout=20_000)
    assert dialog.facts.text().startswith("11 SAEs of SAELens")
    dialog.folder.set_value("")
    dialog.places.narrow("")
    assert shown(dialog) == [f"L{layer}" for layer in range(11)]  # L2 before L10
    dialog.places.narrow("l1")
    assert shown(dialog) == ["L1", "L10"]
    dialog.places.list.itemClicked.emit(dialog.places.list.item(1))
    assert dialog.folder.value() == "L10"
    assert not offered.sent  # nothing is fetched before the import
    dialog.start()
    settle(qtbot, services, lambda: bool(SAES.select(services.studio.db())))
    row = SAES.select(services.studio.db())[0]
    assert (row.name, row.repo_id, row.n_latents) == ("saes L10", REPO, 64)
    assert set(offered.sent) == {"L10/cfg.json", "L10/sae_weights.safetensors"}


def test_a_gated_repository_asks_for_a_token_and_takes_it(
    qtbot: QtBot, services: Services, dialog: ImportSaeDialog, offered: LocalHub
) -> None:
    offered.private.add(REPO)
    dialog.repository.line.setText(REPO)
    dialog.look_up()
    qtbot.waitUntil(lambda: bool(dialog.problem.text()), timeout=20_000)
    assert not shown(dialog)
    dialog.token.line.setText(GOOD_TOKEN)
    dialog.look_up()
    qtbot.waitUntil(lambda: len(shown(dialog)) == 11, timeout=20_000)
    assert not dialog.problem.isVisible()


def test_each_source_sends_its_own_job(
    qtbot: QtBot,
    services: Services,
    window: QWidget,
    dialog: ImportSaeDialog,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[tuple[str, Any]] = []

    def submit(kind: str, config: Any, title: str = "") -> str:
        if sent:
            raise InUse("It is on its way.")
        sent.append((kind, config))
        return "job"

    monkeypatch.setattr(services.studio, "submit", submit)
    dialog.start()
    assert dialog.hub.fields["repo"].problem.text() == "Repository is missing."
    dialog.hub.set_values({"repo": REPO, "folder": "L3", "layer": 3, "hook": "mlp_out"})
    dialog.start()
    assert sent == [
        ("download_sae", DownloadSaeConfig(repo=REPO, folder="L3", layer=3, hook="mlp_out"))
    ]
    again = ImportSaeDialog(services, window)
    assert again.sources.current() == HUB  # as it was left
    again.sources.open(LOCAL)
    again.local.set_values({"path": "/somewhere"})
    again.start()  # waits for the preview, which finds nothing there
    assert len(sent) == 1
    qtbot.waitUntil(lambda: bool(again.preview.problem.text()), timeout=20_000)
    again.start()  # refused: the window stays with the sentence
    assert "It is on its way." in [part.text() for part in again.banners.findChildren(QLabel)]
    sent.clear()
    again.start()
    assert sent == [("import_sae", ImportSaeConfig(path="/somewhere"))]
    settle(qtbot, services)


def test_what_can_be_operated_says_what_it_is(dialog: ImportSaeDialog) -> None:
    assert unnamed(dialog.sources) == []


@pytest.fixture
def own(tmp_path: Path, services: Services) -> Path:
    """A folder below which one SAE in bfloat16 lies, whose files name no layer and no hook."""
    MODELS.insert(
        services.studio.db(), name="tiny", origin="folder", path="/tiny", num_layers=4,
        hidden_dim=16, status="ready",
    )  # fmt: skip
    p = parts()
    sae = SparseAutoencoder(p["W_enc"], p["b_enc"], p["W_dec"], p["b_dec"], "topk", k=K)
    place = tmp_path / "own" / "below"
    write_saelens(place, sae, {"model_name": "lab/large"})
    path = place / "sae_weights.safetensors"
    save_file({name: t.bfloat16() for name, t in load_file(path).items()}, path)
    return tmp_path / "own"


def show_own(qtbot: QtBot, dialog: ImportSaeDialog, path: Path) -> None:
    dialog.sources.open(LOCAL)
    dialog.local.set_values({"path": str(path)})
    told = (dialog.preview.place, dialog.preview.problem)
    qtbot.waitUntil(lambda: any(part.text() for part in told), timeout=20_000)


@pytest.fixture
def sent(services: Services, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The settings of every job that is started, none of which runs."""
    configs: list[Any] = []
    monkeypatch.setattr(
        services.studio, "submit", lambda kind, config, title="": configs.append(config) or "job"
    )
    return configs


def test_files_are_told_before_the_import_and_what_they_lack_is_asked_for(
    qtbot: QtBot,
    services: Services,
    own: Path,
    dialog: ImportSaeDialog,
    sent: list[Any],
) -> None:
    show_own(qtbot, dialog, own)
    assert dialog.preview.facts.text().startswith(
        "SAELens · TopK · width 16 × 64 latents · k 5 · bfloat16 · "
    )
    assert (
        dialog.preview.place.text()
        == "Reads an unnamed layer of lab/large, which the library lacks."
    )
    fields = dialog.local.fields
    asked = {name for name, field in fields.items() if field.problem.text()}
    assert asked == {"model", "layer", "hook"}
    assert fields["layer"].problem.text() == "The files do not name the layer."
    dialog.start()
    assert not sent  # it asks first
    assert not dialog.without_button.isHidden()
    fields["hook"].editor.set_value("mlp_out")
    fields["layer"].editor.set_value(0)
    assert {name for name, field in fields.items() if field.problem.text()} == {"model"}
    fields["model"].editor.set_value("tiny")
    assert dialog.without_button.isHidden()
    dialog.start()
    assert sent == [ImportSaeConfig(path=str(own), model="tiny", layer=0, hook="mlp_out")]
    settle(qtbot, services)


def test_what_stays_open_can_be_left_open(
    qtbot: QtBot,
    services: Services,
    own: Path,
    dialog: ImportSaeDialog,
    sent: list[Any],
) -> None:
    dialog.sources.open(LOCAL)
    dialog.local.set_values({"path": str(own)})
    dialog.start()  # before it is read: it starts by itself, and then asks
    qtbot.waitUntil(lambda: bool(dialog.local.fields["layer"].problem.text()), timeout=20_000)
    assert not sent
    dialog.without_button.click()
    assert sent == [ImportSaeConfig(path=str(own))]
    settle(qtbot, services)


def test_files_that_are_no_sae_are_refused_before_the_import(
    qtbot: QtBot, dialog: ImportSaeDialog, own: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes").mkdir()
    show_own(qtbot, dialog, tmp_path / "notes")
    assert "holds no SAE that can be read" in dialog.preview.problem.text()
    show_own(qtbot, dialog, own)
    qtbot.waitUntil(lambda: bool(dialog.preview.place.text()), timeout=20_000)
    assert dialog.preview.problem.isHidden()
    (own / "below" / "cfg.json").write_text("{")
    dialog.local.set_values({"path": ""})
    assert dialog.preview.isHidden()
    assert dialog.local.fields["layer"].problem.text() == ""
    show_own(qtbot, dialog, own)
    assert "is not valid JSON" in dialog.preview.problem.text()
