"""What a run reaches on held-out text is shown with its interval, tokens and documents."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PySide6.QtCore import Qt

from mistudio.core.held_out_looks import row_of
from mistudio.gui.reporting import Drained
from mistudio.gui.services import Services
from mistudio.gui.tabs.training.compare_runs import CompareRuns
from mistudio.gui.tabs.training.evaluation_pane import RunEvaluationPane
from mistudio.gui.tabs.training.reads import Run, read_run
from mistudio.gui.tabs.training.run_card import RunCard
from mistudio.gui.tabs.training.run_metrics import RunMetricsPane
from mistudio.jobs.metric_files import write_csv
from mistudio.store import trainings
from mistudio.store.records import TrainingRow
from tests.gui.training_world import add_training, add_world, metric_row

COUNTS = [0] * 10 + [5, 40, 60, 20, 3] + [0] * 13
TITLE = "Explained variance (held out)"


def look(step: int, ev: float) -> dict[str, Any]:
    """A row as a job of today tells it."""
    figures = {
        "ev": ev, "l0": 8.5, "dead": 0.25, "n": 32_768, "documents": 412, "dead_bound": 9.2e-5,
        "density_below_1e-6": 0.25, "density_below_1e-5": 0.25, "density_above_1e-2": 0.125,
        "density_above_1e-1": 0.0, "density_histogram": COUNTS,
        "intervals": {"ev": [ev - 0.05, ev + 0.1], "l0": [8.25, 8.75]},
    }  # fmt: skip
    return {"step": step, "tokens": 64 * step, "train_seconds": 6.0 * step, **row_of(figures)}


def followed(services: Services, status: str = "training") -> TrainingRow:
    """A run that an earlier version measured at step 100 and this one at 200 and 300."""
    db = services.studio.db()
    row, _ = add_training(db, add_world(db), status, current_step=300)
    old = {"step": 100, "tokens": 6400, "heldout_ev": 0.25, "heldout_l0": 9.0, "heldout_n": 300}
    steps = [metric_row(row.id, step) for step in range(10, 301, 10)]
    trainings.add_metrics(db, row, [*steps, old, look(200, 0.5), look(300, 0.75)])
    return row


def stored(services: Services, row: TrainingRow) -> Run:
    run = read_run(services.studio.db(), row.id)
    assert run is not None
    return run


def pane_of(qtbot: Any, services: Services, row: TrainingRow) -> RunMetricsPane:
    pane = RunMetricsPane(stored(services, row), services)
    qtbot.addWidget(pane)
    pane.resize(1200, 700)
    pane.show()
    for name in ("heldout_ev", "heldout_l0", "heldout_dead"):
        qtbot.mouseClick(pane.toggles[name], Qt.MouseButton.LeftButton)
    last = "heldout_dead"
    qtbot.waitUntil(lambda: last in pane.plots and pane.plots[last].isVisible())
    return pane


def test_points_have_their_intervals(qtbot: Any, services: Services) -> None:
    pane = pane_of(qtbot, services, followed(services))
    plot = pane.plots["heldout_ev"]
    assert plot._legend.toolTip() == "0.7500 [0.7000, 0.8500]"
    plot.set_cursor(210.0)
    assert plot._legend.toolTip() == "step 200, 0.5000 [0.4500, 0.6000]"
    plot.set_cursor(90.0)
    assert plot._legend.toolTip() == "step 100, 0.2500", "an earlier version kept none"
    plot.set_cursor(None)
    assert pane.plots["heldout_l0"]._legend.toolTip() == "8.5 [8.2, 8.8]"
    bounds = plot._series[TITLE].bounds
    assert bounds is not None
    xs, ys = bounds.drawn()
    assert xs.tolist() == [100, 100, 100, 200, 200, 200, 300, 300, 300]
    none = float("nan")
    wanted = [none, none, none, 0.45, 0.6, none, 0.7, 0.85, none]
    assert ys.tolist() == pytest.approx(wanted, nan_ok=True)
    assert "32,768 tokens of 412 documents" in plot.title.toolTip()
    dead = pane.plots["heldout_dead"]
    assert "fires on less than 9.2e-05 (95 %)" in dead.title.toolTip()
    assert dead._series["Never fired (held out, %)"].bounds is None
    assert pane.plots["loss"].title.toolTip() == ""


def test_new_points_and_tables_and_axes_keep_them(qtbot: Any, services: Services) -> None:
    pane = pane_of(qtbot, services, followed(services))
    plot = pane.plots["heldout_ev"]
    pane.add([look(350, 0.8)])
    assert plot._legend.toolTip() == "0.8000 [0.7500, 0.9000]"
    pane.tools.x_axis.setCurrentIndex(1)  # which makes the curves anew
    bounds = plot._series[TITLE].bounds
    assert bounds is not None
    assert bounds.drawn()[0][-1] == 64 * 350
    items = plot._plot_item.listDataItems()
    assert len(items) == 2, "those before are gone"
    plot.log_button.setChecked(True)
    assert np.nanmax(bounds._lines.getData()[1]) == pytest.approx(np.log10(0.9))
    plot.table_button.setChecked(True)
    model = plot._model
    heads = [model.headerData(i, Qt.Orientation.Horizontal) for i in range(model.columnCount())]
    assert heads == ["tokens", TITLE, "95 % from", "95 % to"]
    texts = [model.data(model.index(1, column)) for column in range(4)]
    assert texts == ["12,800", "0.5", "0.45", "0.6"]
    assert model.data(model.index(0, 2)) == "—"


def test_compared_runs_have_them_too(qtbot: Any, services: Services) -> None:
    dialog = CompareRuns(services, [followed(services).id])
    qtbot.addWidget(dialog)
    dialog.show()
    qtbot.waitUntil(lambda: dialog.plot.names() == ["A"])
    dialog.metric_box.setCurrentText("L0 (held out)")
    assert dialog.plot._legend.toolTip() == "8.5 [8.2, 8.8]"


def test_the_card_tells_them_of_a_stored_row_and_of_a_live_one(
    qtbot: Any, services: Services
) -> None:
    card = RunCard(stored(services, followed(services)), services)
    qtbot.addWidget(card)
    tile = card.tiles["ev"]
    assert tile._detail.text() == "held out 0.7500"
    assert "of 412 documents held out: explained variance 0.7500 [0.7000, 0.8500]" in tile.toolTip()
    card.take([look(350, 0.8)], Drained())
    assert "0.8000 [0.7500, 0.9000], L0 8.5" in tile.toolTip()


def test_a_run_without_an_sae_shows_its_newest_look(qtbot: Any, services: Services) -> None:
    row = followed(services)
    pane = RunEvaluationPane(stored(services, row), services)
    qtbot.addWidget(pane)
    lines = {line[0]: line[1:] for line in pane.table.texts()}
    assert lines["Explained variance"] == ["0.7500", "0.7000 to 0.8500", "32,768"]
    assert lines["L0"] == ["8.50", "8.25 to 8.75", "32,768"]
    assert lines["Never fired"][0] == "25.00 %"
    assert lines["More often than 1e-2"][0] == "12.50 %"
    assert not pane.histogram.isHidden()
    assert pane.histogram._counts.tolist() == COUNTS
    assert pane.histogram._edges[[0, 10, -1]].tolist() == [-7.0, -4.5, 0.0]
    assert pane.empty.text().startswith("Step 300, as the run was followed.")
    assert pane.evaluate_button.isHidden()
    trainings.add_metrics(services.studio.db(), row, [look(350, 0.8)])
    pane.show_run(stored(services, row))
    assert pane.table.texts()[1][1] == "0.8000"


def test_csv_holds_them(services: Services, tmp_path: Path) -> None:
    row = followed(services)
    write_csv(services.studio, [row.id], tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as stream:
        lines = {int(line["step"]): line for line in csv.DictReader(stream)}
    for name, value in row_of_step(300).items():
        assert lines[300][name] == str(value), name
    assert lines[100]["heldout_ev_low"] == ""


def row_of_step(step: int) -> dict[str, Any]:
    return {name: value for name, value in look(step, 0.75).items() if name.startswith("heldout")}
