"""A run beside random features in the window: asked for, followed, kept, shown."""

from __future__ import annotations

from typing import Any

from pytestqt.qtbot import QtBot

from mistudio.gui.services import Services
from mistudio.gui.tabs.steering.controls import Controls
from mistudio.gui.tabs.steering.tab import SteeringTab
from mistudio.store import jobs
from mistudio.store.jobs import JobState
from mistudio.store.records import SteeringRunRow
from mistudio.store.tables import JOBS, STEERING_RUNS
from tests.gui.test_steering_tab import METRICS, only_job, ready_tab, settle, variants

NAMES = "3=2.0:add", "12=1.0:clamp"


def measure(p: float, steered: float, **values: Any) -> dict[str, Any]:
    random = [0.1 + 0.01 * n for n in range(19)]
    told = {"baseline": 0.1, "steered": steered, "means": 0.3, "prompted": None, "random": random}
    return {**told, "p": p, "percentile": 100.0, "controls": 19, "lowers": False, "moves": True,
            "selective": p <= 0.05, **values}  # fmt: skip


def result(p: float) -> dict[str, Any]:
    return {
        "controls": 19, "words": ["sea"], "words_from": "label", "ratio": 0.2,
        "random_ratio": [0.2, 0.2], "problems": ["A sentence."],
        "measures": {"probability": measure(p, 0.5), "reread": measure(p, 0.2)},
    }  # fmt: skip


def a_run(services: Services, tab: SteeringTab, **controls: Any) -> SteeringRunRow:
    figures = {name: METRICS for name in NAMES}
    return STEERING_RUNS.insert(
        services.studio.db(), mode="compare", prompt="p", sae_id=tab.panel.main_sae(),
        config={"feature": list(NAMES), "mode": "compare", "prompt": "p"}, status="completed",
        outputs=variants_with_ids(), metrics={**METRICS, "variants": figures, "controls": controls},
    )  # fmt: skip


def variants_with_ids() -> dict[str, Any]:
    outputs = variants(*NAMES)
    for told in outputs["variants"].values():
        for text in (*told["samples"], told["greedy"]):
            text["token_ids"] = [1, 2, 3]
    return outputs


def test_a_test_is_queued_followed_and_shown(services: Services, qtbot: QtBot) -> None:
    tab = ready_tab(services, qtbot)
    made = tab.controls
    assert made.isHidden()  # no run is shown
    run = a_run(services, tab)
    tab.load_run(run)
    settle(tab, qtbot)
    assert not made.isHidden()
    assert made.table.isHidden()
    tab.output.choose(NAMES[1])
    made.count.setCurrentIndex(1)
    made.words.setText("sea, ship")
    made.button.click()
    settle(tab, qtbot)
    job = only_job(services)
    assert job.kind == "steer_controls"
    wanted = {"run": run.id, "variant": NAMES[1], "controls": 39, "words": "sea, ship"}
    assert {name: job.config[name] for name in wanted} == wanted
    assert not made.button.isEnabled()
    assert not made.job.isHidden()
    db = services.studio.db()
    jobs.claim(db, job.id, 1)
    STEERING_RUNS.update(
        db, run.id, metrics={**(run.metrics or {}), "controls": {NAMES[1]: result(0.05)}}
    )
    jobs.move(db, job.id, JobState.RUNNING, JobState.COMPLETED)
    services.lanes.finished.emit(job.id, "completed")
    settle(tab, qtbot)
    assert made.job.isHidden()
    assert made.button.isEnabled()
    assert made.verdict.text().startswith("#12 = 1 × max: Selective beside 19 random features")
    assert "A sentence." in made.details.text()
    assert [made.table.item(row, 5).text() for row in range(2)] == ["selective", "selective"]  # type: ignore[union-attr]
    assert [(line.name, line.selective) for line in made.strip.lines] == [
        ("Probability of the words", True),
        ("Features re-read in the text", True),
    ]
    made.grab()  # it can be painted
    tab.output.choose(NAMES[0])  # which was not tested
    assert made.table.isHidden()
    tab.output.choose(NAMES[1])
    assert not made.table.isHidden()
    tab.run_primary()
    assert made.isHidden()


def test_what_is_not_beyond_the_controls_is_not_called_selective(
    services: Services, qtbot: QtBot
) -> None:
    tab = ready_tab(services, qtbot)
    tab.load_run(a_run(services, tab, **{NAMES[0]: result(0.1)}))
    assert "Not selective" in tab.controls.verdict.text()
    assert tab.controls.table.item(0, 5).text() == "not selective"  # type: ignore[union-attr]
    assert not any(line.selective for line in tab.controls.strip.lines)


def test_a_cancelled_or_failed_test_leaves_the_run_as_it_was(
    services: Services, qtbot: QtBot
) -> None:
    tab = ready_tab(services, qtbot)
    tab.load_run(a_run(services, tab))
    made: Controls = tab.controls
    made.button.click()
    settle(tab, qtbot)
    made.job._cancel.click()
    settle(tab, qtbot)
    assert only_job(services).status == "cancelled"
    assert made.job.isHidden()
    assert made.button.isEnabled()
    assert made.table.isHidden()
    made.button.click()
    job = next(j for j in JOBS.select(services.studio.db()) if j.status == "queued")
    db = services.studio.db()
    jobs.claim(db, job.id, 1)
    JOBS.update(db, job.id, error_message="No memory.")
    jobs.move(db, job.id, JobState.RUNNING, JobState.FAILED)
    services.lanes.finished.emit(job.id, "failed")
    settle(tab, qtbot)
    assert made.problem.text() == "No memory."
    old = STEERING_RUNS.insert(
        db, mode="blended", prompt="p", sae_id=tab.panel.main_sae(), config={"prompt": "p"},
        outputs={"baseline": "a", "steered": "b"}, metrics=METRICS, status="completed",
    )  # fmt: skip
    tab.load_run(old)
    made.button.click()
    assert "earlier version" in made.problem.text()
