"""A transcoder trained on a real stream of a tiny model: its pairs, its resume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mistudio.core.atomic import sha256_file
from mistudio.core.control import JobControl
from mistudio.core.events import SilentReporter
from mistudio.core.training_configs import TrainConfig
from mistudio.ml.activations.multi_capture import HookPoint
from mistudio.ml.activations.pair_capture import PairCapture
from mistudio.ml.activations.readers import LiveReader
from mistudio.ml.activations.statistics import StatisticsSettings, measure_hooks
from mistudio.ml.activations.stream import ActivationStream
from mistudio.ml.activations.windows import Feed, Windows
from mistudio.ml.data.token_store import TokenStore
from mistudio.ml.loading import LoadedModel
from mistudio.ml.training.loop import TrainResult, train
from mistudio.ml.training.run_state import TargetStatistics
from tests.helpers.tiny import STORIES, tiny_loaded, write_tokens
from tests.ml_training.test_with_model import PauseAt

READ, WRITTEN = HookPoint(1, "mlp_in"), HookPoint(1, "mlp_out")
CONFIG = TrainConfig(
    model="m", dataset="d", encoder="skip_transcoder", width=128, k=8, batch=128, tokens=128 * 40,
    window=1024, learning_rate=3e-3,
)  # fmt: skip


class Bench:
    """Model, text and statistics of both hooks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loaded: LoadedModel = tiny_loaded(folder / "model")
        self.tokens: TokenStore = write_tokens(
            folder / "data", STORIES * 3, self.loaded.tokenizer, 32
        )
        self.reader = LiveReader(self.loaded, [READ, WRITTEN])
        settings = StatisticsSettings(min_tokens=2000)
        self.measured = measure_hooks(self.reader, self.tokens, [READ, WRITTEN], settings)

    def windows(self, name: str) -> Windows:
        feed = Feed(READ, self.measured[READ], WRITTEN, self.measured[WRITTEN])
        return Windows(
            self.reader, self.tokens, [feed], window=CONFIG.window, seed=0,
            folder=self.folder / name, dtype=torch.float32,
        )  # fmt: skip

    def run(self, name: str, control: JobControl, resume_from: Path | None = None) -> TrainResult:
        windows, given = self.windows(name), self.measured[WRITTEN]
        target = TargetStatistics(torch.as_tensor(given.mean_D), given.scale, given.variance)
        try:
            stream = ActivationStream(windows, 0, batch=CONFIG.batch)
            return train(
                CONFIG, stream, self.measured[READ], self.folder / name, SilentReporter(), control,
                resume_from=resume_from, target=target,
            )  # fmt: skip
        finally:
            windows.close()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


def test_a_batch_holds_both_sides_of_the_same_tokens(bench: Bench) -> None:
    windows = bench.windows("pairs")
    stream = ActivationStream(windows, 0, batch=64)
    batch = next(stream)
    assert isinstance(batch, list | tuple)
    x_BD, y_BO = batch
    places = stream.last_positions
    pair = PairCapture(bench.loaded, 1, "mlp_in", "mlp_out")
    rows = np.unique(places[:, 0])
    x_BSD, y_BSO = pair(torch.from_numpy(bench.tokens.ids[rows].astype(np.int64)))
    at = np.searchsorted(rows, places[:, 0])
    assert torch.allclose(x_BD, x_BSD[at, places[:, 1]], atol=1e-5)
    assert torch.allclose(y_BO, y_BSO[at, places[:, 1]], atol=1e-5)
    assert not torch.allclose(x_BD, y_BO, atol=0.1)
    windows.close()


def test_a_paused_transcoder_goes_on_to_the_same_bytes(bench: Bench) -> None:
    whole = bench.run("whole", JobControl())
    paused = bench.run("cut", PauseAt(23))
    assert (paused.outcome, paused.step) == ("paused", 23)
    resumed = bench.run("cut", JobControl(), paused.checkpoint)
    assert resumed.outcome == "completed"
    for name in ("model.safetensors", "optimizer.safetensors", "state.safetensors"):
        assert sha256_file(whole.checkpoint / name) == sha256_file(resumed.checkpoint / name)
    assert whole.sae is not None
    assert resumed.sae is not None
    assert whole.sae.encoder == "skip_transcoder"
    pair = PairCapture(bench.loaded, 1, "mlp_in", "mlp_out")
    rows = np.array(bench.tokens.rows("evaluation"))
    x, y = (
        part.flatten(0, 1).clone()
        for part in pair(torch.from_numpy(bench.tokens.ids[rows].astype(np.int64)))
    )
    told = whole.sae.reconstruct(x)
    assert torch.equal(told, resumed.sae.reconstruct(x))
    assert (told - y).square().sum() < 0.7 * (y - y.mean(0)).square().sum()
