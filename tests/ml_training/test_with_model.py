"""Training on a real stream of a tiny model, and the step benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mistudio.core.atomic import sha256_file
from mistudio.core.control import JobControl, Request
from mistudio.core.errors import InvalidInput
from mistudio.core.events import SilentReporter
from mistudio.core.training_configs import TrainConfig
from mistudio.core.training_rules import ARCHITECTURES, DENSE_FAMILY
from mistudio.ml.activations.capture import Capture
from mistudio.ml.activations.multi_capture import HookPoint
from mistudio.ml.activations.statistics import StatisticsSettings, reference_statistics
from mistudio.ml.activations.stream import open_stream
from mistudio.ml.training.bench_step import bench_train_step
from mistudio.ml.training.loop import TrainResult, train
from tests.helpers.tiny import STORIES, tiny_loaded, write_tokens


class PauseAt(JobControl):
    """Asks for a pause after a number of steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._left = steps

    def requested(self) -> Request:
        if self._left == 0:
            self.pause()
        self._left -= 1
        return super().requested()


def test_resume_on_a_real_stream_gives_the_same_bytes(tmp_path: Path) -> None:
    loaded = tiny_loaded(tmp_path / "model")
    tokens = write_tokens(tmp_path / "data", STORIES * 3, loaded.tokenizer, 32)
    capture = Capture(loaded, 1, "resid_post")
    statistics = reference_statistics(capture, tokens, StatisticsSettings(min_tokens=2000))
    config = TrainConfig(
        model="m", dataset="d", width=128, k=8, batch=128, tokens=128 * 40, window=1024
    )

    def calibration() -> Iterator[torch.Tensor]:
        with torch.inference_mode():
            ids = torch.from_numpy(tokens.ids[list(tokens.rows("calibration"))].astype("int64"))
            yield capture(ids).flatten(0, 1).float()

    def run(name: str, control: JobControl, resume_from: Path | None = None) -> TrainResult:
        with open_stream(
            loaded,
            HookPoint(1, "resid_post"),
            tokens,
            statistics,
            batch=config.batch,
            window=config.window,
            seed=config.seed,
            folder=tmp_path / name,
        ) as stream:
            return train(
                config,
                stream,
                statistics,
                tmp_path / name,
                SilentReporter(),
                control,
                calibration=calibration,
                resume_from=resume_from,
            )

    whole = run("whole", JobControl())
    paused = run("cut", PauseAt(23))
    assert (paused.outcome, paused.step) == ("paused", 23)
    resumed = run("cut", JobControl(), paused.checkpoint)
    assert resumed.outcome == "completed"
    for name in ("model.safetensors", "optimizer.safetensors", "state.safetensors"):
        assert sha256_file(whole.checkpoint / name) == sha256_file(resumed.checkpoint / name)
    assert whole.sae is not None
    x = next(calibration())
    assert float(whole.sae.encode_sparse(x).l0.double().mean()) == pytest.approx(8, abs=1e-9)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_benchmark_reports_consistent_figures(architecture: str) -> None:
    found = bench_train_step(32, 256, 8, 64, 3, architecture)
    assert found["step_over_gemm"] == pytest.approx(found["step_ms"] / found["gemm_ms"])
    assert found["step_over_gemm"] > 1
    assert found["tokens_per_second"] == pytest.approx(64_000 / found["step_ms"])
    if architecture in DENSE_FAMILY:
        assert 0.3 < found["density"] < 0.7
        quiet = bench_train_step(32, 256, 8, 64, 3, architecture, density=0.02)
        assert quiet["density"] == pytest.approx(0.02, abs=0.01)
    with pytest.raises(InvalidInput, match="k is 300"):
        bench_train_step(32, 256, 300, 64)
