"""A model of a local Hub: searched, looked up, downloaded and checked, from the Models tab."""

from __future__ import annotations

from pathlib import Path

from pytestqt.qtbot import QtBot

from mistudio.gui.services import Services
from mistudio.store.tables import MODELS
from tests.gui.model_world import open_tab, settle
from tests.helpers.hub import hf_home, hub  # noqa: F401 - fixtures
from tests.helpers.local_hub import LocalHub
from tests.helpers.tiny import save_tiny_llama


def test_from_the_search_to_a_ready_model(
    qtbot: QtBot,
    services: Services,
    hub: LocalHub,  # noqa: F811
    tmp_path: Path,
) -> None:
    folder = save_tiny_llama(tmp_path / "source")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.add("models", "tiny/llama", files)
    tab = open_tab(qtbot, services)
    tab.sources.open("hub")
    card = tab.download
    card.repository.line.setFocus()
    card.repository.line.setText("llama")
    card.repository.search()
    settle(qtbot, services, lambda: card.repository.popup.table.rowCount() == 1)
    card.repository.popup.step(1)
    assert card.repository.popup.choose_current()
    assert card.repository.value() == "tiny/llama"
    settle(qtbot, services, lambda: "50,0" in card.facts.text() or "49,9" in card.facts.text())
    assert "LlamaForCausalLM" in card.facts.text()
    assert "fits well" in card.formats.combo.itemText(1)
    card.submit()
    settle(qtbot, services, lambda: any(row.status == "ready" for row in tab._rows))
    row = MODELS.select(services.studio.db())[0]
    assert (row.repo_id, row.status, row.num_layers) == ("tiny/llama", "ready", 4)
    assert "tiny/llama" in tab._cards[row.id].extra.text()
    assert not tab.cached.adders
