"""Training on whitened activations: what is folded, kept, taken up again and trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mistudio.core.atomic import sha256_file
from mistudio.core.control import JobControl
from mistudio.core.errors import InvalidInput
from mistudio.core.events import RecordingReporter
from mistudio.core.training_configs import TrainConfig
from mistudio.core.training_rules import ARCHITECTURES, TRANSCODER_ARCHITECTURES
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.training import plan_formulas
from mistudio.ml.training.checkpoint import checkpoint_path, load_checkpoint
from mistudio.ml.training.continue_run import extend_run, run_from_sae
from mistudio.ml.training.finished import folded
from mistudio.ml.training.loop import TrainResult, sae_from_checkpoint, train
from mistudio.ml.training.probe import probe_steps
from mistudio.ml.training.run_state import RunState, TargetStatistics
from mistudio.ml.whitening import Whitener, Whitening
from tests.helpers.activations import FakeStatistics, FakeStream, batch_at, statistics_of

D, OUT, WIDTH, BATCH = 16, 6, 48, 128
CPU = torch.device("cpu")
CONFIG = TrainConfig(
    model="m", dataset="d", width=WIDTH, k=4, target_l0=4.0, batch=BATCH, tokens=BATCH * 20,
    dead_window=BATCH * 4, checkpoint_every=10, aux_k=4, input_norm="whitening",
)  # fmt: skip
KINDS = [("sae", a) for a in ARCHITECTURES] + [
    (encoder, a) for encoder in ("transcoder", "skip_transcoder") for a in TRANSCODER_ARCHITECTURES
]


def uneven(seed: int, tokens: int = 400) -> torch.Tensor:
    """Tokens whose spread differs a thousandfold between directions, far from the origin."""
    turn = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(5)).double()).Q
    spread = torch.logspace(-1.5, 1.5, D, dtype=torch.float64)
    made = torch.randn(tokens, D, generator=torch.Generator().manual_seed(seed)).double()
    return (made * spread) @ turn + 30.0 * turn[0]


def measured(x: torch.Tensor) -> Whitening:
    return Whitening.of(x.mean(0), torch.cov(x.T, correction=0))


def run(folder: Path, config: TrainConfig, **options: Any) -> TrainResult:
    stream, report = FakeStream(config.batch, D), RecordingReporter()
    return train(config, stream, statistics_of(D), folder, report, JobControl(), **options)


@pytest.mark.parametrize("unit", [1.0, 1000.0])
def test_whitened_tokens_vary_alike_whatever_their_unit(unit: float) -> None:
    x = unit * uneven(1)
    whitening = measured(x)
    z = Whitener(whitening, CPU)(x.float()).double().numpy()
    variance = np.linalg.eigvalsh(np.cov(x.T.numpy(), bias=True))
    expected = variance / (variance + 1e-3 * variance.mean())
    np.testing.assert_allclose(np.cov(z.T, bias=True), np.diag(expected), atol=2e-5)
    assert expected[-1] > 0.9999
    assert abs(z.mean(0)).max() < 1e-4
    assert whitening.total_variance == pytest.approx(expected.sum(), rel=1e-9)
    change = whitening.coordinates
    there = (x - change.origin_D) @ change.into_DC
    np.testing.assert_allclose(there @ change.back_CD + change.origin_D, x, rtol=1e-9)
    again = change.inverse
    np.testing.assert_allclose((there - again.origin_D) @ again.into_DC, x, rtol=1e-9)


def started(encoder: str, architecture: str) -> RunState:
    """A run whose every parameter, threshold and bias is far from where it starts."""
    config = replace(CONFIG, encoder=encoder, architecture=architecture)
    x, target = uneven(1), None
    if encoder != "sae":
        target = TargetStatistics(torch.full((OUT,), 3.0), 0.2, 4.0)
    whitening = measured(x)
    state = RunState(config, x.mean(0), 0.01, 9.0, CPU, target=target, whitening=whitening)
    generator = torch.Generator().manual_seed(7)
    for name, parameter in state.sae.parameters.items():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.add_(noise.abs() if name == "threshold_F" else noise, alpha=0.3)
    state.sae.normalise_decoder()
    state.threshold.restore({"value": 1.5, "averaging": 1.0})
    return state


def by_hand(state: RunState, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Which latents fire and what comes out, from the unfolded weights in whitened coordinates."""
    p = {name: tensor.double().numpy() for name, tensor in state.sae.parameters.items()}
    assert state.whitening is not None
    v, mean = state.whitening.variance_C.numpy(), uneven(1).mean(0).numpy()
    into = state.whitening.basis_DC.numpy() / np.sqrt(v + 1e-3 * v.mean())
    z = (x.numpy() - mean) @ into
    centred = z if state.sae.is_transcoder else z - p["b_dec_O"]
    pre = centred @ p["W_enc_FD"].T
    h = pre + p.get("b_enc_F", 0.0)
    if state.config.architecture == "gated":
        mag = pre * np.exp(p["r_mag_F"]) + p["b_mag_F"]
        f = np.maximum(mag, 0) * (pre + p["b_gate_F"] > 0)
    elif state.config.architecture == "topk":
        f = np.maximum(h, 0) * (h >= np.sort(h, 1)[:, [-state.sae.k]])
    else:
        theta = {"jumprelu": p.get("threshold_F"), "standard": 0.0}
        f = np.maximum(h, 0) * (h > theta.get(state.config.architecture, 1.5))
    y = f @ p["W_dec_FO"] + p["b_dec_O"]
    if "W_skip_OD" in p:
        y = y + z @ p["W_skip_OD"].T
    if state.sae.is_transcoder:
        return f > 0, y / 0.2
    return f > 0, y @ np.linalg.inv(into) + mean


