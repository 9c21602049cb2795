"""The dialogs of a model's card over a tiny model and a tokenised text; jobs run for real."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from pytestqt.qtbot import QtBot

from mistudio.core.dataset_configs import TokenizeConfig
from mistudio.core.paths import Paths
from mistudio.gui.services import Services
from mistudio.gui.tabs.models import ModelsTab
from mistudio.gui.tabs.models.export_dialog import ExportDialog
from mistudio.gui.tabs.models.extract_dialog import ExtractDialog
from mistudio.gui.tabs.models.format_dialog import FormatDialog
from mistudio.gui.tabs.models.import_vectors import ImportVectorsDialog
from mistudio.gui.tabs.models.lens_dialog import PromptLensDialog
from mistudio.gui.tabs.models.report_dialog import ReportDialog
from mistudio.gui.tabs.models.set_dialog import ActivationSetDialog
from mistudio.gui.tabs.models.set_rows import layer_words
from mistudio.jobs import model_pages
from mistudio.jobs.model_pages import DeviceMemory
from mistudio.jobs.runner import Studio
from mistudio.store.jobs import add_job
from mistudio.store.tables import ACTIVATION_SETS, JOBS, MODELS, TEMPLATES
from tests.gui.model_world import add_model, answer_jobs, open_tab, settle
from tests.helpers.studio import run, tiny_studio


@pytest.fixture(scope="module")
def tokenised_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("tokenised")
    studio = tiny_studio(home)
    run(studio, "tokenize", TokenizeConfig(dataset="stories", model="tiny", context=32))
    studio.close()
    return home


@pytest.fixture
def studio(tokenised_home: Path, tmp_path: Path) -> Iterator[Studio]:
    shutil.copytree(tokenised_home / "data", tmp_path / "home")
    made = Studio(Paths.at(tmp_path / "home"))
    yield made
    made.close()


@pytest.fixture
def tab(qtbot: QtBot, services: Services) -> ModelsTab:
    return open_tab(qtbot, services)


def open_dialog(qtbot: QtBot, tab: ModelsTab, what: str) -> Any:
    model = MODELS.select(tab.services.studio.db())[0]
    tab.act_on(model.id, what)
    settle(qtbot, tab.services)
    return tab._dialogs[f"{what} {model.id}"]


def test_extract_then_browse_verify_export_and_delete(
    qtbot: QtBot, tab: ModelsTab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialog = open_dialog(qtbot, tab, "extract")
    assert isinstance(dialog, ExtractDialog)
    assert not dialog.button.isEnabled()
    assert dialog.form.values().dataset.startswith("tok_")  # the only matching one
    qtbot.mouseClick(dialog.grid.toggles[1], Qt.MouseButton.LeftButton)
    qtbot.mouseClick(dialog.grid.toggles[3], Qt.MouseButton.LeftButton)
    assert dialog.grid.title.text() == "Layers (2 selected)"
    dialog.form.set_values({"rows": 16, "batch": "8", "top_k": 10, "hooks": ["mlp_in"]})
    settle(
        qtbot, tab.services, lambda: "511 tokens × width 32 × 2 layers × 1 hook" in shown(dialog)
    )
    assert "in FP16 = 72.1 kB" in shown(dialog)  # 511 × (2 × 32 × 2 + 13) bytes
    dialog.estimate.probe.click()
    settle(qtbot, tab.services, lambda: "Time: about" in shown(dialog))
    dialog.submit()
    settle(qtbot, tab.services, lambda: len(tab.sets._found.sets) == 1)
    row = ACTIVATION_SETS.select(tab.services.studio.db())[0]
    assert (row.layers, row.hooks, row.status) == ("1,3", "mlp_in", "completed")
    assert tab.sources.current() == "sets"
    assert tab.sets.table.texts()[0][2:5] == ["1, 3", "mlp_in", "512"]
    browse(qtbot, tab)
    export(qtbot, tab, tmp_path / "out.npy")
    monkeypatch.setattr("mistudio.gui.tabs.library.deleting.confirm", lambda *a, **k: True)
    tab.sets.delete_button.click()
    settle(qtbot, tab.services, lambda: not tab.sets._found.sets)
    assert ACTIVATION_SETS.select(tab.services.studio.db()) == []
    assert not tab.sets.table.isVisible()


def test_an_estimate_tells_the_width_of_each_hook(qtbot: QtBot, services: Services) -> None:
    """Heads may be wider than the stream; what is multiplied is what is stored."""
    db = services.studio.db()
    model = MODELS.select(db)[0]
    known = {**(model.layer_map or {}), "widths": {"resid_post": 32, "attn_z": 64}}
    MODELS.update(db, model.id, layer_map=known)
    tab = open_tab(qtbot, services)
    dialog = open_dialog(qtbot, tab, "extract")
    qtbot.mouseClick(dialog.grid.toggles[1], Qt.MouseButton.LeftButton)
    dialog.form.set_values({"rows": 16, "hooks": ["attn_z"]})
    settle(qtbot, tab.services, lambda: "511 tokens × width 64 × 1 layer × 1 hook" in shown(dialog))
    dialog.form.set_values({"hooks": ["resid_post", "attn_z"]})
    settle(qtbot, tab.services, lambda: "511 tokens × widths 32 + 64 × 1 layer" in shown(dialog))
    assert "in FP16 = 104.8 kB" in shown(dialog)  # 511 × (2 × 96 + 13) bytes


def shown(dialog: ExtractDialog) -> str:
    return dialog.estimate.text.text()


def browse(qtbot: QtBot, tab: ModelsTab) -> None:
    tab.sets.open_button.click()
    row = ACTIVATION_SETS.select(tab.services.studio.db())[0]
    key = f"set {row.id}"
    settle(qtbot, tab.services, lambda: key in tab._dialogs)
    dialog = tab._dialogs[key]
    assert isinstance(dialog, ActivationSetDialog)
    assert dialog.which.itemText(1) == "Layer 3 · MLP input (mlp_in)"
    dialog.next.click()
    settle(qtbot, tab.services, lambda: dialog.strongest.rowCount() == 10)
    found = dialog.current()
    assert found is not None
    assert found.layer == 3
    assert dialog.tiles["tokens"].value() == "512"
    xs, ys = dialog.plots.means.points("mean")
    assert len(xs) == 32
    assert np.array_equal(ys, found.mean_D)
    top = found.strongest[0]
    assert dialog.strongest.texts()[0][0] == f"{top.norm:.4g}"
    assert dialog.strongest.texts()[0][3:] == [str(top.row), str(top.position), f"{top.token_id}"]
    dialog.close()


def export(qtbot: QtBot, tab: ModelsTab, out: Path) -> None:
    tab.sets.export_button.click()
    dialog = tab.findChildren(ExportDialog)[-1]
    dialog.form.set_values({"layer": "3", "hook": "mlp_in", "out": str(out)})
    dialog.submit()
    settle(qtbot, tab.services, out.exists)
    assert np.load(out).shape == (512, 32)


def test_no_room_refuses_the_extraction(
    qtbot: QtBot, tab: ModelsTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialog = open_dialog(qtbot, tab, "extract")
    monkeypatch.setattr("mistudio.jobs.activation_pages.free_room", lambda studio: (100, 0))
    dialog.grid.set_value("all")
    settle(qtbot, tab.services, lambda: dialog.estimate.refusal.isVisible())
    assert "100 B are free" in dialog.estimate.refusal.text()
    assert not dialog.button.isEnabled()
    assert not dialog.estimate.probe.isEnabled()
    dialog.close()


def test_templates_load_drop_missing_layers_save_star_and_go(
    qtbot: QtBot, tab: ModelsTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialog = open_dialog(qtbot, tab, "extract")
    panel = dialog.templates
    lines = {line.row.name: line for line in panel.lines}
    assert set(lines) == {"Quick Scan", "Full Analysis"}
    assert panel.heading.text() == "Templates (2)"
    lines["Quick Scan"].load.click()
    settle(qtbot, tab.services)
    config = dialog.form.values()
    assert (config.layers, config.rows, config.top_k) == ("0", 5000, 50)
    assert config.dataset.startswith("tok_")
    assert dialog.note.text() == "This model has no layer 6, 11; left out."
    lines["Full Analysis"].load.click()
    settle(qtbot, tab.services)
    assert dialog.grid.value() == "all"
    assert len(dialog.form.values().hooks) == 4
    panel.name.setText("mine")
    panel.save_button.click()
    settle(qtbot, tab.services, lambda: len(panel.lines) == 3)
    mine = next(line for line in panel.lines if line.row.name == "mine")
    assert (mine.row.config["model"], mine.row.config["layers"]) == ("", "all")
    mine.star.click()
    settle(qtbot, tab.services, lambda: panel.lines[0].row.name == "mine")
    monkeypatch.setattr("mistudio.gui.tabs.models.template_panel.confirm", lambda *a, **k: True)
    panel.lines[0].delete.click()
    settle(qtbot, tab.services, lambda: len(panel.lines) == 2)
    assert TEMPLATES.select(tab.services.studio.db(), "name = 'mine'") == []
    dialog.close()


def test_prompt_lens_grid_by_keyboard_and_as_a_table(qtbot: QtBot, tab: ModelsTab) -> None:
    dialog = open_dialog(qtbot, tab, "lens")
    assert isinstance(dialog, PromptLensDialog)
    dialog.prompt.setPlainText("")
    dialog.run()
    assert dialog.job.problem.text() == "Prompt is missing."
    dialog.prompt.setPlainText("once upon a time")
    qtbot.keyClick(dialog.prompt, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
    settle(qtbot, tab.services, lambda: dialog._grid_model is not None)
    result = JOBS.select(tab.services.studio.db(), "kind = 'prompt_lens'")[0].result
    assert result is not None
    model = dialog.grid.model()
    positions = len(result["tokens"])
    assert (model.rowCount(), model.columnCount()) == (5, positions)
    assert [model.headerData(i, Qt.Orientation.Vertical) for i in (0, 4)] == ["L3", "Embed"]
    current = dialog.grid.currentIndex()
    assert (current.row(), current.column()) == (0, positions - 1)
    qtbot.keyClick(dialog.grid, Qt.Key.Key_Down)
    qtbot.keyClick(dialog.grid, Qt.Key.Key_Left)
    current = dialog.grid.currentIndex()
    assert (current.row(), current.column()) == (1, positions - 2)
    text, share = result["cells"][-2][-2][0]  # the second layer from the end
    assert f"{100 * share:.2f} %" in dialog.details.text()
    tip = model.data(current, Qt.ItemDataRole.ToolTipRole)
    assert len(tip.splitlines()) == 6
    assert text.strip() in tip
    dialog.copy()
    table = QGuiApplication.clipboard().text().splitlines()
    assert len(table) == 6
    assert table[1].split("\t")[0] == "L3"
    assert len(table[1].split("\t")) == positions + 1
    dialog.close()


def test_format_dialog_estimates_and_changes(
    qtbot: QtBot, tab: ModelsTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answer_jobs(monkeypatch, "check_model", {"format": "bf16", "memory_bytes": 123_000})
    memory = DeviceMemory("cpu", 1_010_000_000, 2_000_000_000)
    monkeypatch.setattr(model_pages, "device_memory", lambda studio: memory)
    dialog = open_dialog(qtbot, tab, "format")
    assert isinstance(dialog, FormatDialog)
    names = {form: mark.accessibleName() for form, mark in dialog.formats.buttons.items()}
    assert names["fp32"] == "FP32 · about 500.2 MB · fits well · Recommended"
    assert not dialog.button.isEnabled()  # it is in FP32 already
    dialog.formats.buttons["nf4"].click()
    assert dialog.button.isEnabled()
    dialog.submit()
    settle(qtbot, tab.services, lambda: "is used" in dialog.state.text())
    assert asked[0].format == "nf4"
    assert dialog.state.text() == "NF4 does not work on this device; BF16 is used."
    assert dialog.now.text() == "Now in BF16; measured after loading: 123.0 kB in memory."
    dialog.close()


def test_report_dialog_shows_what_is_stored(
    qtbot: QtBot, tab: ModelsTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {
        "format": "int8",
        "reference": "bf16",
        "agreement": 0.98765,
        "kl": 0.00123,
        "perplexity": 20.5,
        "reference_perplexity": 20.25,
        "tokens": 2044,
    }
    model = MODELS.select(tab.services.studio.db())[0]
    asked = answer_jobs(monkeypatch, "report_model", values)
    dialog = open_dialog(qtbot, tab, "report")
    assert isinstance(dialog, ReportDialog)
    assert dialog.none.isVisible()
    dialog.submit()
    assert "Dataset is missing." in dialog.form.fields["dataset"].problem.text()
    dialog.texts.combo.setCurrentIndex(1)
    MODELS.update(tab.services.studio.db(), model.id, report={"int8": values})
    dialog.submit()
    settle(qtbot, tab.services, lambda: dialog.table.rowCount() == 1)
    assert asked[0].format == "int8"
    assert dialog.agreement.value() == "98.77 %"
    line = ["INT8", "BF16", "98.77 %", "0.0012", "20.50", "20.25", "2,044"]
    assert dialog.table.texts() == [line]
    assert not dialog.none.isVisible()
    dialog.copy()
    assert QGuiApplication.clipboard().text().splitlines()[1] == "\t".join(line)
    dialog.close()


def test_a_set_that_ended_early_says_why_and_can_go_on(qtbot: QtBot, tab: ModelsTab) -> None:
    db = tab.services.studio.db()
    ACTIVATION_SETS.insert(
        db,
        name="broken",
        layers="0,1,2,5",
        hooks="resid_post",
        status="failed",
        error_message="The disk is full.",
    )
    tab.sources.open("sets")
    tab.sets.read()
    settle(qtbot, tab.services, lambda: tab.sets.table.rowCount() == 1)
    assert not tab.sets.bar.isVisible()
    assert tab.sets.table.texts()[0][2] == "0–2, 5"
    assert tab.sets.problem.text() == "The disk is full."
    assert not tab.sets.open_button.isEnabled()
    assert tab.sets.delete_button.isEnabled()


def test_layer_words() -> None:
    assert layer_words("0,1,2,5,7,8") == "0–2, 5, 7–8"
    assert layer_words(None) == "—"


def test_a_model_without_a_lens_says_why(qtbot: QtBot, tab: ModelsTab) -> None:
    row = add_model(tab.services, name="no lens", layer_map={"lens_why": "It has no output."})
    tab.refresh()
    settle(qtbot, tab.services, lambda: row.id in tab._cards)
    card: Any = tab._cards[row.id]
    assert not card.lens.isEnabled()
    assert "It has no output." in card.lens.toolTip()


def test_a_new_extraction_is_chosen_and_pauses(
    qtbot: QtBot, tab: ModelsTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = tab.services.studio.db()
    older = ACTIVATION_SETS.insert(
        db, name="older", layers="0", hooks="mlp_out", status="completed"
    )
    tab.sources.open("sets")
    tab.sets.read()
    settle(qtbot, tab.services, lambda: tab.sets.chosen() is not None)
    running = ACTIVATION_SETS.insert(
        db,
        name="newer",
        layers="0",
        hooks="mlp_out",
        status="extracting",
        created_at="2000-01-01T00:00:00",
    )
    job = add_job(db, "extract_activations", "gpu", "Extract", {}, target_id=running.id)
    JOBS.update(db, job.id, status="running", progress=40.0, pid=os.getpid())
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(tab.services.lanes, "request", lambda *what: asked.append(what))
    tab.sets.choose_of(job.id)
    qtbot.waitUntil(lambda: (row := tab.sets.chosen()) is not None and row.id == running.id)
    assert tab.sets.table.texts()[1][-1] == "Extracting 40.0 %"
    assert tab.sets.bar.value() == 40.0
    assert tab.sets.go_button.text() == "Pause"
    assert not tab.sets.delete_button.isEnabled()
    tab.sets.go_button.click()
    tab.sets.cancel_button.click()
    assert asked == [(job.id, "pause"), (job.id, "cancel")]
    JOBS.delete(db, job.id)
    assert older.id == tab.sets._found.sets[0].id


def test_vectors_are_imported_shown_and_handed_to_the_training(
    qtbot: QtBot, tab: ModelsTab, tmp_path: Path, window_stub: Any
) -> None:
    rows = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
    np.save(tmp_path / "own.npy", rows)
    tab.sources.open("sets")
    tab.sets.import_button.click()
    dialog = tab.findChildren(ImportVectorsDialog)[-1]
    dialog.submit()
    assert dialog.form.fields["path"].problem.text() == "File is missing."
    dialog.form.set_values({"path": str(tmp_path / "own.npy")})
    dialog.submit()
    db = tab.services.studio.db()
    settle(qtbot, tab.services, lambda: bool(ACTIVATION_SETS.select(db)))
    (row,) = ACTIVATION_SETS.select(db)
    settle(qtbot, tab.services, lambda: tab.sets.table.rowCount() == 1)
    assert tab.sets.table.texts()[0][:5] == ["own", "imported", "—", "—", "64"]
    tab.sets.train_button.click()
    assert window_stub.opened[-1] == ("Training", {"activations": row.id})
    tab.sets.open_button.click()
    key = f"set {row.id}"
    settle(qtbot, tab.services, lambda: key in tab._dialogs)
    shown = tab._dialogs[key]
    assert isinstance(shown, ActivationSetDialog)
    settle(qtbot, tab.services, lambda: shown.strongest.rowCount() > 0)
    strongest = int(np.linalg.norm(rows, axis=1).argmax())
    assert shown.strongest.texts()[0][3] == str(strongest)
    hidden = [shown.strongest.isColumnHidden(column) for column in range(6)]
    assert hidden == [False, True, True, False, True, True]
    assert shown.which.isHidden()
    shown.close()
