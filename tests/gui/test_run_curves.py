"""The curves of a run: axes, smoothing, zoom, crosshair, comparison, export."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication

from mistudio.core.config import to_dict
from mistudio.core.training_configs import TrainConfig
from mistudio.gui.services import Services
from mistudio.gui.tabs.training.compare_runs import CompareRuns
from mistudio.gui.tabs.training.curves import points_of
from mistudio.gui.tabs.training.metrics_pane import MetricsPane
from mistudio.gui.tabs.training.reads import read_metrics, read_run
from mistudio.gui.tabs.training.run_choices import differing, read_groups
from mistudio.gui.tabs.training.run_metrics import RunMetricsPane
from mistudio.gui.tabs.training.series import is_rising
from mistudio.gui.widgets.decimate import decimated
from mistudio.gui.widgets.plots import MAX_POINTS, CurvePlot, nearest
from mistudio.jobs.metric_files import file_name, write_csv
from mistudio.store import trainings
from mistudio.store.records import TrainingRow
from tests.gui.training_world import add_training, add_world, metric_row


def measured(services: Services, steps: int = 500, **values: Any) -> TrainingRow:
    """A run with a row every ten steps; the first half of its rows has no time."""
    db = services.studio.db()
    world = values.pop("world", None) or add_world(db)
    row, _ = add_training(db, world, "completed", current_step=steps, **values)
    rows = [
        {
            **metric_row(row.id, step),
            "learning_rate": 1e-4,
            "reconstruction": 0.1 + 0.2,
            "memory_bytes": 1_500_000_000 + 1_000_000 * step,
            "train_seconds": None if step <= steps // 2 else 6.0 * step,
        }
        for step in range(10, steps + 1, 10)
    ]
    trainings.add_metrics(db, row, rows)
    return row


def pane_of(qtbot: Any, services: Services, row: TrainingRow) -> RunMetricsPane:
    run = read_run(services.studio.db(), row.id)
    assert run is not None
    pane = RunMetricsPane(run, services)
    qtbot.addWidget(pane)
    pane.resize(1200, 700)
    pane.show()

    def is_drawn() -> bool:
        plots = [pane.plots.get(name) for name in pane.shown_charts()]
        return len(pane.series) > 0 and all(plot and plot.isVisible() for plot in plots)

    qtbot.waitUntil(is_drawn)
    return pane


def test_charts_are_chosen_and_remembered(qtbot: Any, services: Services) -> None:
    row = measured(services)
    pane = pane_of(qtbot, services, row)
    assert pane.shown_charts() == ["loss", "l0", "dead", "explained_variance"]
    qtbot.mouseClick(pane.toggles["learning_rate"], Qt.MouseButton.LeftButton)
    qtbot.mouseClick(pane.toggles["l0"], Qt.MouseButton.LeftButton)
    qtbot.waitUntil(
        lambda: "learning_rate" in pane.plots and pane.plots["learning_rate"].isVisible()
    )
    assert pane.plots["l0"].isHidden()
    assert pane.plots["learning_rate"].points("Learning rate")[1].tolist() == [1e-4] * 50
    again = pane_of(qtbot, services, row)
    assert again.shown_charts() == ["loss", "dead", "explained_variance", "learning_rate"]


def test_making_and_drawing_a_chart_are_turns_of_their_own(
    qtbot: Any, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either takes so long that both at once are felt."""
    turns: list[set[str]] = []

    def told(owner: type, name: str, word: str) -> None:
        known = getattr(owner, name)

        def wrapped(self: Any, *arguments: Any) -> Any:
            if word == "turn":
                turns.append(set())
            else:
                turns[-1].add(word)
            return known(self, *arguments)

        monkeypatch.setattr(owner, name, wrapped)

    told(MetricsPane, "_draw_next", "turn")
    told(MetricsPane, "_make", "make")
    told(CurvePlot, "set_data", "draw")
    pane_of(qtbot, services, measured(services))
    assert turns.count({"make"}) == 4
    assert turns.count({"draw"}) >= 4
    assert {"make", "draw"} not in turns


def test_the_axis_is_steps_tokens_or_time(qtbot: Any, services: Services) -> None:
    pane = pane_of(qtbot, services, measured(services))
    plot = pane.plots["loss"]
    pane.tools.x_axis.setCurrentIndex(1)
    assert plot.points("Loss")[0].tolist() == [64.0 * step for step in range(10, 501, 10)]
    assert plot.plot.getAxis("bottom").labelText == "tokens"
    pane.tools.x_axis.setCurrentIndex(2)
    minutes, losses = plot.points("Loss")
    assert minutes.tolist() == pytest.approx([0.1 * step for step in range(260, 501, 10)])
    assert losses[-1] == pytest.approx(100 / 600), "rows without a time are left out"