@pytest.mark.parametrize(("encoder", "architecture"), KINDS)
def test_what_is_folded_computes_the_same_of_plain_activations(
    encoder: str, architecture: str
) -> None:
    state, x = started(encoder, architecture), uneven(2, 60)
    fires, expected = by_hand(state, x)
    sae = state.with_unit_rows(state.folded())
    plain = x.float()
    np.testing.assert_array_equal(sae.encode(plain).numpy() > 0, fires)
    assert 0.01 < fires.mean() < 0.7
    size = abs(expected).max()
    np.testing.assert_allclose(sae.reconstruct(plain).numpy(), expected, atol=2e-5 * size)
    norms = torch.linalg.vector_norm(sae.W_dec_FO, dim=1)
    unit = bool(((norms - 1).abs() < 1e-5).all())
    assert unit == ((encoder, architecture) != ("sae", "topk"))


def test_no_other_normalisation_takes_the_whitening(tmp_path: Path) -> None:
    plain = replace(CONFIG, input_norm="constant", architecture="topk")
    given, without = statistics_of(D), replace(statistics_of(D), whitening=None)
    hashes = set()
    for name, statistics in (("with", given), ("without", without)):
        stream, report = FakeStream(BATCH, D), RecordingReporter()
        done = train(plain, stream, statistics, tmp_path / name, report, JobControl())
        assert done.checkpoint is not None
        hashes.add(sha256_file(done.checkpoint / "model.safetensors"))
        assert "whitening_basis" not in load_checkpoint(done.checkpoint).state
    assert len(hashes) == 1
    with pytest.raises(InvalidInput, match="needs the covariance"):
        RunState(CONFIG, given.mean_D, given.scale, given.variance, CPU)


@pytest.mark.parametrize("architecture", ["batch_topk", "jumprelu"])
def test_a_run_taken_up_again_ends_the_same(tmp_path: Path, architecture: str) -> None:
    config = replace(CONFIG, architecture=architecture)
    whole = run(tmp_path / "whole", config)
    middle = checkpoint_path(tmp_path / "whole", 10)
    again = run(tmp_path / "again", config, resume_from=middle)
    assert whole.checkpoint is not None
    assert again.checkpoint is not None
    for name in ("model.safetensors", "optimizer.safetensors", "state.safetensors"):
        assert sha256_file(again.checkpoint / name) == sha256_file(whole.checkpoint / name)
    assert again.sae is not None
    assert whole.sae is not None
    written = sae_from_checkpoint(whole.checkpoint)
    for sae in (again.sae, written):  # without calibration documents all three are the same
        assert torch.equal(sae.W_enc_DF, whole.sae.W_enc_DF)
        assert torch.equal(sae.b_dec_O, whole.sae.b_dec_O)
    assert whole.sae.metadata["input_norm"] == "whitening"
    longer = replace(config, tokens=BATCH * 30)
    more = extend_run(load_checkpoint(whole.checkpoint), longer, CPU)
    x = batch_at(3, batch=50, d=D)
    torch.testing.assert_close(
        more.with_unit_rows(more.folded()).reconstruct(x), written.reconstruct(x)
    )


