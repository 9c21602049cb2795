"""SAEs of attention begin in the directions that activations keep to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mistudio.core.control import JobControl
from mistudio.core.events import RecordingReporter
from mistudio.core.training_configs import TrainConfig
from mistudio.core.training_rules import ARCHITECTURES, begins_in_subspace
from mistudio.ml.sae.registry import new_trainable
from mistudio.ml.training import plan_formulas
from mistudio.ml.training.learner import Learner
from mistudio.ml.training.learner_terms import LearnerOptions
from mistudio.ml.training.loop import train
from mistudio.ml.training.run_state import TargetStatistics
from mistudio.ml.whitening import Whitening
from tests.helpers.activations import FakeStatistics, FakeStream

D, RANK, WIDTH, BATCH = 32, 5, 256, 128
CONFIG = TrainConfig(
    model="m", dataset="d", hook="attn_out", architecture="topk", width=WIDTH, k=4, aux_k=0,
    batch=BATCH, tokens=BATCH * 150, learning_rate=1e-3, checkpoint_every=0, eval_every=0,
)  # fmt: skip
CPU = torch.device("cpu")


def low_rank(seed: int, tokens: int) -> np.ndarray:
    """Tokens in `RANK` directions of uneven spread, beside an offset, with a little noise."""
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(D, D)))[0]
    draw = np.random.default_rng(seed)
    spread = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
    made = (draw.laplace(size=(tokens, RANK)) * spread) @ turn[:RANK] + 8.0 * turn[RANK]
    return made + 0.02 * draw.normal(size=(tokens, D))


class LowRank(FakeStream):
    """Batches of such tokens."""

    def __init__(self) -> None:
        super().__init__(BATCH, D)

    def __next__(self) -> torch.Tensor:
        self.position += 1
        return torch.from_numpy(low_rank(self.position, BATCH)).float()


def measured(*, directions: bool = True) -> FakeStatistics:
    x = torch.from_numpy(low_rank(0, 4000))
    mean_D = x.mean(0)
    scale = float((D / x.square().sum(1).mean()).sqrt())
    whitening = Whitening.of(mean_D, torch.cov(x.T, correction=0)) if directions else None
    return FakeStatistics(scale, mean_D, float((scale * x).var(0).sum()), whitening)


def started(
    config: TrainConfig, statistics: FakeStatistics, folder: Path
) -> tuple[Learner, RecordingReporter]:
    report = RecordingReporter()
    target = None
    if config.encoder != "sae":
        target = TargetStatistics(statistics.mean_D, statistics.scale, statistics.variance)
    options = LearnerOptions(target=target)
    learner = Learner(config, LowRank(), statistics, folder, report, JobControl(), CPU, options)
    return learner, report


def notes(report: RecordingReporter) -> list[str]:
    return [str(e.values["sentence"]) for e in report.events if e.kind == "note"]


def directions() -> np.ndarray:
    """The fewest principal directions [R, D] with 99 % of the variance, by NumPy."""
    x = low_rank(0, 4000)
    _, size, right = np.linalg.svd(x - x.mean(0), full_matrices=False)
    shares = np.cumsum(size**2) / np.sum(size**2)
    return right[: next(i for i, share in enumerate(shares) if share >= 0.99) + 1]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_lie_in_the_active_subspace(tmp_path: Path, architecture: str) -> None:
    config = replace(CONFIG, architecture=architecture, hook="attn_z")
    learner, report = started(config, measured(), tmp_path)
    p = {name: t.double().numpy() for name, t in learner.run.sae.parameters.items()}
    active = directions()
    assert len(active) == RANK
    inside = p["W_dec_FO"] @ active.T
    np.testing.assert_allclose(np.linalg.norm(inside, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(p["W_dec_FO"], axis=1), 1.0, atol=1e-5)
    assert (p["W_enc_FD"] == p["W_dec_FO"]).all()
    # drawn evenly: every direction has its share of the squared lengths
    np.testing.assert_allclose((inside**2).mean(0), 1 / RANK, atol=0.04)
    mean = measured().mean_D.numpy() * learner.run.scale
    np.testing.assert_allclose(p["b_dec_O"], mean, rtol=1e-5, atol=1e-6)
    assert notes(report) == [
        "The features begin in 5 of 32 directions, which hold 99% of the variance."
    ]


def test_of_whitened_activations_they_lie_in_the_same_subspace(tmp_path: Path) -> None:
    learner, _ = started(replace(CONFIG, input_norm="whitening"), measured(), tmp_path)
    whitening = learner.run.whitening
    assert whitening is not None
    back = whitening.coordinates.back_CD.numpy()  # a row z stands for z · back among activations
    rows = learner.run.sae.parameters["W_dec_FO"].double().numpy() @ back
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(np.linalg.norm(rows @ directions().T, axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize(
    "values",
    [
        {"hook": "resid_post"},
        {"subspace_init": "off"},
        {"hook": "mlp_out"},
        {"encoder": "transcoder", "subspace_init": "on"},
    ],
)
def test_others_begin_as_ever(tmp_path: Path, values: dict[str, str]) -> None:
    config = replace(CONFIG, **values)  # type: ignore[arg-type]
    learner, report = started(config, measured(), tmp_path)
    plain = new_trainable("topk", D, WIDTH, 4, seed=0, d_out=D, encoder=config.encoder)
    for name in ("W_dec_FO", "W_enc_FD"):
        assert torch.equal(learner.run.sae.parameters[name], plain.parameters[name])
    assert notes(report) == []


def test_without_measured_directions_all_are_taken_and_it_is_said(tmp_path: Path) -> None:
    learner, report = started(CONFIG, measured(directions=False), tmp_path)
    plain = new_trainable("topk", D, WIDTH, 4, seed=0)
    assert torch.equal(learner.run.sae.parameters["W_dec_FO"], plain.parameters["W_dec_FO"])
    assert "too few tokens" in notes(report)[0]


def test_when_it_is_asked_for() -> None:
    assert begins_in_subspace(CONFIG)
    assert begins_in_subspace(replace(CONFIG, hook="resid_post", subspace_init="on"))
    assert not begins_in_subspace(replace(CONFIG, subspace_init="off"))
    assert not begins_in_subspace(replace(CONFIG, init_from="an SAE", subspace_init="on"))
    assert not begins_in_subspace(replace(CONFIG, continue_from="a run"))


def test_fewer_latents_never_fire(tmp_path: Path) -> None:
    x = torch.from_numpy(low_rank(-1 % 2**31, 4000)).float()

    def silent(choice: str) -> float:
        config = replace(CONFIG, subspace_init=choice)
        report = RecordingReporter()
        folder = tmp_path / choice
        made = train(config, LowRank(), measured(), folder, report, JobControl())
        assert made.sae is not None
        return float((made.sae.encode(x) == 0).all(0).double().mean())

    assert silent("auto") < 0.5 * silent("off")


def test_the_plan_counts_the_directions() -> None:
    with_, without = CONFIG, replace(CONFIG, subspace_init="off")
    more = plan_formulas.state_bytes(with_, 100) - plan_formulas.state_bytes(without, 100)
    assert more == 8 * 100 * 100
    assert plan_formulas.saved_bytes(with_, 100) == plan_formulas.saved_bytes(without, 100)
