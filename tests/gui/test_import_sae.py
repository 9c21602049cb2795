"""The window that adds an SAE: from files, and from a local Hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtWidgets import QLabel, QWidget
from pytestqt.qtbot import QtBot
from shiboken6 import isValid

from mistudio.core.configs import DownloadSaeConfig, ImportSaeConfig
from mistudio.core.errors import InUse
from mistudio.gui.services import Services
from mistudio.gui.tabs.training.import_dialog import HUB, LOCAL, ImportSaeDialog
from mistudio.ml.formats.saelens import write_saelens
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.store.tables import SAES
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
    again.start()  # refused: the window stays with the sentence
    assert "It is on its way." in [part.text() for part in again.banners.findChildren(QLabel)]
    sent.clear()
    again.start()
    assert sent == [("import_sae", ImportSaeConfig(path="/somewhere"))]
    settle(qtbot, services)


def test_what_can_be_operated_says_what_it_is(dialog: ImportSaeDialog) -> None:
    assert unnamed(dialog.sources) == []
