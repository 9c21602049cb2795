"""The plan of a training by the rows of a library, its check, its probe and its command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mistudio.cli import main
from mistudio.core.control import JobControl
from mistudio.core.dataset_configs import ImportDatasetConfig, TokenizeConfig
from mistudio.core.errors import InvalidInput, NotFound, OutOfMemory
from mistudio.core.events import RecordingReporter
from mistudio.core.model_configs import ImportActivationsConfig
from mistudio.core.training_configs import TrainConfig
from mistudio.jobs import training_plan
from mistudio.jobs.probe_training import rates_of
from mistudio.ml.training.checkpoint import newest_checkpoint
from mistudio.ml.training.keeping import read_values
from mistudio.ml.training.plan_formulas import Room
from mistudio.store.tables import DATASETS, TOKENIZATIONS, TRAININGS
from mistudio.system import budget
from mistudio.system.gpu import GpuSample
from tests.helpers.studio import new_studio, run, tiny_studio, tiny_training
from tests.helpers.tiny import STORIES

GB = 10**9


def test_plan_check_and_probe(tmp_path: Path, monkeypatch: Any) -> None:
    studio = tiny_studio(tmp_path)
    config = tiny_training()
    try:
        found = training_plan.plan_training(studio, [config])
        assert (found.verdict, found.saes, found.steps) == ("fits", 1, 100)
        assert found.free > GB / 10
        three = training_plan.plan_training(
            studio, [replace(config, layer=0), config, replace(config, hook="mlp_out")]
        )
        assert three.saes == 3
        assert three.window > 2 * found.window
        with pytest.raises(NotFound):
            training_plan.plan_training(studio, [replace(config, model="nobody")])

        result = run(studio, "probe_training", config)
        rates = rates_of(result)
        assert rates.step_s[0] > 0
        assert rates.forward_tokens_per_s > 0
        assert result["plan"]["measured"]
        assert json.loads(json.dumps(result))
        # the held model counts as free: it is let go, or it is the one
        assert studio.models.held_bytes > 0
        assert training_plan.room_of(studio).program == 0

        small = Room("cpu", 200_000, 24 * GB, 80 * GB)
        monkeypatch.setattr(training_plan, "room_of", lambda _: small)
        with pytest.raises(OutOfMemory, match="does not fit into memory"):
            training_plan.check_training(studio, [config])
        with pytest.raises(OutOfMemory, match="does not fit into memory"):
            studio.run_now("probe_training", config, _silent(), JobControl())
    finally:
        studio.close()


def test_a_gpu_that_shares_the_memory_is_planned_against_it(
    tmp_path: Path, monkeypatch: Any
) -> None:
    studio = tiny_studio(tmp_path)
    seen = GpuSample("Orin", None, None, None, 60.0, shared_memory=True)
    left = [budget.Budget(3 * GB, 8 * GB)]
    try:
        monkeypatch.setattr(budget, "memory_budget", lambda: left[0])
        monkeypatch.setattr(training_plan, "memory_budget", lambda: left[0])
        monkeypatch.setattr(budget, "_look", lambda: seen)
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        room = training_plan.room_of(studio)
        assert (room.device, room.shared) == ("cuda", True)
        assert (room.free, room.total) == (3 * GB + studio.models.held_bytes, 8 * GB)
        large = tiny_training(width=262_144)
        found = training_plan.check_training(studio, [large])
        assert (found.free, found.verdict) == (room.free, "fits")
        left[0] = budget.Budget(found.total // 2, 8 * GB)
        with pytest.raises(OutOfMemory, match="does not fit into memory"):
            training_plan.check_training(studio, [large])
    finally:
        studio.close()


def test_the_command_prints_the_plan_and_trains_nothing(tmp_path: Path, capsys: Any) -> None:
    studio = tiny_studio(tmp_path)
    home = str(studio.paths.home)
    studio.close()
    words = ["train", "--model", "tiny", "--dataset", "stories", "--width", "64", "--layer", "1"]
    assert main([*words, "--k", "4", "--plan", "--home", home, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert plan["verdict"] == "fits"
    assert plan["total"] == sum(item["bytes"] for item in plan["items"])
    assert not plan["measured"]
    assert not any((studio.paths.home / "runs").glob("*"))
    assert main([*words, "--k", "65", "--plan", "--home", home]) == 2


def test_a_run_takes_the_pieces_of_its_plan_and_keeps_them(
    tmp_path: Path, monkeypatch: Any
) -> None:
    studio = tiny_studio(tmp_path)
    config = tiny_training(architecture="gated", width=4096, batch=1024, tokens=4096)
    try:
        whole = training_plan.plan_training(studio, [config]).total
        made = Room("cpu", round(0.8 * whole), 24 * GB, 80 * GB)
        monkeypatch.setattr(training_plan, "room_of", lambda _: made)
        planned = training_plan.plan_training(studio, [config])
        assert 64 <= planned.pieces < 1024
        report = RecordingReporter()
        done = run(studio, "train", config, report)
        assert done["outcome"] == "completed"
        assert done["explained_variance"] is not None
        assert planned.in_pieces in [e.values.get("sentence") for e in report.events]
        row = TRAININGS.get(studio.db(), done["training"])
        assert row.config["micro_batch"] == planned.pieces
        saved = read_values(newest_checkpoint(studio.paths.run(row.id)) or tmp_path)
        assert saved["micro_batch"] == planned.pieces
        # as a run that asks for the same where there is room
        monkeypatch.undo()
        again = run(studio, "train", replace(config, micro_batch=planned.pieces))
        assert again["weights_hash"] == done["weights_hash"]
        assert run(studio, "train", config)["weights_hash"] != done["weights_hash"]
    finally:
        studio.close()


def test_all_texts_of_a_mixture_count(tmp_path: Path) -> None:
    studio = tiny_studio(tmp_path)
    try:
        other = tmp_path / "other.txt"
        other.write_text("\n\n".join(f"Tale {i}. {STORIES[i % 80]}" for i in range(400)))
        run(studio, "import_dataset", ImportDatasetConfig(path=str(other)))
        config = tiny_training(tokens=0, activations="")
        for name in ("stories", "other"):
            run(studio, "tokenize", TokenizeConfig(dataset=name, model="tiny", context=32))
        tokens = {
            DATASETS.get(studio.db(), t.dataset_id).name: t.tokens
            for t in TOKENIZATIONS.select(studio.db())
        }

        def length(**change: Any) -> int:
            return training_plan.plan_training(studio, [replace(config, **change)]).tokens

        first, second = tokens["stories"] or 0, tokens["other"] or 0
        assert second > first > 0
        assert length() == first
        assert length(dataset="other") == second
        assert length(more_datasets=("other",)) == 2 * first
        assert length(more_datasets=("other=0.5",)) == round(1.5 * first)
        assert length(more_datasets=("other=4",)) == round(5 * second / 4)
        with pytest.raises(NotFound):
            length(more_datasets=("nowhere",))
    finally:
        studio.close()


def test_vectors_without_a_model_are_planned_by_their_width(tmp_path: Path) -> None:
    studio = new_studio(tmp_path / "home")
    try:
        path = tmp_path / "v.npy"
        np.save(path, np.random.default_rng(0).normal(size=(3000, 48)).astype(np.float32))
        made = run(studio, "import_activations", ImportActivationsConfig(path=str(path), name="v"))
        config = TrainConfig(activations=made["activations"], width=4096, batch=256)
        found = training_plan.plan_training(studio, [config])
        assert "Language model" not in [item.name for item in found.items]
        state = {item.name: item.bytes for item in found.items}["SAE"]
        assert state == pytest.approx(32 * 48 * 4096, rel=0.1)
        training_plan.check_training(studio, [config])
        with pytest.raises(InvalidInput, match="Name the model"):
            run(studio, "probe_training", config)
    finally:
        studio.close()


def _silent() -> Any:
    from mistudio.core.events import SilentReporter

    return SilentReporter()
