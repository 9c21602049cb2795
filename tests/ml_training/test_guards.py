"""What a run survives: memory and disk that run out; and what it says of its own figures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mistudio.core.atomic import sha256_file
from mistudio.core.control import JobControl, Request
from mistudio.core.errors import DiskFull, OutOfMemory
from mistudio.core.events import RecordingReporter
from mistudio.core.training_configs import TrainConfig
from mistudio.ml.sae.registry import new_trainable
from mistudio.ml.sae.topk import TopK
from mistudio.ml.sae.trainable import Auxiliary, Penalty
from mistudio.ml.training import learner as learning
from mistudio.ml.training.alarms import Alarms
from mistudio.ml.training.loop import TrainResult, train
from mistudio.ml.training.micro_batch import MicroBatches
from tests.helpers.activations import FakeStream, batch_at, statistics_of
from tests.ml_training.test_loop import AskAt, explained

D, BATCH = 32, 256
CONFIG = TrainConfig(
    model="m",
    dataset="d",
    architecture="topk",
    width=128,
    k=6,
    tokens=BATCH * 150,
    batch=BATCH,
    learning_rate=3e-3,
)


def run(folder: Path, report: RecordingReporter | None = None, **options: Any) -> TrainResult:
    config = options.pop("config", CONFIG)
    return train(
        config,
        FakeStream(config.batch, D),
        statistics_of(D),
        folder,
        report or RecordingReporter(),
        options.pop("control", None) or JobControl(),
        **options,
    )


def sentences(report: RecordingReporter) -> list[str]:
    return [str(e.values["sentence"]) for e in report.events if e.kind == "note"]


def small_memory(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """A device on which a step of more than `most` rows does not fit."""
    whole = TopK.gradients

    def gradients(self: TopK, x_BD: torch.Tensor, *rest: Any) -> Any:
        if x_BD.shape[0] > most:
            raise RuntimeError("CUDA error: out of memory")
        return whole(self, x_BD, *rest)

    monkeypatch.setattr(TopK, "gradients", gradients)


def test_a_step_that_does_not_fit_goes_on_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = run(tmp_path / "clean")
    small_memory(monkeypatch, 70)
    report = RecordingReporter()
    result = run(tmp_path / "small", report)
    assert result.outcome == "completed"
    assert abs(explained(result) - explained(clean)) < 0.01
    told = [text for text in sentences(report) if "pieces of 64 tokens" in text]
    assert len(told) == 1

    paused = run(tmp_path / "cut", control=AskAt(40, Request.PAUSE))
    resumed = run(tmp_path / "cut", resume_from=paused.checkpoint)
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert sha256_file(result.checkpoint / name) == sha256_file(resumed.checkpoint / name)


def test_a_micro_batch_is_what_running_out_of_memory_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = run(tmp_path / "chosen", config=replace(CONFIG, micro_batch=64, tokens=BATCH * 20))
    small_memory(monkeypatch, 64)
    forced = run(tmp_path / "forced", config=replace(CONFIG, tokens=BATCH * 20))
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert sha256_file(chosen.checkpoint / name) == sha256_file(forced.checkpoint / name)
    whole = run(tmp_path / "more", config=replace(CONFIG, micro_batch=512, tokens=BATCH * 20))
    assert whole.checkpoint.exists()


def test_when_nothing_fits_a_sentence_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_memory(monkeypatch, 5)
    with pytest.raises(OutOfMemory, match="even 16 tokens at a time"):
        run(tmp_path)


@pytest.mark.parametrize("architecture", ["topk", "standard", "gated", "jumprelu"])
def test_pieces_add_up_to_the_whole_batch(architecture: str) -> None:
    config = replace(CONFIG, architecture=architecture)
    x_BD = batch_at(3, batch=200, d=D).double()
    generator = torch.Generator().manual_seed(1)
    extra = (
        None if architecture == "topk" else Penalty(0.7, 1e-2, torch.rand(128, generator=generator))
    )
    found = []
    for rows in (0, 64):
        sae = new_trainable(architecture, D, 128, 6, seed=2)
        sae.configure(config)
        sae.parameters = {name: p.double() for name, p in sae.parameters.items()}
        result = MicroBatches(rows).gradients(sae, x_BD, 30.0, extra)
        found.append((result, {name: p.grad for name, p in sae.parameters.items()}))
    (whole, grads), (pieces, summed) = found
    for name, grad in grads.items():
        assert grad is not None
        torch.testing.assert_close(summed[name], grad, rtol=1e-9, atol=1e-12)
    for name in ("reconstruction", "sparsity", "ghost", "squared_error", "squared_deviation"):
        torch.testing.assert_close(getattr(pieces, name), getattr(whole, name))
    assert torch.equal(pieces.counts_F, whole.counts_F)
    fired = whole.counts_F > 0
    assert torch.equal(pieces.last_row_F[fired], whole.last_row_F[fired])
    assert pieces.active == whole.active


def test_pieces_keep_the_auxiliary_loss() -> None:
    sae = new_trainable("topk", D, 128, 6, seed=2)
    dead = torch.arange(10, 40)
    result = MicroBatches(64).gradients(
        sae, batch_at(3, batch=200, d=D), 30.0, Auxiliary(dead, 16, 1 / 32)
    )
    assert float(result.auxiliary) > 0
    grad = sae.parameters["W_enc_FD"].grad
    assert grad is not None
    assert bool((grad[dead].abs().sum(1) > 0).any())


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = learning.save_checkpoint
    calls: list[int] = []

    def save(folder: Path, checkpoint: Any) -> Path:
        calls.append(checkpoint.step)
        if checkpoint.step == 50:
            raise DiskFull("There is no room left to write the checkpoint.")
        return written(folder, checkpoint)

    monkeypatch.setattr(learning, "save_checkpoint", save)
    report = RecordingReporter()
    result = run(tmp_path, report, config=replace(CONFIG, checkpoint_every=25))
    assert result.outcome == "completed"
    assert calls == [25, 50, 75, 100, 125, 150]
    assert any("goes on without this checkpoint" in text for text in sentences(report))
    assert result.checkpoint.name == "step_00000150"


def row(step: int, **figures: float) -> dict[str, float | int | None]:
    plain: dict[str, float | int | None] = {
        "step": step,
        "tokens": step * 100,
        "loss": 1.0,
        "reconstruction": 1.0,
        "l0": 30.0,
        "dead_fraction": 0.0,
    }
    return {**plain, **figures}


def test_dead_latents_are_told_once_and_only_when_it_can_be_known() -> None:
    alarms = Alarms(10_000, 50_000, 30.0, 100)
    assert alarms.of(row(10, dead_fraction=0.9)) == []
    told = alarms.of(row(600, dead_fraction=0.2))
    assert [level for level, _ in told] == ["warning"]
    assert "20.0% of the latents are dead" in told[0][1]
    assert alarms.of(row(610, dead_fraction=0.3)) == []
    assert alarms.of(row(620, dead_fraction=0.01)) == []
    assert len(alarms.of(row(630, dead_fraction=0.3))) == 1


def test_a_plateau_is_told_and_any_progress_delays_it() -> None:
    alarms = Alarms(100_000, 10**9, 30.0, 100)
    alarms.of(row(10, loss=2.0, l0=600.0))
    for step in range(20, 2000, 10):  # the loss rises while the penalty finds its weight
        assert alarms.of(row(step, loss=3.0, l0=500.0 - step / 5)) == []
    steps = [step for step in range(2000, 4000, 10) if alarms.of(row(step, loss=3.0, l0=105.0))]
    assert len(steps) == 1
    assert 2900 <= steps[0] <= 3010


def test_a_collapse_is_told_after_the_ramp() -> None:
    alarms = Alarms(10_000, 10**9, 30.0, 100)
    assert alarms.of(row(50, l0=1.0)) == []
    assert "Only 5.0 latents" in alarms.of(row(200, l0=5.0))[0][1]


def unaimed() -> Alarms:
    return Alarms(10_000, 10**9, None, 1000)


def fallen(alarms: Alarms, l0_at: Callable[[int], float], steps: range) -> list[tuple[int, str]]:
    """Steps and sentences of what is told of the L0."""
    return [
        (step, text)
        for step in steps
        for _, text in alarms.of(row(step, loss=1 / step, l0=l0_at(step)))
        if "latents are active" in text
    ]


def sinking(step: int) -> float:
    """A run without an aim: half of 4,608 latents, then the penalty's weight rises for 500 steps,
    then the level sinks for good; with noise."""
    start = 2300 * 60 ** -min(1.0, step / 500)
    noise = 1 + 0.15 * math.sin(2.3 * step)
    return noise * (8 + (start - 8) * math.exp(-max(0, step - 500) / 2500))


def test_an_l0_that_sinks_as_it_should_is_no_collapse_without_an_aim() -> None:
    assert sinking(10) > 50 * sinking(1500)
    assert sinking(1000) > 3 * sinking(9000), "the fall of the whole run is not what counts"
    assert fallen(unaimed(), sinking, range(10, 10_001, 10)) == []

    def rising(step: int) -> float:  # the weight of tanh rises over the whole run
        return 2300 * 1000 ** -(step / 10_000)

    assert fallen(unaimed(), rising, range(10, 10_001, 10)) == []

    def spiky(step: int) -> float:
        return sinking(step) * (30 if step in (4000, 4010) else 0 if step in (6000, 6010) else 1)

    assert fallen(unaimed(), spiky, range(10, 10_001, 10)) == []


@pytest.mark.parametrize(
    ("steps", "seen"),
    [
        (2500, [72, 58, 26.7, 14.6, 8.4, 6.4, 5.8, 5.6, 5.7, 5.3, 5.2, 5.1, 5.1, 5.0, 4.9, 4.8]),
        (2500, [71, 56, 37.8, 18.8, 9.9, 5.9, 4.3, 3.6, 3.5, 3.3, 3.2, 3.2, 3.1, 3.1, 3.0, 3.0]),
        (500, [71, 41.0, 21.8, 9.5, 6.1, 5.2]),
        (500, [72, 28.5, 16.6, 9.1, 6.7, 6.2]),
    ],
    ids=["standard", "jumprelu", "short jumprelu", "short standard"],
)
def test_falls_that_were_seen_in_runs_without_an_aim_are_none(
    steps: int, seen: list[float]
) -> None:
    """The L0 of every 100 steps of runs that found what they were to find."""

    def l0_at(step: int) -> float:
        return float(np.interp(step, 100 * np.arange(len(seen)), seen))

    alarms = Alarms(steps, 10**9, None, steps // 5)
    assert fallen(alarms, l0_at, range(10, steps + 1, 10)) == []


@pytest.mark.parametrize("took", [10, 500])
def test_a_collapse_without_an_aim_is_told_once(took: int) -> None:
    def collapsing(step: int) -> float:
        return sinking(step) * 0.05 ** min(1.0, max(0, step - 6000) / took)

    alarms = unaimed()
    ((step, text),) = fallen(alarms, collapsing, range(10, 10_001, 10))
    assert 6000 < step <= 6000 + took + 30
    assert text.startswith("Only ")
    assert " within the last 500 steps. " in text
    assert text.endswith("A smaller sparsity weight or a lower learning rate brings them back.")
    # a run that goes on looks at what it sees itself
    resumed = unaimed()
    resumed.resumed_at(5500)
    ((again, _),) = fallen(resumed, collapsing, range(5510, 10_001, 10))
    assert again == pytest.approx(step, abs=30)


def test_the_l0_may_collapse_again_after_it_came_back() -> None:
    def l0_at(step: int) -> float:
        return 2.0 if 3000 < step <= 5000 or step > 8000 else 40.0

    told = fallen(unaimed(), l0_at, range(10, 10_001, 10))
    assert [round(step, -2) for step, _ in told] == [3000, 8000]
    few = fallen(unaimed(), lambda s: 40.0 if s < 3000 else 13.0, range(10, 9000, 10))
    assert few == [], "two thirds less"


def test_hardly_any_latent_is_a_collapse_however_it_came() -> None:
    ((step, text),) = fallen(unaimed(), lambda _: 0.4, range(10, 9000, 10))
    assert 1000 < step < 1100
    assert text.startswith("Only 0.4 latents are active per token, fewer than 1. ")


def test_milestones_are_told_once_also_after_a_resume() -> None:
    alarms = Alarms(1000, 10**9, None, 100)
    told = [text for step in range(10, 1001, 10) for _, text in alarms.of(row(step, loss=1 / step))]
    assert told == [f"{mark} % of the steps are done." for mark in (10, 50, 90)]
    resumed = Alarms(1000, 10**9, None, 100)
    resumed.resumed_at(600)
    told = [
        text for step in range(610, 1001, 10) for _, text in resumed.of(row(step, loss=1 / step))
    ]
    assert told == ["90 % of the steps are done."]