def test_no_time_no_axis(qtbot: Any, services: Services) -> None:
    db = services.studio.db()
    row, _ = add_training(db, add_world(db), "completed")
    trainings.add_metrics(db, row, [metric_row(row.id, step) for step in (10, 20)])
    pane = pane_of(qtbot, services, row)
    assert not pane.tools.x_axis.model().item(2).isEnabled()  # type: ignore[attr-defined]


def test_zoom_is_shared_and_reset(qtbot: Any, services: Services) -> None:
    pane = pane_of(qtbot, services, measured(services))
    before = pane.plots["loss"].shown()
    pane.tools.in_button.click()
    inside = pane.plots["l0"].shown()
    assert inside[1] - inside[0] == pytest.approx((before[1] - before[0]) / 2)
    pane.plots["loss"].show_between(100, 200)
    pane.plots["loss"].view.sigRangeChangedManually.emit([True, False])
    assert pane.plots["dead"].shown() == pytest.approx((100, 200))
    pane.tools.all_button.click()
    assert pane.plots["dead"].view.autoRangeEnabled()[0]


def test_the_crosshair_tells_values_in_every_chart(qtbot: Any, services: Services) -> None:
    pane = pane_of(qtbot, services, measured(services))
    pane.plots["dead"].hovered.emit(104.0)
    legend = pane.plots["loss"]._legend
    assert "step 100" in legend.text()
    assert "0.5000" in legend.text()
    pane.plots["dead"].hovered.emit(None)
    assert f"{100 / 600:.4f}" in legend.text()
    assert "step" not in legend.text()


def test_warnings_are_drawn_from_the_rows(qtbot: Any, services: Services) -> None:
    pane = pane_of(qtbot, services, measured(services))
    assert pane.rising.isHidden()
    assert pane.dead.isHidden()
    tail = [{"step": 500 + 10 * i, "loss": 1.0 + 0.1 * i, "dead": 64} for i in range(1, 41)]
    pane.add(tail)
    assert not pane.rising.isHidden()
    assert not pane.dead.isHidden(), "64 of 256 latents"
    assert not is_rising(np.array([1.0, 1.1] * 30))
    assert not is_rising(np.linspace(0, 1, 30)), "too few rows to tell"


def test_held_out_figures_are_points_and_leave_no_gap(qtbot: Any, services: Services) -> None:
    row = measured(services)
    held = [
        {"step": step, "tokens": 64 * step, "train_seconds": 6.0 * step, "heldout_ev": ev,
         "heldout_l0": 8.5, "heldout_dead": 0.25, "heldout_n": 32_768}
        for step, ev in ((105, 0.25), (200, 0.5), (505, 0.75))
    ]  # fmt: skip
    db = services.studio.db()
    trainings.add_metrics(db, row, held)
    stored = {kept["step"]: kept for kept in trainings.metrics(db, row.id)}
    assert len(stored) == 52
    assert (stored[200]["loss"], stored[200]["heldout_ev"]) == (pytest.approx(1 / 3), 0.5)
    assert (stored[105]["loss"], stored[105]["heldout_dead"]) == (None, 0.25)
    trainings.add_metrics(db, row, [{**held[1], "heldout_ev": 0.99, "loss": 9.0}])
    assert trainings.metrics(db, row.id)[20] == stored[200], "as it was first measured"

    pane = pane_of(qtbot, services, row)
    assert len(pane.plots["loss"].points("Loss")[0]) == 50
    assert pane.dead.isHidden()
    qtbot.mouseClick(pane.toggles["heldout_ev"], Qt.MouseButton.LeftButton)
    qtbot.mouseClick(pane.toggles["heldout_dead"], Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: "heldout_dead" in pane.plots and pane.plots["heldout_dead"].isVisible())
    plot = pane.plots["heldout_ev"]
    title = "Explained variance (held out)"
    assert [list(values) for values in plot.points(title)] == [[105, 200, 505], [0.25, 0.5, 0.75]]
    drawn: Any = plot._series[title].item
    assert drawn.opts["symbol"] == "o"
    assert pane.plots["heldout_dead"].points("Never fired (held out, %)")[1].tolist() == [25.0] * 3
    pane.tools.smooth_button.click()
    assert plot.names() == [title], "of three points there is nothing to smooth"
    # of a running job: the row of the step came first
    pane.add([{**metric_row(row.id, 510)}])
    pane.add([{"step": 510, "heldout_ev": 0.8, "heldout_l0": 8.0, "heldout_dead": 0.0}])
    assert plot.points(title)[1].tolist() == [0.25, 0.5, 0.75, 0.8]
    assert len(pane.series.told("loss")) == 51
    assert pane.series.behind() == 509


