"""A model that is let go while its SAE is trained: the same SAE, in less memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mistudio.core.control import JobControl
from mistudio.core.events import RecordingReporter
from mistudio.core.model_configs import ExtractConfig
from mistudio.core.training_configs import TrainConfig
from mistudio.jobs import training_plan
from mistudio.jobs.lent_model import LentModel
from mistudio.jobs.runner import Studio
from mistudio.ml import loading
from mistudio.ml.training.plan_formulas import Room
from mistudio.store import trainings
from mistudio.store.records import SaeRow, TrainingRow
from mistudio.store.tables import JOBS, MODELS, SAES, TRAININGS
from tests.helpers.studio import run, tiny_studio, tiny_training

GB = 10**9
CONFIG = tiny_training(width=2048, tokens=64 * 120)


class Watch(RecordingReporter):
    """Notes the bytes of the model that are held at each step, and acts at one of them."""

    def __init__(self, studio: Studio, act: Callable[[], None] = lambda: None, at: int = 0) -> None:
        super().__init__()
        self._studio, self._act, self._at = studio, act, at
        self.held: list[int] = []

    def metric(self, name: str, values: Mapping[str, float | int | str | None]) -> None:
        super().metric(name, values)
        if name == "training":
            self.held.append(self._studio.models.held_bytes)
            if values["step"] == self._at:
                self._act()


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Any:
    opened = tiny_studio(tmp_path_factory.mktemp("lent"))
    yield opened
    opened.close()


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every path that a model is loaded from."""
    found: list[Path] = []
    real = loading.load_model

    def counted(path: Path, *rest: Any, **more: Any) -> Any:
        found.append(path)
        return real(path, *rest, **more)

    monkeypatch.setattr(loading, "load_model", counted)
    return found


def short_of(studio: Studio, config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a byte less than model and SAE take together."""
    total = training_plan.plan_training(studio, [config]).total
    monkeypatch.setattr(
        training_plan, "room_of", lambda _: Room("cpu", total - 1, 24 * GB, 80 * GB)
    )


def notes(report: RecordingReporter) -> list[str]:
    return [str(event.values["sentence"]) for event in report.events if event.kind == "note"]


def trained(studio: Studio, config: TrainConfig, report: RecordingReporter) -> TrainingRow:
    job = studio.submit("train", config)
    assert studio.execute(job, report, JobControl()) == "completed"
    return TRAININGS.get(studio.db(), JOBS.get(studio.db(), job).target_id or "")


def sae_of(studio: Studio, row: TrainingRow) -> SaeRow:
    return SAES.get(studio.db(), row.sae_id or "")


def metrics(studio: Studio, row: TrainingRow) -> list[dict[str, Any]]:
    own = ("train_seconds", "tokens_per_s", "memory_bytes")
    rows = trainings.metrics(studio.db(), row.id)
    return [{name: value for name, value in found.items() if name not in own} for found in rows]


def test_it_is_let_go_and_the_sae_is_the_same(
    studio: Studio, loads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watch(studio)
    plain = trained(studio, replace(CONFIG, name="beside"), watched)
    assert min(watched.held) > 0
    studio.models.unload()
    loads.clear()

    short_of(studio, CONFIG, monkeypatch)
    planned = training_plan.plan_training(studio, [CONFIG])
    assert (planned.alternates, planned.pieces, planned.verdict) == (True, 0, "warn")
    report = Watch(studio)
    apart = trained(studio, replace(CONFIG, name="apart"), report)
    assert set(report.held) == {0}
    assert len(loads) == planned.loads
    assert any("let go while the SAE is trained" in note for note in notes(report))
    assert sae_of(studio, apart).weights_hash == sae_of(studio, plain).weights_hash
    assert metrics(studio, apart) == metrics(studio, plain)
    assert sae_of(studio, apart).evaluation == sae_of(studio, plain).evaluation


def test_a_run_that_was_paused_goes_on_with_more_or_less_memory_to_the_same_sae(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, tokens=64 * 50)
    plain = trained(studio, replace(config, name="undisturbed"), Watch(studio))
    studio.models.unload()
    with monkeypatch.context() as little:
        short_of(studio, config, little)
        control = JobControl()
        job = studio.submit("train", replace(config, name="paused"))
        report = Watch(studio, control.pause, at=20)
        assert studio.execute(job, report, control) == "paused"
        assert set(report.held) == {0}
        row = TRAININGS.get(studio.db(), JOBS.get(studio.db(), job).target_id or "")
    more = Watch(studio)
    assert studio.execute(studio.resume_training(row.id), more, JobControl()) == "completed"
    assert min(more.held) > 0
    row = TRAININGS.get(studio.db(), row.id)
    assert sae_of(studio, row).weights_hash == sae_of(studio, plain).weights_hash
    assert metrics(studio, row) == metrics(studio, plain)


def test_stored_activations_need_the_model_for_what_is_held_out_alone(
    studio: Studio, loads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = trainings.tokenization_of(studio.db(), TRAININGS.select(studio.db())[0].id) or ""
    extract = ExtractConfig(model="tiny", dataset=text, layers="1", rows=0, batch=64, dtype="fp32")
    stored = run(studio, "extract_activations", extract)["activations"]
    config = replace(CONFIG, activations=stored)
    plain = trained(studio, replace(config, name="stored beside"), Watch(studio))
    studio.models.unload()
    loads.clear()
    short_of(studio, config, monkeypatch)
    planned = training_plan.plan_training(studio, [config])
    report = Watch(studio)
    apart = trained(studio, replace(config, name="stored apart"), report)
    assert set(report.held) == {0}
    assert len(loads) == planned.loads == 4
    assert sae_of(studio, apart).weights_hash == sae_of(studio, plain).weights_hash


def test_what_loading_draws_at_random_is_given_back(studio: Studio) -> None:
    import torch

    def load() -> Any:
        torch.rand(3)
        return model

    model = studio.models.get(
        MODELS.named(studio.db(), "tiny"),
        studio.paths.absolute(MODELS.named(studio.db(), "tiny").path),
    )
    lent = LentModel(studio.models, load, stays=False)
    before = torch.get_rng_state()
    lent.let_go()
    assert lent.held is None
    assert lent.get() is model
    assert torch.equal(torch.get_rng_state(), before)
