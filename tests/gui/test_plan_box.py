"""The plan below the form of a new training: live, with ways out, in the way of what cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mistudio.core.model_configs import ImportActivationsConfig
from mistudio.gui.services import Services
from mistudio.gui.tabs.training.new_training import NewTraining
from mistudio.jobs import training_plan
from mistudio.ml.training.plan_formulas import Room
from mistudio.store.records import JobRow
from mistudio.store.tables import MODELS
from tests.gui.test_training_tab import Desk, settle, shown
from tests.helpers.studio import run

GB = 10**9
FREE = {"bytes": 20 * GB}


@pytest.fixture
def desk(services: Services, window_stub: Any, monkeypatch: Any) -> Iterator[Desk]:
    FREE["bytes"] = 20 * GB
    monkeypatch.setattr(
        training_plan, "room_of", lambda _studio: Room("cpu", FREE["bytes"], 24 * GB, 80 * GB)
    )
    made = Desk(services, window_stub)
    MODELS.update(made.db, made.world.model, vocab_size=5000, memory_bytes=4_800_000, format="fp32")
    yield made
    made.tabs.clear()


def planned(qtbot: Any, desk: Desk, **values: Any) -> NewTraining:
    form = shown(qtbot, desk).runs.form
    if not form.dataset.value():
        form.dataset.set_value(desk.world.tokenization)
    again(qtbot, desk, form, **values)
    return form


def again(qtbot: Any, desk: Desk, form: NewTraining, **values: Any) -> None:
    form.form.set_values(values)
    with qtbot.waitSignal(form.plan.changed):
        form.plan.refresh()
    settle(qtbot, desk)


def test_before_model_and_text_are_chosen_it_says_what_is_missing(qtbot: Any, desk: Desk) -> None:
    box = shown(qtbot, desk).runs.form.plan
    assert box.plan is None
    assert box.refuses == ""
    assert box.summary.text().startswith("Choose a model and a dataset")
    assert box.bar.isHidden()
    assert box.measure.isHidden()


def test_it_follows_the_form(qtbot: Any, desk: Desk) -> None:
    form = planned(qtbot, desk, width=16_384)
    box = form.plan
    assert box.plan is not None
    small = box.plan.total
    assert box.summary.text() == box.plan.summary
    assert "Language model 4.8 MB" in box.items.text()
    assert box.items.text().endswith("at the peak")
    assert box.bar.value() == pytest.approx(100 * small / FREE["bytes"])
    assert form.start_button.isEnabled()
    form.form.set_values({"width": 131_072})
    qtbot.waitUntil(lambda: box.plan is not None and box.plan.total > small)  # by itself
    settle(qtbot, desk)


def test_too_much_is_refused_and_a_proposal_makes_it_fit(qtbot: Any, desk: Desk) -> None:
    form = planned(qtbot, desk, width=131_072, batch=4096)
    assert form.plan.plan is not None
    FREE["bytes"] = round(form.plan.plan.total * 0.9)
    again(qtbot, desk, form)
    box = form.plan
    assert "does not fit into memory" in box.refusal.text()
    assert not box.refusal.isHidden()
    assert not form.start_button.isEnabled()
    assert form.start_button.toolTip() == box.refuses
    assert not box.measure.isEnabled()
    ways = [way for way in box.ways if not way.isHidden()]
    assert ways
    assert "latents" in next(way.text() for way in ways if "latents" in way.text())
    next(way for way in ways if "latents" in way.text()).click()
    assert int(form.form.values().width) < 131_072
    qtbot.waitUntil(form.start_button.isEnabled)
    settle(qtbot, desk)


def test_pieces_are_told_and_the_run_may_start(qtbot: Any, desk: Desk) -> None:
    form = planned(qtbot, desk, architecture="jumprelu", width=65_536, batch=8192)
    assert form.plan.plan is not None
    FREE["bytes"] = round(form.plan.plan.total * 0.7)
    again(qtbot, desk, form)
    found = form.plan.plan
    assert found is not None
    assert 0 < found.pieces < 8192
    assert found.in_pieces in form.plan.summary.text()
    assert form.plan.refuses == ""
    assert form.start_button.isEnabled()


def test_bare_vectors_are_planned(qtbot: Any, desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "v.npy"
    np.save(path, np.ones((3000, 48), dtype=np.float32))
    config = ImportActivationsConfig(path=str(path), name="v")
    made = run(desk.services.studio, "import_activations", config)
    form = planned(qtbot, desk, width=16_384)
    form.reload()
    qtbot.waitUntil(lambda: form.form.activations.combo.count() == 2)
    again(qtbot, desk, form, activations=made["activations"])
    found = form.plan.plan
    assert found is not None
    # 32 bytes × 48 × 16,384, and 72 for each latent
    assert form.plan.items.text().startswith("SAE 26.3 MB + ")
    assert form.plan.measure.isHidden()
    assert form.start_button.isEnabled()
    FREE["bytes"] = round(found.total * 0.5)
    again(qtbot, desk, form)
    assert "does not fit into memory" in form.plan.refuses


def test_little_room_left_is_a_warning(qtbot: Any, desk: Desk) -> None:
    form = planned(qtbot, desk, width=131_072)
    assert form.plan.plan is not None
    FREE["bytes"] = round(form.plan.plan.total / 0.9)
    again(qtbot, desk, form)
    assert form.plan.warning.text() == "This takes 90 % of the free memory."
    assert form.start_button.isEnabled()


def test_a_probe_makes_the_time_exact_until_the_settings_change(
    qtbot: Any, desk: Desk, monkeypatch: Any
) -> None:
    sent: list[str] = []
    monkeypatch.setattr(
        desk.services.studio, "submit", lambda kind, config, title="": sent.append(kind) or "job_9"
    )
    form = planned(qtbot, desk, width=16_384)
    box = form.plan
    assert "very roughly" in box.summary.text()
    box.measure.click()
    assert sent == ["probe_training"]
    assert box.measure.text() == "Measuring…"
    result = {"step_s": [0.5], "forward_tokens_per_s": 1e6, "forward_bytes": 0}
    done = JobRow(
        id="job_9", kind="probe_training", lane="gpu", title="", status="completed", result=result,
        created_at="", updated_at="",
    )  # fmt: skip
    with qtbot.waitSignal(box.changed):
        box._on_ended(done)
    assert box.plan is not None
    assert box.plan.measured
    assert "very roughly" not in box.summary.text()
    again(qtbot, desk, form, tokens=4_000_000)  # a longer run of the same steps
    assert box.plan.measured
    again(qtbot, desk, form, width=8192)
    assert not box.plan.measured


def test_a_text_that_is_not_ready_is_said(qtbot: Any, desk: Desk, monkeypatch: Any) -> None:
    form = planned(qtbot, desk)
    from mistudio.core.errors import InUse

    def refuse(*_: Any) -> Any:
        raise InUse("Dataset 'tales' is not ready yet.")

    monkeypatch.setattr(training_plan, "plan_training", refuse)
    again(qtbot, desk, form)
    assert form.plan.plan is None
    assert form.plan.refusal.text() == "Dataset 'tales' is not ready yet."