def test_thinned_curves_keep_peaks_and_gain_detail_when_zoomed(
    styled: QApplication, qtbot: Any
) -> None:
    xs = np.arange(100_000.0)
    ys = np.zeros(100_000)
    ys[70_001], ys[5] = 9.0, np.nan
    few_x, few_y = decimated(xs, ys, 1000)
    assert len(few_x) <= 1200
    assert np.nanmax(few_y) == 9.0
    assert (few_x[0], few_x[-1]) == (0.0, 99_999.0)
    assert np.all(np.diff(few_x) > 0)
    plot = CurvePlot("Loss")
    qtbot.addWidget(plot)
    plot.set_data("loss", xs, ys)
    plot.show_between(70_000, 70_100)
    drawn: Any = plot._series["loss"].item.getOriginalDataset()[0]
    assert len(drawn) <= MAX_POINTS
    assert set(range(70_000, 70_101)) <= set(drawn.tolist()), "every point in view is drawn"
    assert [nearest(xs, x) for x in (-5, 3.4, 3.6, 1e9)] == [0, 3, 4, 99_999]


def test_memory_is_a_curve_in_gigabytes(qtbot: Any, services: Services) -> None:
    pane = pane_of(qtbot, services, measured(services))
    qtbot.mouseClick(pane.toggles["memory_bytes"], Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: "memory_bytes" in pane.plots)
    x, y = points_of(pane.series, "memory_bytes", "step", 1)
    assert (x[0], x[-1], len(x)) == (10, 500, 50)
    assert (y[0], y[-1]) == (pytest.approx(1.51), pytest.approx(2.0))


def test_csv_holds_the_stored_numbers(services: Services, tmp_path: Path) -> None:
    row = measured(services)
    path = tmp_path / file_name(row.name, "curves", "csv")
    assert path.name == "run_completed_curves.csv"
    assert write_csv(services.studio, [row.id], path) == 50
    with path.open(newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    stored = trainings.metrics(services.studio.db(), row.id)
    for line, kept in zip(lines, stored, strict=True):
        assert line["run"] == row.id
        assert int(line["memory_bytes"]) == 1_500_000_000 + 1_000_000 * int(line["step"])
        for name, value in kept.items():
            told = line[name]
            assert (None if told == "" else type(value)(told)) == value, name


def test_pictures_and_a_place_that_cannot_be_written(
    qtbot: Any, services: Services, window_stub: Any, tmp_path: Path
) -> None:
    pane = pane_of(qtbot, services, measured(services))
    pane.export.write(tmp_path / "a.png", "png")
    pane.export.write(tmp_path / "a.svg", "svg")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "a.svg").read_text(encoding="utf-8")
    blocked = tmp_path / "file"
    blocked.write_text("")
    pane.export.write(blocked / "a.png", "png")
    pane.export.write(blocked / "a.csv", "csv")
    qtbot.waitUntil(lambda: len(window_stub.banners) == 4)
    assert window_stub.banners[:2] == ["a.png is written.", "a.svg is written."]
    assert all("a." in sentence for sentence in window_stub.banners[2:])
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "home") == [
        "a.png",
        "a.svg",
        "file",
    ]


def test_runs_side_by_side(qtbot: Any, services: Services) -> None:
    db = services.studio.db()
    world = add_world(db)
    config = TrainConfig(model=world.model, dataset=world.dataset, width=256, k=8)
    rows = [
        measured(
            services,
            100 + 100 * i,
            world=world,
            name=f"run {i}",
            config=to_dict(TrainConfig(**{**to_dict(config), "k": 8 + i})),
        )
        for i in range(9)
    ]
    dialog = CompareRuns(services, [rows[0].id])
    qtbot.addWidget(dialog)
    dialog.show()
    qtbot.waitUntil(lambda: dialog.plot.names() == ["A"])
    assert dialog.same.text() == "Choose a second run to see what differs."
    dialog.choose([row.id for row in rows])
    assert dialog.note.text() == "9 runs: the first 8 are shown."
    qtbot.waitUntil(lambda: len(dialog.plot.names()) == 8)
    assert len(dialog.plot.points("H")[0]) == 80
    texts = dialog.table.texts()
    assert texts[0] == ["Run", *(f"run {i}" for i in range(8))]
    assert texts[1] == ["k", *(str(8 + i) for i in range(8))]
    assert texts[2][0] == "Step", "only what differs, then the newest figures"
    item = dialog.list.item(0)
    assert item.text() == "run 8"
    item.setCheckState(Qt.CheckState.Checked)
    assert "take one away" in dialog.note.text()
    assert item.checkState() == Qt.CheckState.Unchecked
    dialog.list.item(1).setCheckState(Qt.CheckState.Unchecked)
    qtbot.waitUntil(lambda: len(dialog.plot.names()) == 7)
    dialog.metric_box.setCurrentIndex(2)
    assert dialog.plot.title.text() == "Dead latents (%)"


