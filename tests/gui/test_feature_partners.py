"""Correlations and Statistics of a feature and the health window, over made-up figures."""

from __future__ import annotations

from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from pytestqt.qtbot import QtBot

from mistudio.gui.services import Services
from mistudio.gui.tabs.features.absorption_dialog import AbsorptionDialog
from mistudio.gui.tabs.features.detail import FeatureDetail
from mistudio.gui.tabs.features.health_dialog import HealthDialog
from mistudio.gui.tabs.features.tab import FeaturesTab
from mistudio.jobs import (
    feature_extras,
    feature_pages,
    feature_partners,
    measure_absorption,
    sae_health,
)
from mistudio.jobs.feature_extras import Entry, Extras, Weights
from mistudio.jobs.feature_pages import Bars
from mistudio.jobs.feature_partners import Correlations, Hint, Neighbour, Partner
from mistudio.jobs.sae_health import HealthReport
from mistudio.store.records import SaeRow
from mistudio.store.tables import JOBS
from tests.gui import feature_world
from tests.gui.test_features_tab import settle, shown_tab

STATED = "2026-03-04T05:06:07.000000+00:00"


def partner(feature: int, pearson: float, pmi: float | None, jaccard: float) -> Partner:
    measures: dict[str, float | None] = {"pearson": pearson, "pmi": pmi, "jaccard": jaccard}
    measures |= {"cosine": 0.5, "phi": 0.4, "p_j_i": 0.25, "p_i_j": 0.75}
    return Partner(feature, 400, 100, measures, "", f"word{feature}")


def correlations(studio: Any, sae: SaeRow, index: int, *, anew: bool = False) -> Correlations:
    a, b = partner(index + 1, 0.8, 1.5, 0.2), partner(index + 2, 0.4, 3.0, 0.6)
    return Correlations(
        feature=index,
        n_tokens=100_000,
        count=1234,
        partners={"pearson": [a, b], "pmi": [b, a], "jaccard": [b, a]},
        hints=[Hint(9, 0.45, 800, 0.0, 18, 20, "", "word9")] if index == 0 else [],
        made_at="2026-09-09T00:00:00+00:00" if anew else STATED,
        truncated=False,
    )


def neighbours(studio: Any, sae: SaeRow, index: int, *, other: Any = None) -> list[Neighbour]:
    if other is not None:
        return [Neighbour(3, 0.97, "", "elsewhere")]
    return [Neighbour(index + 4, 0.91, "near", ""), Neighbour(index + 5, None)]


def extras(studio: Any, sae: SaeRow, index: int) -> Extras:
    weights = Weights(1.5, None if index else 0.75, -0.25, [Entry(7, 0.5, 0.125)])
    profile = [1.0, None, *[0.5] * 8]
    return Extras(index, profile, Bars([-1.0, -0.5, 0.0], [3, 5]), weights)


