"""Ablation and own text in a feature's window and on the tab, over scripted results."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pytestqt.qtbot import QtBot

from mistudio.core.ages import age
from mistudio.core.analysis_configs import AblateConfig
from mistudio.gui.reporting import Drained, Progress
from mistudio.gui.services import Services
from mistudio.gui.tabs.features.ablate_dialog import AblateDialog
from mistudio.gui.tabs.features.detail import ABLATION, EXAMPLES, STATISTICS, TRY_TEXT
from mistudio.gui.tabs.features.tab import FeaturesTab
from mistudio.jobs import ablate, feature_analyses, feature_pages
from mistudio.jobs.registry import JOB_KINDS
from mistudio.store import analyses, jobs
from mistudio.store.jobs import JobState
from mistudio.store.tables import JOBS
from tests.gui import feature_world
from tests.gui.test_features_tab import settle, shown_tab

FIGURES = {
    "n": 500,
    "reached": 250,
    "windows": 8,
    "ce": 3.0,
    "ce_ablated": 3.0123,
    "delta_ce": 0.0123,
    "kl": 0.0061,
    "delta_logit": -0.05,
    "delta_rank": 1.5,
    "perplexity": 20.0,
    "perplexity_ablated": 20.25,
}


def effect(**changes: Any) -> dict[str, Any]:
    values = {**FIGURES, **changes}
    return {**values, "intervals": {name: [0.001, 0.02] for name in FIGURES}}


def ablated(sae_id: str, feature: int, **changes: Any) -> dict[str, Any]:
    place = {"percentile": 100.0, "p": 0.05, "controls": 19, "values": [0.0] * 19}
    return {
        "sae": sae_id,
        "feature": feature,
        "mode": "zero",
        "mean_of": "all",
        "window_tokens": 64,
        "effect": {
            "top": effect(),
            "random": effect(delta_ce=-0.002),
            "active": 36,
            "mean": None,
        },
        "lost": [{"text": " the", "change": -0.01}],
        "gained": [{"text": ".", "change": 0.02}],
        "places": [
            {
                "before": "said unto\nthem",
                "next": " not",
                "activation": 2.0,
                "kl": 0.5,
                "probability": 0.5,
                "probability_ablated": 0.25,
            }
        ],
        "controls": {"delta_ce": {**place, "selective": True}, "kl": place, "features": [1]},
        **changes,
    }


def opened(
    services: Services, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch, tab_number: int
) -> tuple[FeaturesTab, Any]:
    monkeypatch.setattr(feature_pages, "page", feature_world.page)
    world = feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    tab.open_feature(3)
    settle(tab, qtbot)
    assert tab.detail is not None
    tab.detail.pages.setCurrentIndex(tab_number)
    settle(tab, qtbot)
    return tab, world


def finish(services: Services, job_id: str, result: dict[str, Any]) -> None:
    """End a queued job as its lane would."""
    import json

    db = services.studio.db()
    assert jobs.claim(db, job_id, 1)
    text = json.dumps(result)
    jobs.move(db, job_id, JobState.RUNNING, JobState.COMPLETED, result=text)
    services.lanes.finished.emit(job_id, "completed")


def test_the_own_effect_comes_first_then_the_controls(
    services: Services, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    tab, world = opened(services, qtbot, monkeypatch, ABLATION)
    detail = tab.detail
    assert detail is not None
    page = detail.ablation
    assert page is not None
    assert page.page is None
    assert "Not measured" in page.age.text()
    assert not page.figures.isVisible()
    monkeypatch.setitem(JOB_KINDS, "ablate", replace(JOB_KINDS["ablate"], prepare=None))
    job_id = services.studio.submit("ablate", AblateConfig(sae=world.sae.id, feature=3))
    page.job.id = job_id
    strongest = {"top": effect(windows=4, n=252, kl=0.5), "random": None, "active": 20}
    first = ablated(world.sae.id, 3, controls=None, effect={**strongest, "mean": None})
    services.lanes.drained.emit(job_id, Drained(partials=[("ablation", first)]))
    assert page.top.large["kl"].text() == "0.5000"
    assert page.top.count.text().startswith("4 windows · n = 252 tokens")
    assert page.top.count.text().endswith("the others are being measured")
    assert (page.any.count.text(), page.any.large["kl"].text()) == ("Being measured.", "—")
    own = ablated(world.sae.id, 3, controls=None)
    services.lanes.drained.emit(job_id, Drained(partials=[("ablation", own)]))
    assert page.top.large["delta_ce"].text() == "+0.0123"
    assert page.top.large["delta_ce"].property("role") == "figure-red"
    assert page.any.large["delta_ce"].property("role") == "figure-emerald"
    assert page.top.small["perplexity_ablated"].text() == "20.25"
    assert "n = 500 tokens, 250 within reach · fires on 36" in page.top.count.text()
    assert page.percentile.text() == "…"
    other = ablated(world.sae.id, 4)  # of a feature that is no longer in view
    services.lanes.drained.emit(job_id, Drained(partials=[("ablation", other)]))
    assert page.percentile.text() == "…"
    page._on_done({**ablated(world.sae.id, 3), "made_at": "2026-01-01T00:00:00+00:00"})
    assert page.percentile.text() == "100 %"
    assert page.verdict.text().endswith("selective.")
    assert page.lost.text() == "·the\t-1.0000"
    assert page.places.texts()[0][1:] == ["·not", "50.00 %", "25.00 %", "0.5000"]
    assert page.age.text().startswith("measured ")
    assert page.again.isVisible()
    detail.close()


def test_a_kept_result_is_shown_and_belongs_to_its_settings(
    services: Services, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    tab, world = opened(services, qtbot, monkeypatch, EXAMPLES)
    config = AblateConfig(sae=world.sae.id, feature=3)
    feature_analyses.kept(
        services.studio,
        world.sae,
        world.feature_set,
        ablate.PAGE,
        ablate.VERSION,
        ablate.page_parameters(config),
        lambda: ablated(world.sae.id, 3),
        feature=3,
    )
    detail = tab.detail
    assert detail is not None
    detail.pages.setCurrentIndex(ABLATION)
    settle(tab, qtbot)
    page = detail.ablation
    assert page is not None
    assert page.page is not None
    assert page.age.text() == "measured just now"
    page.mode.setCurrentIndex(page.mode.findData("mean"))
    settle(tab, qtbot)
    assert page.page is None
    assert page.mean_of.isVisible()
    page.mode.setCurrentIndex(page.mode.findData("zero"))
    settle(tab, qtbot)
    assert page.page is not None
    detail.go_next()
    settle(tab, qtbot)
    assert page.page is None
    detail.close()


def test_run_queues_what_is_chosen_and_says_what_is_wrong(
    services: Services, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    tab, _ = opened(services, qtbot, monkeypatch, ABLATION)
    assert tab.detail is not None
    page = tab.detail.ablation
    assert page is not None
    page.run()  # this SAE's model has no files, but that is only found by the job
    (job,) = JOBS.select(services.studio.db(), "kind = 'ablate'")
    assert (job.config["feature"], job.config["mode"], job.config["anew"]) == (3, "zero", False)
    assert page.job.cancel_button.isVisible()
    page.job.cancel()
    services.lanes.finished.emit(job.id, "cancelled")
    settle(tab, qtbot)
    assert page.run_button.isEnabled()
    tab.detail.close()


def read(sae_id: str, feature: int) -> dict[str, Any]:
    return {
        "sae": sae_id,
        "feature": feature,
        "tokens": 3,
        "fired": 7,
        "largest": 2.5,
        "pieces": [
            {"text": "", "tokens": [0, 1], "masked": True, "value": 0.0},
            {"text": "the", "tokens": [1, 2], "masked": False, "value": 0.0},
            {
                "text": " fox",
                "tokens": [2, 3],
                "masked": False,
                "value": 2.5,
                "effects": [[2, " ran", -0.125]],
            },
        ],
        "no_effects": "",
        "top": {
            "activation": [[], [[5, 9.0, 0.5]], [[3, 2.5, 0.9], [8, 1.0, 0.99]]],
            "quantile": [[], [[5, 9.0, 0.5]], [[8, 1.0, 0.99], [3, 2.5, 0.9]]],
        },
        "features": [
            {
                "feature": 8,
                "label": None,
                "top_tokens": "fox",
                "frequency": 0.01,
                "max": 1.0,
                "sum": 1.5,
                "tokens": 2,
                "at": " fox",
            }
        ],
    }


def test_own_text_shows_values_and_opens_another_feature(
    services: Services, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    tab, world = opened(services, qtbot, monkeypatch, TRY_TEXT)
    detail = tab.detail
    assert detail is not None
    page = detail.try_text
    assert page is not None
    page.text.setPlainText("")
    page.run()
    assert page.job.problem.text()
    assert JOBS.select(services.studio.db(), "kind = 'own_text'") == []
    page.text.setPlainText("the fox")
    page.run()
    (job,) = JOBS.select(services.studio.db(), "kind = 'own_text'")
    assert job.config["feature"] == 3
    finish(services, job.id, read(world.sae.id, 3))
    settle(tab, qtbot)
    assert page.tokens.text() == "the fox"
    assert page.table.texts()[0][:2] == ["start token", "left out"]
    assert page.table.texts()[2][:5] == ["·fox", "2.5000", "-0.1250", "#3  2.500", "#8  1.000"]
    described = page.tokens._current().describe(2)
    assert described == " fox: 2.5000\n-0.1250 nats on the next token “·ran” (direct path only)"
    page.order.setCurrentIndex(1)
    assert page.table.texts()[2][3] == "#8  99.0 %"
    page._on_piece(2)
    assert page.table.currentRow() == 2
    detail.pages.setCurrentIndex(STATISTICS)
    assert detail.statistics is not None
    assert detail.statistics.histogram.marker() == 2.5
    assert "2.5000" in detail.statistics.histogram.plot.toolTip()
    assert detail.statistics.log_histogram.marker() == pytest.approx(1.3219, abs=1e-4)
    detail.pages.setCurrentIndex(TRY_TEXT)
    settle(tab, qtbot)
    page.order.setCurrentIndex(2)  # was not computed: the text is read once more
    by_effect = JOBS.select(services.studio.db(), "kind = 'own_text' AND status = 'queued'")
    assert [job.config["effects"] for job in by_effect] == ["every"]
    told = read(world.sae.id, 3)
    told["top"]["loss"] = [[], [[5, 9.0, None, 0.5]], []]
    finish(services, by_effect[0].id, told)
    settle(tab, qtbot)
    assert page.table.texts()[1][3] == "#5  +0.5000"
    page.order.setCurrentIndex(1)
    page._on_cell(2, 3)
    settle(tab, qtbot)
    assert detail.index == 8
    assert services.settings.recall("features.own_text") == "the fox"
    detail.close()


def test_own_text_lists_the_features_that_fire(
    services: Services, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_pages, "page", feature_world.page)
    world = feature_world.add_world(services.studio.db())
    tab = shown_tab(services, qtbot)
    tab.test_text()
    dialog = tab.text_dialog
    assert dialog is not None
    dialog.text.setPlainText("the fox")
    dialog.run()
    (job,) = JOBS.select(services.studio.db(), "kind = 'own_text'")
    assert (job.config["sae"], job.config["sort"]) == (world.sae.id, "max")
    finish(services, job.id, read(world.sae.id, -1))
    settle(tab, qtbot)
    assert dialog.table.texts() == [["#8", "1.000", "1.500", "2", "·fox", "1.00 %", "fox"]]
    assert "7 features fire on 3 tokens" in dialog.count.text()
    dialog._on_row(0, 0)
    settle(tab, qtbot)
    assert tab.detail is not None
    assert tab.detail.index == 8
    tab.detail.close()
    dialog.close()
    assert tab.text_dialog is None


def test_why_a_next_token_lists_what_each_feature_adds(
    services: Services, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    tab, world = opened(services, qtbot, monkeypatch, TRY_TEXT)
    assert tab.detail is not None
    page = tab.detail.try_text
    assert page is not None
    page.text.setPlainText("the fox")
    page.why()
    dialog = page.attribution
    assert dialog is not None
    (job,) = JOBS.select(services.studio.db(), "kind = 'attribute'")
    assert (job.config["sae"], job.config["text"]) == (world.sae.id, "the fox")
    line = {
        "feature": 8,
        "label": "foxes",
        "top_tokens": "",
        "at": " fox",
        "first_order": 0.5,
        "exact": None,
        "direct": -0.25,
        "lens": 1.0,
        "here": 2.0,
    }
    told = {
        "sae": world.sae.id,
        "token": " ran",
        "position": 2,
        "probability": 0.125,
        "likeliest": [[" ran", 0.125]],
        "features": [line],
        "r": 0.97,
        "checked": 20,
        "no_first_order": "",
        "no_direct": "",
        "feature": 3,
        "pieces": read(world.sae.id, 3)["pieces"],
    }
    assert job.config["feature"] == 3
    finish(services, job.id, told)
    settle(tab, qtbot)
    assert dialog.head.text() == "“·ran” after token 2: 12.50 %"
    assert "r = 0.970 on 20 features" in dialog.facts.text()
    wanted = ["#8", "+0.5000", "—", "-0.2500", "+1.0000", "·fox", "foxes"]
    assert dialog.table.texts() == [wanted]
    assert dialog.tokens.text() == "the fox"
    assert dialog.tokens._current().describe(2).startswith(" fox: 2.5000\n-0.1250 nats on")
    assert "Feature #3 fires up to 2.5000" in dialog.shown.text()
    dialog._on_row(0, 0)
    settle(tab, qtbot)
    assert tab.detail.index == 8
    dialog.close()
    assert page.attribution is None
    tab.detail.close()


def test_ages() -> None:
    from datetime import datetime, timezone

    now = datetime(2026, 3, 5, 12, 0, 0, tzinfo=timezone.utc)
    assert age("2026-03-05T11:59:30+00:00", now) == "just now"
    assert age("2026-03-05T11:57:00Z", now) == "3 min 0 s ago"
    assert age("2026-03-01T12:00:00", now) == "4 days ago"


def test_all_features_are_ablated_from_the_tab(
    services: Services, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = services.studio.db()
    world = feature_world.add_world(db)
    monkeypatch.setitem(JOB_KINDS, "ablate", replace(JOB_KINDS["ablate"], prepare=None))
    tab = shown_tab(services, qtbot)
    tab.ablate_button.click()
    dialog = tab.findChild(AblateDialog)
    assert dialog is not None
    settle(tab, qtbot)
    assert dialog.plan.text() == "56 live features. How long it takes is unknown until it runs."
    dialog.start()
    (job,) = JOBS.select(db)
    assert (job.kind, job.config["sae"], job.config["feature"]) == ("ablate", world.sae.id, -1)
    assert dialog.job.cancel_button.isVisible()
    progress = Progress(0.5, "8 of 56 features", "0.50 features/s", 96.0)
    services.lanes.drained.emit(job.id, Drained(progress=progress))
    assert "8 of 56 features · 0.50 features/s" in dialog.job.state.text()
    # cancelled after eight features: they are kept, and the job had a rate
    key = feature_analyses.key_hash(
        world.sae,
        world.feature_set,
        ablate.EFFECT,
        ablate.VERSION,
        ablate.effect_parameters(AblateConfig()),
    )
    live = [f for f in range(60) if f in live_features(services)]
    kept = {f: {"top": effect()} for f in live[:8]}
    analyses.keep_all(db, world.sae.id, ablate.EFFECT, key, kept)
    JOBS.update(db, job.id, rate="0.50 features/s")
    assert jobs.claim(db, job.id, 1)
    jobs.move(db, job.id, JobState.RUNNING, JobState.CANCELLED)
    services.lanes.finished.emit(job.id, "cancelled")
    settle(tab, qtbot)
    assert dialog.plan.text() == (
        "56 live features, 8 measured already with these settings. "
        "About 1 min 36 s at the rate of the last such job."
    )
    assert dialog.start_button.text() == "Go on"
    dialog.form.set_values({"windows": 4})
    settle(tab, qtbot)
    assert dialog.plan.text().endswith("unknown until it runs.")
    dialog.form.set_values({"windows": 8})
    dialog.start()
    other = dialog.job.id
    told: list[bool] = []
    dialog.measured.connect(lambda: told.append(True))
    finish(
        services,
        other,
        {
            "features": 56,
            "mode": "zero",
            "judged": 40,
            "selective": 10,
            "selective_share": 0.25,
            "strongest": [{"feature": 3, "delta_ce": 0.5}],
        },
    )
    settle(tab, qtbot)
    assert told == [True]
    assert "10 of 40 with at least 19 like ones" in dialog.summary.text()
    dialog.close()


def live_features(services: Services) -> set[int]:
    rows = services.studio.db().execute(
        "SELECT feature_index FROM feature_statistics WHERE count > 0"
    )
    return {int(row[0]) for row in rows.fetchall()}
