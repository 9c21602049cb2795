"""Shared widgets: form, table over many rows, token text, plots, search, banners, layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PySide6.QtCore import QObject, QPoint, QPointF, Qt, Slot
from PySide6.QtGui import QFont, QGuiApplication
from PySide6.QtWidgets import QApplication, QLabel
from pytestqt.qtbot import QtBot

from mistudio.core.configs import HarvestConfig, SteerConfig
from mistudio.core.dataset_configs import ImportDatasetConfig, TokenizeConfig
from mistudio.core.training_configs import TrainConfig
from mistudio.gui.services import Services
from mistudio.gui.theme import DARK
from mistudio.gui.widgets.banner import BannerArea
from mistudio.gui.widgets.cards import Card
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.editors import ChoiceEditor, NumberBox, automatic_number
from mistudio.gui.widgets.histogram_plot import HistogramPlot
from mistudio.gui.widgets.layout import CardGrid, CenteredColumn, Collapsible, SearchField
from mistudio.gui.widgets.plots import MAX_POINTS, CurvePlot
from mistudio.gui.widgets.row_paint import RowPainter
from mistudio.gui.widgets.row_table import LATE, BlockTableModel, Column, RowTable
from mistudio.gui.widgets.token_layout import DETAIL, TokenLayout, TokenPiece, with_values
from mistudio.gui.widgets.token_text import TokenLine, TokenText


@pytest.fixture
def form(services: Services, qtbot: QtBot) -> ConfigForm[TrainConfig]:
    made = ConfigForm(TrainConfig, settings=services.settings, remember="train", command="train")
    qtbot.addWidget(made)
    return made


def test_form_begins_with_the_defaults(form: ConfigForm[TrainConfig]) -> None:
    assert form.values() == TrainConfig()
    assert not form.advanced.is_open()
    assert not form.fields["learning_rate"].isVisibleTo(form)
    assert form.fields["layer"].isVisibleTo(form)


def test_captions_tell_the_unit_once(form: ConfigForm[TrainConfig]) -> None:
    captions = {name: form.fields[name].caption.text() for name in ("eval_tokens", "batch", "k")}
    assert captions == {"eval_tokens": "Evaluation tokens", "batch": "Batch (tokens)", "k": "k"}


def test_numbers_take_scientific_notation_and_separators(form: ConfigForm[TrainConfig]) -> None:
    form.fields["learning_rate"].editor.set_value("5e-5")
    form.set_values({"tokens": "1,500,000", "width": "4e3"})
    assert form.values().learning_rate == 0.00005
    assert (form.values().tokens, form.values().width) == (1_500_000, 4000)


def test_every_violation_shows_beside_its_field(form: ConfigForm[TrainConfig]) -> None:
    form.set_values({"width": 0, "seed": -1, "k": "many", "batch": 1})
    assert form.checked() is None
    told = {name: field.problem.text() for name, field in form.fields.items()}
    assert told["width"] == "Latents must lie between 1 and 1,048,576."
    assert told["seed"] == "Seed must lie between 0 and 2,147,483,647."
    assert told["k"] == "k must be a whole number, not 'many'."
    assert told["model"] == "Model is missing."
    assert told["layer"] == ""
    assert form.fields["width"].editor.control.property("invalid") is True


def test_missing_values_are_named_only_when_asked(form: ConfigForm[TrainConfig]) -> None:
    assert form.fields["model"].problem.text() == ""
    form.set_values({"k": 9999, "model": "m", "dataset": "d"})
    assert form.fields["k"].problem.text() == "k is 9,999 but the SAE has 4,096 latents."


def test_form_remembers_resets_and_copies_its_command(
    form: ConfigForm[TrainConfig], services: Services, qtbot: QtBot
) -> None:
    form.set_values({"model": "sample", "dataset": "my text", "k": 16})
    assert form.checked() == TrainConfig(model="sample", dataset="my text", k=16)
    again = ConfigForm(TrainConfig, settings=services.settings, remember="train")
    qtbot.addWidget(again)
    assert again.values() == TrainConfig(model="sample", dataset="my text", k=16)
    form.copy_command()
    copied = QGuiApplication.clipboard().text()
    assert copied == "mistudio train --model sample --dataset 'my text' --k 16"
    again.reset()
    assert again.values() == TrainConfig()


def test_form_with_chosen_fields_keeps_hidden_values(services: Services, qtbot: QtBot) -> None:
    choice = ChoiceEditor([("m1", "First"), ("m2", "Second")])
    form = ConfigForm(TrainConfig, ["model", "k"], editors={"model": choice})
    qtbot.addWidget(form)
    form.set_values(TrainConfig(model="m2", dataset="d", seed=7, k=5))
    assert form.values() == TrainConfig(model="m2", dataset="d", seed=7, k=5)
    choice.set_choices([("m2", "Second")])
    assert form.values().model == "m2"


def test_lists_of_text_are_separated_by_commas(services: Services, qtbot: QtBot) -> None:
    form = ConfigForm(SteerConfig, ["feature", "prompt"])
    qtbot.addWidget(form)
    form.set_values({"feature": ("12=2:add", "40=1"), "prompt": "Once"})
    assert form.values().feature == ("12=2:add", "40=1")
    form.set_values({"feature": ("x",)})
    assert "is not of the form" in form.fields["feature"].problem.text()


def test_number_box_steps_by_magnitude(styled: QApplication, qtbot: QtBot) -> None:
    box = NumberBox(whole=False, minimum=0.0, maximum=0.1)
    qtbot.addWidget(box)
    box.set_number(0.0002)
    box.stepBy(1)
    assert float(box.text_value()) == pytest.approx(0.00021)
    box.stepBy(-100)
    assert float(box.text_value()) == 0.0
    box.set_number(0.123456)
    assert box.lineEdit().cursorPosition() == 0  # so that a narrow box shows the beginning
    whole = NumberBox(whole=True, minimum=1, maximum=100)
    qtbot.addWidget(whole)
    whole.set_number(4)
    qtbot.keyClick(whole, Qt.Key.Key_Up)
    assert whole.text_value() == "5"


class Sorted(QObject):
    def __init__(self, model: BlockTableModel) -> None:
        super().__init__()
        self.asked: list[tuple[str, bool]] = []
        model.sort_requested.connect(self.on_sort)

    @Slot(str, bool)
    def on_sort(self, key: str, descending: bool) -> None:
        self.asked.append((key, descending))


@pytest.fixture
def table(services: Services, qtbot: QtBot) -> Any:
    loads: list[int] = []

    def load(db: Any, ids: np.ndarray) -> list[Any]:
        loads.append(len(ids))
        return [{"id": int(i), "name": f"feature {i}"} for i in ids]

    columns = [
        Column("ID", lambda row: f"#{row['id']}", "feature_index", 90, numeric=True),
        Column("Label", lambda row: row["name"], tip=lambda row: "tip " + row["name"]),
    ]
    model = BlockTableModel(columns, load, services.query)
    view = RowTable(model, sorted_by=0)
    qtbot.addWidget(view)
    view.resize(600, 400)
    return model, view, loads


def test_100k_rows_load_only_what_is_seen(table: Any, services: Services, qtbot: QtBot) -> None:
    model, view, loads = table
    model.set_ids(np.arange(100_000)[::-1])
    view.show()
    qtbot.waitExposed(view)
    view.repaint()
    assert model.index(50_000, 1).data() == LATE
    qtbot.waitUntil(services.query.is_idle)
    assert model.index(0, 0).data() == "#99999"
    assert model.index(50_000, 1).data() == "feature 49999"
    assert sum(loads) <= 4 * 128
    view.scrollToBottom()
    view.repaint()
    qtbot.waitUntil(lambda: model.index(99_999, 0).data() == "#0")


def test_rows_look_as_the_style_draws_them(
    services: Services, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["plain", "two\nlines", "שלום rtl", "long " * 40, "tab\there", "日本 😀"]
    line = TokenLine((TokenPiece(" a", 1.0), TokenPiece(" b")), 2.0)
    columns = [
        Column("ID", lambda row: f"#{row}", width=90, numeric=True, role="emerald"),
        Column("Share", lambda row: f"{row} ½ %", width=60, numeric=True),
        Column("Text", lambda row: " a b", width=100, tokens=lambda row: line),
        Column("Label", lambda row: names[row], role=lambda row: "yellow" if row else ""),
    ]
    model = BlockTableModel(columns, lambda db, ids: [int(i) for i in ids], services.query)
    view = RowTable(model)
    qtbot.addWidget(view)
    view.resize(500, 400)
    view.show()
    qtbot.waitExposed(view)
    model.set_ids(np.arange(len(names)))

    def same() -> bool:
        drawn = view.viewport().grab().toImage()
        with monkeypatch.context() as patch:
            patch.setattr(RowPainter, "paint", lambda self, region, special: region)
            return drawn == view.viewport().grab().toImage()

    assert same()  # not loaded yet
    qtbot.waitUntil(lambda: model.has(0))
    assert same()
    view.selectRow(2)
    view.horizontalHeader().moveSection(3, 0)
    view.setColumnHidden(1, True)
    view.verticalScrollBar().setValue(7)
    assert same()


def test_plain_rows_ask_no_roles(table: Any, services: Services, qtbot: QtBot) -> None:
    model, view, _ = table
    model.set_ids(np.arange(1000))
    view.show()
    qtbot.waitExposed(view)
    qtbot.waitUntil(lambda: model.has(0))
    asked: list[int] = []
    model.data = lambda index, role=0: asked.append(index.row())
    view.setCurrentIndex(model.index(3, 0))
    asked.clear()
    view.viewport().grab()
    assert set(asked) == {3}
    view.selectionModel().clear()
    asked.clear()
    view.viewport().grab()
    assert not asked


def test_row_cache_is_bounded(table: Any, services: Services, qtbot: QtBot) -> None:
    model, _, _ = table
    model.set_ids(np.arange(100_000))
    model._keep = 8
    for position in range(0, 20 * 128, 128):
        model.row(position)
    qtbot.waitUntil(services.query.is_idle)
    assert list(model._blocks) == list(range(12, 20))


def test_old_answers_never_reach_a_new_order(table: Any, services: Services, qtbot: QtBot) -> None:
    model, _, _ = table
    model.set_ids([1, 2, 3])
    model.row(0)
    model.set_ids([7, 8])
    model.row(0)
    qtbot.waitUntil(services.query.is_idle)
    assert [model.row(i)["id"] for i in range(2)] == [7, 8]


def test_headers_ask_for_an_order_and_keys_open_rows(
    table: Any, services: Services, qtbot: QtBot
) -> None:
    model, view, _ = table
    model.set_ids([5, 6, 9])
    asked = Sorted(model)
    view.show()
    qtbot.waitExposed(view)
    header = view.horizontalHeader()
    for column in (0, 1, 0):  # the second cannot be sorted by
        place = QPoint(header.sectionViewportPosition(column) + 20, 10)
        qtbot.mouseClick(header.viewport(), Qt.MouseButton.LeftButton, pos=place)
    assert asked.asked == [("feature_index", False), ("feature_index", True)]
    assert header.sortIndicatorSection() == 0
    assert view.select_id(9)
    view.step(-1)
    assert view.current_id() == 6
    with qtbot.waitSignal(view.opened) as opened:
        qtbot.keyClick(view, Qt.Key.Key_Return)
    assert opened.args == [6]
    model.refresh(6)
    assert view.current_id() == 6


PIECES = (
    TokenPiece("<s>", 0.0, True),
    TokenPiece("The", 0.0),
    TokenPiece(" 👩‍👩‍👧", 2.0),
    TokenPiece(" مرحبا", 1.0),
    TokenPiece("\n", 0.5),
    TokenPiece("toma", 4.0),
    TokenPiece("toes", 3.0),
)


def test_token_text_finds_pieces_behind_emoji_and_rtl(styled: QApplication) -> None:
    layout = TokenLayout(PIECES, 4.0, 600, QFont("DejaVu Sans"), DARK, DETAIL, marks=False)
    boxes = layout._boxes(layout._ends[4], 4)  # "toma" starts where the newline ends
    assert len(boxes) == 1
    assert layout.piece_at(boxes[0].center()) == 5
    assert layout.describe(5) == "toma: 4.0000"
    assert layout.piece_at(QPointF(2, 5)) == 0
    assert "left out" in layout.describe(0)
    assert layout.piece_at(QPointF(590, 5)) is None


def test_highlight_grows_with_the_activation(styled: QApplication) -> None:
    layout = TokenLayout(PIECES, 4.0, 600, QFont("DejaVu Sans"), DARK, DETAIL)
    alphas = [f.format.background().color().alphaF() for f in layout._formats(DARK)]
    assert alphas[5] == pytest.approx(0.3, abs=0.01)
    assert alphas[6] == pytest.approx(0.225, abs=0.01)
    none = TokenLayout(PIECES, 0.0, 600, QFont("DejaVu Sans"), DARK, DETAIL)
    assert {f.format.background().style() for f in none._formats(DARK)} == {Qt.BrushStyle.NoBrush}


def test_token_text_copies_the_original(styled: QApplication, qtbot: QtBot) -> None:
    view = TokenText()
    qtbot.addWidget(view)
    view.set_tokens(PIECES, 4.0)
    qtbot.keyClick(view, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    assert QGuiApplication.clipboard().text() == "<s>The 👩‍👩‍👧 مرحبا\ntomatoes"
    assert with_values(PIECES).splitlines()[5] == "toma\t4.0"
    assert view.heightForWidth(60) > view.heightForWidth(600)
    assert view.grab().toImage().colorCount() == 0  # drawn in full colour without complaint


def test_curves_append_thin_and_show_as_table(styled: QApplication, qtbot: QtBot) -> None:
    plot = CurvePlot("Loss")
    qtbot.addWidget(plot)
    plot.append("loss", [1, 2], [0.5, 0.25])
    plot.append("loss", [3], [float("nan")])
    plot.append("l0", [2], [32.0])
    assert plot.last("loss") == 0.25
    plot.table_button.setChecked(True)
    shown = [[plot._model.index(r, c).data() for c in range(3)] for r in range(3)]
    assert shown == [["1", "0.5", "—"], ["2", "0.25", "32"], ["3", "—", "—"]]
    plot.set_data("loss", np.arange(50_000), np.ones(50_000))
    assert len(plot._series["loss"].item.getOriginalDataset()[0]) <= MAX_POINTS
    plot.clear()
    assert plot.last("loss") is None


def test_histogram_checks_its_edges(styled: QApplication, qtbot: QtBot) -> None:
    plot = HistogramPlot("Activations")
    qtbot.addWidget(plot)
    plot.set_counts([0, 1, 2], [3, 4])
    plot.table_button.setChecked(True)
    assert [plot._model.index(1, c).data() for c in range(3)] == ["1", "2", "4"]
    with pytest.raises(ValueError, match="one edge more"):
        plot.set_counts([0, 1], [3, 4])


def test_search_waits_for_a_pause_and_clears_with_escape(
    styled: QApplication, qtbot: QtBot
) -> None:
    field = SearchField()
    qtbot.addWidget(field)
    told: list[str] = []
    field.searched.connect(told.append)
    qtbot.keyClicks(field, "king")
    assert told == []
    qtbot.waitUntil(lambda: told == ["king"], timeout=1500)
    qtbot.keyClick(field, Qt.Key.Key_Escape)
    assert told == ["king", ""]


class Acted(QObject):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def act(self) -> None:
        self.count += 1


def test_banners_act_once_and_keep_at_most_three(styled: QApplication, qtbot: QtBot) -> None:
    area, acted = BannerArea(), Acted()
    qtbot.addWidget(area)
    for number in range(5):
        area.show_banner(f"Number {number}", level="warning", action="Free", clicked=acted.act)
    assert [banner.sentence for banner in area.banners()] == ["Number 2", "Number 3", "Number 4"]
    area.banners()[-1].action_button.click()
    assert acted.count == 1
    assert len(area.banners()) == 2
    for banner in area.banners():
        banner.close_button.click()
    qtbot.waitUntil(lambda: area.isHidden())


def test_column_is_centred_and_grid_folds(styled: QApplication, qtbot: QtBot) -> None:
    page, grid = CenteredColumn(), CardGrid()
    qtbot.addWidget(page)
    cards = [Card() for _ in range(4)]
    for card in cards:
        card.box.addWidget(QLabel("x"))
    grid.set_widgets(list(cards))
    page.box.addWidget(grid)
    page.resize(1800, 600)
    page.show()
    qtbot.waitExposed(page)
    assert page.column.width() == 1280
    middle = page.column.mapTo(page, page.column.rect().center()).x()
    assert abs(middle - page.viewport().width() / 2) <= 2
    qtbot.waitUntil(lambda: cards[1].y() == cards[0].y() and cards[1].x() > 500)
    page.resize(700, 600)
    qtbot.waitUntil(lambda: cards[1].y() > cards[0].y())


def test_collapsible_hides_its_body(styled: QApplication, qtbot: QtBot) -> None:
    section = Collapsible("Advanced")
    qtbot.addWidget(section)
    assert not section.body.isVisibleTo(section)
    section.heading.click()
    assert section.body.isVisibleTo(section)


def test_import_form_fits_a_narrow_window(services: Services, qtbot: QtBot) -> None:
    form = ConfigForm(ImportDatasetConfig, columns=2)
    qtbot.addWidget(form)
    assert form.minimumSizeHint().width() <= 640
    form.resize(900, 400)
    form.show()
    qtbot.waitExposed(form)
    first, second = form.fields["path"], form.fields["name"]
    qtbot.waitUntil(lambda: second.y() == first.y() and second.x() > first.x())
    form.resize(300, 400)
    qtbot.waitUntil(lambda: second.y() > first.y() and second.x() == first.x())


def test_a_form_emptied_after_it_was_sent_shows_no_mistake(qtbot: Any) -> None:
    form = ConfigForm(ImportDatasetConfig)
    qtbot.addWidget(form)
    assert form.checked() is None
    assert form.fields["path"].problem.text() == "File or folder is missing."
    form.set_values({"path": "/tmp/x.txt"})
    assert form.checked() is not None
    form.set_values({"path": ""})
    assert form.fields["path"].problem.text() == ""


def test_settings_that_do_not_apply_are_hidden_and_ignored(qtbot: Any) -> None:
    form = ConfigForm(ImportDatasetConfig)
    qtbot.addWidget(form)
    form.set_values({"path": "/tmp/x.csv", "delimiter": "pipe", "sample_unit": "line"})
    qtbot.waitUntil(lambda: not form.fields["delimiter"].isHidden())
    assert form.fields["sample_unit"].isHidden()
    assert form.values().sample_unit == ImportDatasetConfig().sample_unit
    assert form.values().delimiter == "pipe"
    form.set_values({"path": "/tmp/x.parquet"})
    assert form.fields["delimiter"].isHidden()
    assert form.values().delimiter == "auto"


def test_a_number_left_to_the_program_reads_automatic(qtbot: Any) -> None:
    form = ConfigForm(TokenizeConfig, ("context",))
    qtbot.addWidget(form)
    box = form.fields["context"].editor.control
    assert isinstance(box, NumberBox)
    assert (box.lineEdit().text(), box.lineEdit().placeholderText()) == ("", "automatic")
    assert form.values().context == 0
    form.set_values({"context": 64})
    assert form.values().context == 64
    form.set_values({"context": "automatic"})
    assert form.values().context == 0
    assert automatic_number("Steps of rising rate; -1 takes 1000.") == -1
    assert automatic_number("Steps between checkpoints; 0 writes only the last.") is None


def test_a_form_begins_with_what_a_small_device_takes(qtbot: QtBot, services: Services) -> None:
    services.settings.values.device_profile = "small"
    form = ConfigForm(HarvestConfig, ("rows", "top_k"), settings=services.settings)
    qtbot.addWidget(form)
    assert (form.values().rows, form.values().top_k) == (4096, 20)
    form.set_values({"rows": 99})
    form.reset()
    assert form.values().rows == 4096
    standard = ConfigForm(HarvestConfig, ("rows",))
    qtbot.addWidget(standard)
    assert standard.values().rows == 24_576