@pytest.fixture
def detail(services: Services, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(feature_pages, "page", feature_world.page)
    monkeypatch.setattr(feature_partners, "correlations", correlations)
    monkeypatch.setattr(feature_partners, "neighbours", neighbours)
    monkeypatch.setattr(feature_extras, "extras", extras)
    feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    tab.open_feature(0)
    settle(tab, qtbot)
    yield tab
    if tab.detail is not None:
        tab.detail.close()


def page_of(tab: FeaturesTab, qtbot: QtBot, title: str) -> FeatureDetail:
    detail = tab.detail
    assert detail is not None
    titles = [detail.pages.tabText(i) for i in range(detail.pages.count())]
    detail.pages.setCurrentIndex(titles.index(title))
    settle(tab, qtbot)
    return detail


def test_partners_by_each_measure(detail: FeaturesTab, qtbot: QtBot) -> None:
    page = page_of(detail, qtbot, "Correlations").correlations
    assert page is not None
    assert [(r.feature, r.value, r.share) for r in page.partners.rows()] == [
        (1, "0.800", 0.8),
        (2, "0.400", 0.4),
    ]
    assert "P(#1 | #0) 0.2500" in page.partners.rows()[0].tip
    assert page.partners.rows()[0].texts == ("100", "word1")
    assert "both on 100 of 100,000" in page.partners.rows()[0].tip
    assert "1,234 tokens of 100,000" in page.rests_on.text()
    assert "2026-03-04 05:06" in page.rests_on.text()
    page.measures.button(1).click()
    assert [(r.feature, r.value, r.share) for r in page.partners.rows()] == [
        (2, "3.000", 1.0),
        (1, "1.500", 0.5),
    ]
    header = page.partners.horizontalHeaderItem(1)
    assert header is not None
    assert header.text() == "PMI"
    assert "#9 word9: cosine 0.45" in page.hints.text()
    page.again.click()
    settle(detail, qtbot)
    assert "2026-09-09" in page.rests_on.text()


def test_a_partner_opens_and_back_returns(detail: FeaturesTab, qtbot: QtBot) -> None:
    window = page_of(detail, qtbot, "Correlations")
    page = window.correlations
    assert page is not None
    page.partners.selectRow(1)
    qtbot.keyClick(page.partners, Qt.Key.Key_Return)
    settle(detail, qtbot)
    assert window.index == 2
    assert [r.feature for r in page.partners.rows()] == [3, 4]
    assert page.hints.text() == "No sign of it."
    assert window.back.text() == "Back to #0"
    page.neighbours.cellClicked.emit(0, 0)
    settle(detail, qtbot)
    assert window.index == 6
    window.go_back()
    window.go_back()
    settle(detail, qtbot)
    assert window.index == 0
    assert not window.back.isVisible()


def test_neighbours_in_another_sae(
    detail: FeaturesTab, services: Services, window_stub: Any, qtbot: QtBot
) -> None:
    other = feature_world.add_sae(services.studio.db(), name="second")
    page = page_of(detail, qtbot, "Correlations").correlations
    assert page is not None
    assert [(r.feature, r.value) for r in page.neighbours.rows()] == [(4, "0.910"), (5, "—")]
    page._offer([other])
    page.within.setCurrentIndex(1)
    page.within.activated.emit(1)
    settle(detail, qtbot)
    assert [r.texts for r in page.neighbours.rows()] == [("elsewhere",)]
    page.neighbours.opened.emit(3)
    assert window_stub.opened == [("Features", {"sae": other.id, "feature": 3})]


def test_files_that_are_gone_are_a_sentence(
    detail: FeaturesTab, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # rows without files
    page = page_of(detail, qtbot, "Correlations").correlations
    assert page is not None
    assert "find" in page.rests_on.text().lower()
    assert "gone" in page.near_note.text() or "cannot be read" in page.near_note.text()
    assert page.again.isEnabled()


def test_statistics_tell_the_weights_and_the_profile(detail: FeaturesTab, qtbot: QtBot) -> None:
    window = page_of(detail, qtbot, "Statistics")
    page = window.statistics
    assert page is not None
    assert page.values["Encoder–decoder cosine"].text() == "0.7500"
    assert page.values["Decoder length ‖d‖"].text() == "1.5000"
    assert page.values["d · b_dec"].text() == "-0.2500"
    assert page.values["Neuron alignment"].text() == "7: +0.500 (12.5 %)"
    assert page.profile._counts.tolist() == [1.0, 0.0, *[0.5] * 8]
    assert page.profile._written == []  # means, not counts
    assert page.log_histogram._counts.tolist() == [3, 5]
    window.go_next()
    settle(detail, qtbot)
    assert page.values["Encoder–decoder cosine"].text() == "not defined for a transcoder"


def distribution(middle: float) -> dict[str, Any]:
    parts = {"mean": middle, "min": 0.0, "lower": middle - 0.1, "median": middle}
    parts |= {"upper": middle + 0.1, "max": 1.0}
    return parts | {"n": 64, "edges": [-1.0, 0.0, 1.0], "counts": [14, 50]}


def health() -> dict[str, Any]:
    names = ("dead", "ultra_rare", "above_1_percent", "dense", "duplicate", "single_token")
    return {
        "n_tokens": 2_000_000,
        "features": 64,
        "live": 32,
        "counts": dict.fromkeys(names, 32),
        "shares": dict.fromkeys(names, 0.5),
        "dead_bound": 1.5e-6,
        "l0": 20.0,
        "density": {"edges": [-3.0, -2.5, -2.0], "counts": [30, 2]},
        "encoder_cosine": None,
        **{
            name: distribution(0.5)
            for name in ("norm", "bias_product", "bias_cosine", "nearest_cosine")
        },
        "truncated": False,
    }


def test_the_health_window(
    services: Services, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = {"ev": 0.8123, "n": 9000, "intervals": {"ev": [0.8, 0.82]}, "l0": 20.5}
    report = HealthReport(health(), evaluation, STATED)
    monkeypatch.setattr(sae_health, "known_report", lambda studio, sae: report)
    feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    tab.health_button.click()
    settle(tab, qtbot)
    (dialog,) = tab.findChildren(HealthDialog)
    assert dialog.tiles["dead"].value() == "50.00 %"
    assert dialog.tiles["ev"].value() == "0.8123"
    assert dialog.tiles["ce_loss_score"].value() == "—"
    held_out = dialog.tables["Held-out text"].texts()
    assert held_out[0] == ["Explained variance", "0.8123 (0.8000 to 0.8200)", "9,000 tokens"]
    assert dialog.charts["encoder_cosine"].isHidden()
    assert not dialog.charts["norm"].isHidden()
    assert dialog._signs.count() == 4  # dead, dense, duplicates, bias
    dialog.copy()
    assert "50.00 % (32)" in QGuiApplication.clipboard().text()
    dialog.start()
    (job,) = JOBS.select(services.studio.db())
    assert (job.kind, job.config["again"]) == ("sae_health", True)
    dialog.close()


def test_health_offers_to_compare_the_rows(
    services: Services, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sae_health, "known_report", lambda studio, sae: None)
    world = feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    dialog = HealthDialog(services, world.sae, tab)
    dialog.show()
    settle(tab, qtbot)
    assert dialog.content.isHidden()
    assert dialog.start_button.text() == "Compute"
    assert "compared" in dialog.rests_on.text()
    dialog._on_done({"health": health(), "evaluation": None, "made_at": STATED})
    assert dialog.tiles["ev"].value() == "—"
    assert not dialog.content.isHidden()
    dialog.close()


def test_absorption_is_measured_from_the_correlations(
    services: Services, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_pages, "page", feature_world.page)
    monkeypatch.setattr(feature_partners, "correlations", correlations)
    monkeypatch.setattr(feature_partners, "neighbours", lambda *_args, **_named: [])
    monkeypatch.setattr(measure_absorption, "prepare", lambda *_: None)
    world = feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    tab.open_feature(1)
    settle(tab, qtbot)
    detail = tab.detail
    assert detail is not None
    detail.pages.setCurrentIndex(2)
    settle(tab, qtbot)
    assert detail.correlations is not None
    detail.correlations.measure_button.click()
    (dialog,) = detail.findChildren(AbsorptionDialog)
    dialog.prompts.positive.setPlainText("a\nb\nc")
    dialog.prompts.negative.setPlainText("e\n\nf\ng\nh\n")
    dialog.run()
    assert dialog.job.problem.text() == "Each list needs at least 4 prompts."
    dialog.prompts.positive.setPlainText("a\nb\nc\nd")
    dialog.copy_command()
    line = QGuiApplication.clipboard().text()
    assert line.startswith(f"mistudio features absorption {world.sae.id} 1 --positive <(printf")
    dialog.run()
    (job,) = JOBS.select(services.studio.db())
    wanted = ("absorption", 1, ["a", "b", "c", "d"], ["e", "f", "g", "h"])
    told = job.config
    assert (job.kind, told["feature"], told["positive"], told["negative"]) == wanted
    lines = [
        {"prompt": "a", "projection": 2.0, "main": 0.5, "absorbers": [7], "absorbed": [1.5],
         "fraction": 0.75},
        {"prompt": "b", "projection": -1.0, "main": 0.0, "absorbers": [], "absorbed": [],
         "fraction": None},
    ]  # fmt: skip
    found = {"fraction": 0.75, "interval": None, "prompts": 1, "absorbed_prompts": 1, "silent": 0}
    absorbers = [{"feature": 7, "prompts": 1, "share": 0.75, "called": "kings"}]
    dialog._on_done({**found, "auroc": 1.0, "absorbers": absorbers, "lines": lines})
    assert dialog.outcome.text().startswith("Mean absorption fraction 0.750 over 1 prompts")
    assert not dialog.absorbers.isHidden()
    assert dialog.absorbers.texts() == [["#7", "1", "75.0 %", "kings"]]
    assert dialog.lines.texts()[0] == ["a", "0.750", "2.000", "0.500", "1.500", "#7"]
    assert dialog.lines.texts()[1][1] == "—"
    with qtbot.waitSignal(dialog.opened) as asked:
        dialog.absorbers.cellActivated.emit(0, 0)
    assert asked.args == [7]
    dialog.close()
    detail.close()