def test_a_sweep_is_chosen_at_once(qtbot: Any, services: Services) -> None:
    db = services.studio.db()
    world = add_world(db)
    rows = [measured(services, 50, world=world, name=f"L{i}", layer=i) for i in (5, 1, 3)]
    other = measured(services, 50, world=world, name="other")
    assert read_groups(db, [row.id for row in rows]) == {}, "also without such a column"
    columns = {row["name"] for row in db.query("SELECT name FROM pragma_table_info('trainings')")}
    with db.atomic():
        if "group_id" not in columns:
            db.execute("ALTER TABLE trainings ADD COLUMN group_id TEXT")
        for row in rows:
            db.execute("UPDATE trainings SET group_id = 'g' WHERE id = ?", [row.id])
    dialog = CompareRuns(services, [rows[0].id, other.id])
    qtbot.addWidget(dialog)
    dialog.show()
    qtbot.waitUntil(lambda: len(dialog.plot.names()) == 2)
    dialog.group_button.click()
    qtbot.waitUntil(lambda: len(dialog.plot.names()) == 3)
    assert dialog.chosen() == [rows[1].id, rows[2].id, rows[0].id]


def test_the_mean_of_runs_is_drawn_where_all_told(qtbot: Any, services: Services) -> None:
    db = services.studio.db()
    world = add_world(db)
    config = to_dict(TrainConfig(model=world.model, dataset=world.dataset, k=8))
    rows = [
        measured(services, steps, world=world, name=str(width), config={**config, "width": width})
        for steps, width in ((50, 100), (80, 300))
    ]
    higher = "UPDATE training_metrics SET loss = loss + 1, dead = 30 WHERE training_id = ?"
    with db.atomic():
        db.execute(higher, [rows[1].id])
    dialog = CompareRuns(services, [rows[0].id])
    qtbot.addWidget(dialog)
    dialog.show()
    qtbot.waitUntil(lambda: dialog.plot.names() == ["A"])
    assert dialog.mean_button.isHidden()
    dialog.choose([row.id for row in rows])
    qtbot.waitUntil(lambda: dialog.plot.names() == ["A", "B"])
    dialog.mean_button.click()
    assert dialog.plot.names() == ["A", "B", "mean"]
    xs, ys = dialog.plot.points("mean")
    assert list(xs) == [10, 20, 30, 40, 50]
    assert ys[0] == pytest.approx((100 / 110 + 100 / 110 + 1) / 2)
    dialog.metric_box.setCurrentIndex(2)
    _, ys = dialog.plot.points("mean")
    assert ys[0] == pytest.approx(100 * (10 % 7 + 30) / 400), "of all latents, not of each run's"
    dialog.mean_button.click()
    assert dialog.plot.names() == ["A", "B"]


def test_what_does_not_apply_is_no_difference(services: Services) -> None:
    db = services.studio.db()
    row, _ = add_training(db, add_world(db))
    base = TrainConfig(**row.config)

    def with_config(**changes: Any) -> TrainingRow:
        changed = dataclasses.replace(base, **changes)
        return dataclasses.replace(row, config=to_dict(changed))

    assert differing([row]) == []
    assert differing([row, with_config(target_l0=99.0, name="x")]) == []
    found = differing([row, with_config(architecture="jumprelu", seed=3)])
    assert [line[0] for line in found][:2] == ["Architecture", "k"]
    assert ["Seed", "0", "3"] in found
    assert next(line for line in found if line[0] == "k") == ["k", "8", "—"]


def test_columns_come_as_numbers(services: Services) -> None:
    row = measured(services, 100)
    columns = read_metrics(services.studio.db(), row.id, 50)
    assert columns["step"].tolist() == [60, 70, 80, 90, 100]
    assert np.isnan(columns["sparsity"]).all()
    with pytest.raises(ValueError, match="no metric column"):
        list(trainings.metric_chunks(services.studio.db(), row.id, ["step; --"]))
