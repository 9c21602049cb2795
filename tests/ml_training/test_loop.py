"""The training loop on made-up activations: learns, pauses, stops, skips, resumes exactly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mistudio.core.atomic import sha256_file
from mistudio.core.control import JobControl, Request
from mistudio.core.errors import Cancelled, Mismatch, TrainingBroke
from mistudio.core.events import RecordingReporter
from mistudio.core.training_configs import TrainConfig
from mistudio.core.training_rules import ARCHITECTURES, DENSE_FAMILY, TOPK_FAMILY
from mistudio.ml.training.checkpoint import list_checkpoints, newest_checkpoint
from mistudio.ml.training.loop import TrainResult, sae_from_checkpoint, train
from tests.helpers.activations import FakeStream, batch_at, statistics_of

D, BATCH = 32, 256
CONFIG = TrainConfig(
    target_l0=6.0,
    model="m",
    dataset="d",
    architecture="topk",
    width=128,
    k=6,
    tokens=BATCH * 120,
    batch=BATCH,
)
EVERY_ARCHITECTURE = pytest.mark.parametrize("architecture", ARCHITECTURES)


class AskAt(JobControl):
    """Makes a request once a given number of steps has been checked."""

    def __init__(self, step: int, request: Request) -> None:
        super().__init__()
        self._left, self._wanted = step, request

    def requested(self) -> Request:
        if self._left == 0:
            self.ask(self._wanted)
        self._left -= 1
        return super().requested()


def run(folder: Path, config: TrainConfig = CONFIG, **options: Any) -> TrainResult:
    stream = options.pop("stream", None) or FakeStream(config.batch, D)
    report = options.pop("report", None) or RecordingReporter()
    control = options.pop("control", None) or JobControl()
    return train(config, stream, statistics_of(D), folder, report, control, **options)


def held_out() -> torch.Tensor:
    return torch.cat([batch_at(-50 - i, batch=500, d=D) for i in range(4)])


def explained(result: TrainResult) -> float:
    assert result.sae is not None
    x = held_out()
    error = x - result.sae.reconstruct(x)
    return float(1 - error.square().sum() / (x - x.mean(0)).square().sum())


def calibration() -> list[torch.Tensor]:
    return [batch_at(-20 - i, batch=500, d=D) for i in range(4)]


@EVERY_ARCHITECTURE
def test_learns_and_reports(tmp_path: Path, architecture: str) -> None:
    report = RecordingReporter()
    steps = 600 if architecture in DENSE_FAMILY else 300
    config = replace(CONFIG, architecture=architecture, learning_rate=3e-3, tokens=BATCH * steps)
    result = run(tmp_path, config, report=report, calibration=calibration)
    assert result.outcome == "completed"
    assert result.sae is not None
    # nested dictionaries pay for the small ones; penalties need more than 600 steps, L1 shrinks
    least = {"matryoshka_batch_topk": 0.7, "jumprelu": 0.6, "standard": 0.3}.get(architecture, 0.8)
    assert explained(result) > least
    norms = torch.linalg.vector_norm(result.sae.W_dec_FO, dim=1)
    assert (norms - 1).abs().max() < 1e-6
    l0 = float(result.sae.encode_sparse(held_out()).l0.double().mean())
    if architecture in DENSE_FAMILY:  # steered there, slowly
        assert abs(l0 - 6) <= 1.5
    else:
        assert l0 <= 6 if architecture == "topk" else abs(l0 - 6) <= 0.12
    rows = [e.values for e in report.events if e.kind == "metric"]
    assert [row["step"] for row in rows] == list(range(10, steps + 1, 10))
    assert rows[-1]["tokens"] == BATCH * steps
    assert least < float(str(rows[-1]["explained_variance"])) < 1
    first, last = (float(str(row["reconstruction"])) for row in (rows[0], rows[-1]))
    assert last < first * (1.3 - least)
    assert (rows[-1]["k"] is None) == (architecture in DENSE_FAMILY)
    assert (float(str(rows[-1]["sparsity"])) > 0) == (architecture in DENSE_FAMILY)
    wanted = {"reconstruction", "sparsity", "auxiliary", "l0", "dead", "dead_fraction", "k"}
    assert wanted | {"learning_rate", "grad_norm", "threshold", "tokens_per_s"} <= set(rows[0])


def metric_rows(report: RecordingReporter) -> list[dict[str, Any]]:
    """What was reported, without the clock."""
    rows = [dict(e.values) for e in report.events if e.kind == "metric"]
    return [{k: v for k, v in r.items() if k not in ("tokens_per_s", "seconds")} for r in rows]


@EVERY_ARCHITECTURE
def test_pause_and_resume_equal_an_undisturbed_run(tmp_path: Path, architecture: str) -> None:
    config = replace(CONFIG, architecture=architecture, dead_window=3000, aux_k=4)
    quiet, cut = RecordingReporter(), RecordingReporter()
    whole = run(tmp_path / "a", config, report=quiet)
    control = AskAt(53, Request.PAUSE)
    paused = run(tmp_path / "b", config, control=control, report=cut)
    assert (paused.outcome, paused.step, paused.sae) == ("paused", 53, None)
    newest = newest_checkpoint(tmp_path / "b")
    assert newest == paused.checkpoint
    resumed = run(tmp_path / "b", config, resume_from=newest, report=cut)
    assert (resumed.outcome, resumed.step) == ("completed", 120)
    assert metric_rows(cut) == metric_rows(quiet), "steps before the pause count in its row"
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert sha256_file(whole.checkpoint / name) == sha256_file(resumed.checkpoint / name)
    assert whole.threshold == resumed.threshold


@EVERY_ARCHITECTURE
def test_a_stopped_run_leaves_a_usable_sae(tmp_path: Path, architecture: str) -> None:
    config = replace(CONFIG, architecture=architecture)
    result = run(tmp_path, config, control=AskAt(30, Request.STOP), calibration=calibration)
    assert (result.outcome, result.step) == ("stopped", 30)
    assert result.sae is not None
    again = sae_from_checkpoint(result.checkpoint)
    assert torch.equal(again.W_dec_FO, result.sae.W_dec_FO)
    assert again.metadata["trained_steps"] == 30
    l0 = float(again.encode_sparse(held_out()).l0.double().mean())
    if architecture in TOPK_FAMILY:  # a penalty has not brought it there after 30 steps
        assert abs(l0 - 6) < 1.5  # the average θ of a moving run is only near its goal


def test_cancel_before_the_first_step_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        run(tmp_path, control=AskAt(0, Request.CANCEL))
    assert list(tmp_path.iterdir()) == []
    late = run(tmp_path, control=AskAt(5, Request.CANCEL))
    assert (late.outcome, late.step) == ("cancelled", 5)
    assert late.sae is not None


def test_evaluation_receives_the_sae_and_its_result_is_kept(tmp_path: Path) -> None:
    config = replace(CONFIG, tokens=BATCH * 5)
    result = run(tmp_path, config, evaluate=lambda sae: {"width": sae.n_latents})
    assert result.metrics == {"width": 128}

    def tired(sae: object) -> dict[str, Any]:
        raise Cancelled

    kept = run(tmp_path / "2", config, evaluate=tired)
    assert (kept.outcome, kept.metrics) == ("completed", {})


def test_save_now_and_every(tmp_path: Path) -> None:
    control = JobControl()
    control.save_now()
    run(tmp_path, replace(CONFIG, tokens=BATCH * 7, checkpoint_every=3), control=control)
    assert [int(p.name[5:]) for p in list_checkpoints(tmp_path)] == [1, 3, 6, 7]


@pytest.mark.parametrize("spoil", [float("inf"), float("nan"), 1000.0])
def test_unusable_batches_are_skipped_without_harm(tmp_path: Path, spoil: float) -> None:
    config = replace(CONFIG, learning_rate=3e-3)
    clean = run(tmp_path / "clean", config)
    report = RecordingReporter()
    stream = FakeStream(BATCH, D, {40: spoil, 41: spoil, 60: spoil})
    result = run(tmp_path / "spoilt", config, stream=stream, report=report)
    assert result.skipped == 3
    told = [str(e.values["sentence"]) for e in report.events if e.kind == "note"]
    assert sum("its batch was skipped" in text for text in told) == 3
    assert explained(result) == pytest.approx(explained(clean), rel=0.01)


def test_three_unusable_batches_in_a_row_end_the_run(tmp_path: Path) -> None:
    stream = FakeStream(BATCH, D, dict.fromkeys(range(30, 40), float("nan")))
    with pytest.raises(TrainingBroke, match="step 33"):
        run(tmp_path, replace(CONFIG, checkpoint_every=25), stream=stream)
    assert sae_from_checkpoint(list_checkpoints(tmp_path)[-1]).n_latents == 128


@pytest.mark.parametrize("steps", [30, 60])
def test_a_checkpoint_threshold_survives_folding(tmp_path: Path, steps: int) -> None:
    """θ is trained on s·x with s far from 1; after folding the L0 is the same."""
    config = replace(CONFIG, architecture="batch_topk", learning_rate=1e-6, decay_share=0.0)
    result = run(tmp_path, config, control=AskAt(steps, Request.STOP))
    assert abs(statistics_of(D).scale - 1) > 0.5
    l0 = float(sae_from_checkpoint(result.checkpoint).encode_sparse(held_out()).l0.double().mean())
    assert l0 == pytest.approx(6, rel=0.05)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    config = replace(CONFIG, tokens=BATCH * 5)
    result = run(tmp_path, config, origin={"model fingerprint": "a"})
    with pytest.raises(Mismatch, match="settings"):
        run(tmp_path, replace(config, k=5), resume_from=result.checkpoint)
    with pytest.raises(Mismatch, match="model fingerprint"):
        run(tmp_path, config, resume_from=result.checkpoint, origin={"model fingerprint": "b"})


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 3e-3},
        {"warmup_steps": 40},
        {"decay_share": 0.5},
        {"k_anneal": 2.0},
        {"k": 5},
        {"aux_k": 0},
        {"aux_weight": 0.5},
        {"dead_window": 300},
        {"gradient_clip": 0.01},
        {"seed": 1},
        {"architecture": "batch_topk"},
    ],
)
def test_every_setting_changes_the_result(
    tmp_path: Path, change: dict[str, Any], reference: TrainResult
) -> None:
    result = run(tmp_path, replace(CONFIG, **{"dead_window": 500, **change}))
    assert result.sae is not None
    assert reference.sae is not None
    assert not torch.equal(result.sae.W_dec_FO, reference.sae.W_dec_FO)


@pytest.mark.parametrize(
    ("base", "change"),
    [
        ({"architecture": "standard"}, {"sparsity": 0.3}),
        ({"architecture": "standard"}, {"target_l0": 0.0}),
        ({"architecture": "gated"}, {"target_l0": 3.0}),
        ({"architecture": "jumprelu"}, {"jumprelu_penalty": "step"}),
        ({"architecture": "jumprelu"}, {"bandwidth": 0.5}),
        ({"architecture": "jumprelu"}, {"first_threshold": 0.9}),
        ({"architecture": "jumprelu", "jumprelu_penalty": "quadratic"}, {"k": 4}),
    ],
)
def test_every_setting_of_a_penalty_changes_the_result(
    tmp_path: Path, base: dict[str, Any], change: dict[str, Any]
) -> None:
    found = [
        run(tmp_path / name, replace(CONFIG, **values)).sae
        for name, values in (("a", base), ("b", {**base, **change}))
    ]
    assert found[0] is not None
    assert found[1] is not None
    assert not torch.equal(found[0].W_dec_FO, found[1].W_dec_FO)


@pytest.mark.parametrize("architecture", ["standard", "jumprelu"])
def test_settings_of_other_architectures_do_nothing(tmp_path: Path, architecture: str) -> None:
    """What does not apply is ignored: k, AuxK and annealing without a selection."""
    base = replace(CONFIG, architecture=architecture)
    other = replace(base, k=31, aux_k=3, aux_weight=0.9, k_anneal=4.0)
    found = [run(tmp_path / n, c).sae for n, c in (("a", base), ("b", other))]
    assert found[0] is not None
    assert found[1] is not None
    assert torch.equal(found[0].W_dec_FO, found[1].W_dec_FO)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return run(tmp_path_factory.mktemp("reference"), replace(CONFIG, dead_window=500))


WORKER = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from mistudio.ml.training.checkpoint import newest_checkpoint
from tests.ml_training.test_loop import CONFIG, FakeStream, run, BATCH, D
torch.set_num_threads(1)
folder, kill_at = Path(sys.argv[1]), int(sys.argv[2])
class Deadly(FakeStream):
    def __next__(self):
        if self.position == kill_at:
            import os, signal
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__next__()
config = replace(CONFIG, architecture="batch_topk", checkpoint_every=10, dead_window=3000)
run(folder, config, stream=Deadly(BATCH, D), resume_from=newest_checkpoint(folder))
"""


def test_kill_and_resume_gives_the_same_bytes(tmp_path: Path) -> None:
    def worker(folder: Path, kill_at: int) -> int:
        command = [sys.executable, "-c", WORKER, str(folder), str(kill_at)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            command, env=environment, cwd=Path(__file__).parents[2], check=False, timeout=120
        ).returncode

    assert worker(tmp_path / "whole", -1) == 0
    for kill_at in (37, 90):
        assert worker(tmp_path / "killed", kill_at) == -signal.SIGKILL
    assert worker(tmp_path / "killed", -1) == 0
    whole, killed = (newest_checkpoint(tmp_path / name) for name in ("whole", "killed"))
    assert whole is not None
    assert killed is not None
    assert whole.name == killed.name == "step_00000120"
    for name in ("model.safetensors", "optimizer.safetensors", "state.safetensors"):
        assert sha256_file(whole / name) == sha256_file(killed / name)