def test_a_threshold_found_on_plain_activations_gives_k_latents(tmp_path: Path) -> None:
    config = replace(CONFIG, architecture="batch_topk", tokens=BATCH * 60)
    documents = [batch_at(-20 - i, batch=256, d=D) for i in range(4)]
    result = run(tmp_path, config, calibration=lambda: iter(documents))
    assert result.sae is not None
    assert result.sae.threshold_F is not None
    assert len(result.sae.threshold_F.unique()) > 1  # rows differed in length before the folding
    active = (result.sae.encode(torch.cat(documents)) > 0).sum(1).float().mean()
    assert float(active) == pytest.approx(4.0, rel=5e-3)
    held = torch.cat([batch_at(-50 - i, batch=256, d=D) for i in range(2)])
    error = (result.sae.reconstruct(held) - held).square().sum()
    assert 1 - error / (held - held.mean(0)).square().sum() > 0.3


def random_sae(architecture: str, subtracts: bool, statistics: FakeStatistics) -> SparseAutoencoder:
    generator = torch.Generator().manual_seed(3)
    W_dec = torch.nn.functional.normalize(torch.randn(WIDTH, D, generator=generator), dim=1)
    theta = torch.rand(WIDTH, generator=generator) if architecture == "jumprelu" else None
    return SparseAutoencoder(
        W_dec.T.contiguous(), 0.3 * torch.randn(WIDTH, generator=generator), W_dec,
        statistics.mean_D.float() + 0.1, architecture, threshold_F=theta,
        apply_b_dec_to_input=subtracts,
    )  # fmt: skip


@pytest.mark.parametrize("architecture", ["standard", "jumprelu"])
@pytest.mark.parametrize("subtracts", [True, False])
def test_a_plain_sae_is_brought_to_whitened_coordinates(architecture: str, subtracts: bool) -> None:
    statistics = statistics_of(D)
    sae = random_sae(architecture, subtracts, statistics)
    state = run_from_sae(sae, replace(CONFIG, architecture=architecture), statistics, CPU)
    again = state.with_unit_rows(state.folded())
    x = batch_at(3, batch=100, d=D)
    torch.testing.assert_close(again.encode(x), sae.encode(x), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(again.reconstruct(x), sae.reconstruct(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("architecture", ["topk", "batch_topk"])
def test_an_sae_of_the_same_whitening_can_be_trained_on(tmp_path: Path, architecture: str) -> None:
    config = replace(CONFIG, architecture=architecture)
    trained = run(tmp_path, config).sae
    assert trained is not None
    state = run_from_sae(trained, config, statistics_of(D), CPU)
    again, x = state.with_unit_rows(state.folded()), batch_at(3, batch=100, d=D)
    torch.testing.assert_close(again.encode(x), trained.encode(x), rtol=1e-3, atol=1e-3)
    plain = replace(config, input_norm="constant")
    if architecture == "topk":  # in other units its rows have other lengths, and keep them
        again = folded(run_from_sae(trained, plain, statistics_of(D), CPU))
        torch.testing.assert_close(again.encode(x), trained.encode(x), rtol=1e-3, atol=1e-3)
    else:
        with pytest.raises(InvalidInput, match="a threshold for each latent"):
            run_from_sae(trained, plain, statistics_of(D), CPU)


def test_plan_and_probe_count_the_whitening() -> None:
    plain = replace(CONFIG, input_norm="constant")
    extra = plan_formulas.state_bytes(CONFIG, D) - plan_formulas.state_bytes(plain, D)
    assert extra == 12 * D * D
    saved = plan_formulas.saved_bytes(CONFIG, D) - plan_formulas.saved_bytes(plain, D)
    assert saved == 8 * D * D
    more = plan_formulas.step_flops(CONFIG, D) - plan_formulas.step_flops(plain, D)
    assert more == 2 * BATCH * D * D
    assert probe_steps(CONFIG, D, CPU, JobControl(), steps=2) > 0
