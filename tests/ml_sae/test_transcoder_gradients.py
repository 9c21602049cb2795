"""The hand-written step of transcoders and skip transcoders equals dense autograd in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mistudio.core.configs import ENCODERS
from mistudio.core.errors import InvalidInput, Mismatch
from mistudio.core.training_configs import TrainConfig
from mistudio.core.training_rules import ARCHITECTURES, TOPK_FAMILY, TRANSCODER_ARCHITECTURES
from mistudio.ml.sae import trainable
from mistudio.ml.sae.registry import new_trainable
from mistudio.ml.sae.trainable import Auxiliary, Penalty, TrainableSae
from mistudio.ml.training.optimizer import ClippedAdam
from tests.ml_sae.test_dense_gradients import Jump, Step, choose_path

D, OUT, M, K, N, V = 14, 9, 96, 4, 90, 5.0
TRANSCODERS = ("transcoder", "skip_transcoder")
PENALISED = [
    ("standard", {}),
    ("standard", {"unit_decoder": False}),
    ("jumprelu", {"jumprelu_penalty": "tanh", "bandwidth": 0.8}),
    ("jumprelu", {"jumprelu_penalty": "step", "bandwidth": 0.3}),
    ("jumprelu", {"jumprelu_penalty": "quadratic", "bandwidth": 0.3}),
]


def prepared(architecture: str, encoder: str, settings: dict[str, Any]) -> TrainableSae:
    """A transcoder away from its start."""
    sae = new_trainable(
        architecture, D, M, K, seed=3, dtype=torch.float64, d_out=OUT, encoder=encoder
    )
    config = TrainConfig(architecture=architecture, encoder=encoder, width=M, k=K, **settings)
    sae.configure(config)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in sae.parameters.items():
        if name != "W_dec_FO" or not sae.unit_decoder:
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += 0.2 * noise
    if "threshold_F" in sae.parameters:
        sae.parameters["threshold_F"].abs_()
    return sae


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs, and targets that depend on them."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N, D, dtype=torch.float64, generator=generator) + 0.5
    map_DO = torch.randn(D, OUT, dtype=torch.float64, generator=generator)
    return x, torch.relu(x @ map_DO) - 0.7


def leaves(sae: TrainableSae) -> dict[str, torch.Tensor]:
    return {n: t.detach().clone().requires_grad_() for n, t in sae.parameters.items()}


def output(p: dict[str, torch.Tensor], f: torch.Tensor, x: torch.Tensor, end: int) -> torch.Tensor:
    """What a transcoder gives: its latents up to `end`, bias and skip."""
    y = f[:, :end] @ p["W_dec_FO"][:end] + p["b_dec_O"]
    return y + x @ p["W_skip_OD"].T if "W_skip_OD" in p else y


def assert_gradients(sae: TrainableSae, p: dict[str, torch.Tensor]) -> None:
    """`grad` of every parameter, the decoder's across its rows, is that of the leaf."""
    expected = {name: leaf.grad for name, leaf in p.items()}
    W, grad_W = p["W_dec_FO"].detach(), expected["W_dec_FO"]
    assert grad_W is not None
    if sae.unit_decoder:
        expected["W_dec_FO"] = grad_W - (grad_W * W).sum(1, keepdim=True) * W
    for name, theirs in expected.items():
        ours = sae.parameters[name].grad
        assert ours is not None
        assert theirs is not None
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= 1e-9 * max(1.0, float(theirs.abs().max())), name
        assert theirs.abs().max() > 1e-5, name


@pytest.mark.parametrize("encoder", TRANSCODERS)
@pytest.mark.parametrize("architecture", TOPK_FAMILY)
@pytest.mark.parametrize("aux", [None, (4, 16), (70, 4)])
def test_selecting_architectures(
    architecture: str, encoder: str, aux: tuple[int, int] | None
) -> None:
    sae = prepared(architecture, encoder, {})
    x, y = data()
    auxiliary = None if aux is None else Auxiliary(torch.arange(1, 1 + aux[0]), aux[1], 1 / 32)
    result = sae.gradients(x, V, auxiliary, y)
    p = leaves(sae)
    h = x @ p["W_enc_FD"].T + p["b_enc_F"]
    f = torch.relu(h)
    if architecture == "topk":
        kept = torch.zeros_like(f).scatter_(1, f.topk(K, dim=1).indices, 1.0)
    else:
        flat = torch.zeros(f.numel(), dtype=f.dtype)
        flat[f.detach().flatten().topk(K * N).indices] = 1.0
        kept = flat.view_as(f)
    nested = architecture == "matryoshka_batch_topk"
    ends = [M // 32, 3 * M // 32, 7 * M // 32, 15 * M // 32, M] if nested else [M]
    told = [output(p, f * kept, x, end) for end in ends]
    loss = torch.stack([(y_g - y).square().sum(1).mean() for y_g in told]).mean() / V
    assert result.reconstruction.item() == pytest.approx(loss.item(), rel=1e-12)
    if auxiliary is not None:
        dead, active = auxiliary.dead_N, min(auxiliary.aux_k, len(auxiliary.dead_N))
        r = (y - told[-1]).detach()
        z = torch.relu(h[:, dead])
        z = z * torch.zeros_like(z).scatter_(1, z.topk(active, dim=1).indices, 1.0)
        error = (z @ p["W_dec_FO"][dead] - r).square().sum(1).mean()
        spread = (r - r.mean(0)).square().sum(1).mean()
        loss_aux = min(1, len(dead) / auxiliary.aux_k) * error / spread
        assert result.auxiliary.item() == pytest.approx(loss_aux.item(), rel=1e-12)
        loss = loss + auxiliary.weight * loss_aux
    loss.backward()
    assert_gradients(sae, p)
    assert result.squared_error.item() == pytest.approx((told[-1] - y).square().sum().item())
    assert result.squared_deviation.item() == pytest.approx((y - y.mean(0)).square().sum().item())


@pytest.mark.parametrize("encoder", TRANSCODERS)
@pytest.mark.parametrize(("architecture", "settings"), PENALISED)
@pytest.mark.parametrize(("rows", "ghost"), [(1000, 0.0), (7, 0.3)])
@pytest.mark.parametrize("path", ["tiles", "active"])
def test_penalised_architectures(
    architecture: str,
    settings: dict[str, Any],
    encoder: str,
    rows: int,
    ghost: float,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choose_path(monkeypatch, path)
    monkeypatch.setattr(trainable, "CHUNK_ENTRIES", rows * M)
    monkeypatch.setattr(trainable, "MIN_CHUNK_ROWS", 1)
    sae = prepared(architecture, encoder, settings)
    x, y = data()
    rare = torch.rand(M, dtype=torch.float64) * (torch.arange(M) < 30)
    result = sae.gradients(x, V, Penalty(0.7, ghost, rare if ghost else None, 6.0), y)
    p = leaves(sae)
    h = x @ p["W_enc_FD"].T + p["b_enc_F"]
    mode, eps = settings.get("jumprelu_penalty"), settings.get("bandwidth", 1.0)
    norm = p["W_dec_FO"].norm(dim=1) if settings.get("unit_decoder") is False else torch.ones(M)
    if architecture == "standard":
        f, lacking = torch.relu(h), -h
        P = (f * norm).sum(1).mean()
    else:
        f, lacking = Jump.apply(h, p["threshold_F"], eps, mode == "tanh"), p["threshold_F"] - h
        l0 = Step.apply(h, p["threshold_F"], eps).sum(1)
        P = {
            "tanh": torch.tanh(4 * f).sum(1).mean(),
            "step": l0.mean(),
            "quadratic": (2 / 6 * (l0 - 6).square()).mean(),
        }[mode or ""]
    reconstruction = (output(p, f, x, M) - y).square().sum(1).mean() / V
    sparsity = 0.7 * P / V
    pull = ghost * (rare * torch.relu(lacking) * norm).sum(1).mean() / V
    assert result.reconstruction.item() == pytest.approx(reconstruction.item(), rel=1e-12)
    assert result.sparsity.item() == pytest.approx(sparsity.item(), rel=1e-12)
    assert result.ghost.item() == pytest.approx(pull.item(), rel=1e-12)
    (reconstruction + sparsity + pull).backward()
    assert_gradients(sae, p)
    assert result.squared_deviation.item() == pytest.approx((y - y.mean(0)).square().sum().item())


@pytest.mark.parametrize("encoder", TRANSCODERS)
@pytest.mark.parametrize("architecture", TRANSCODER_ARCHITECTURES)
def test_the_folded_transcoder_gives_what_was_trained(architecture: str, encoder: str) -> None:
    """Two scales, far apart: the inference form reads x and gives y, both unscaled."""
    sae = prepared(architecture, encoder, {})
    x, y = data()
    s_in, s_out = 0.037, 2.5
    result = sae.gradients(x, V, None, y)
    threshold = result.smallest_kept * (1 - 1e-6) if sae.needs_threshold else None
    folded = sae.inference(s_in, threshold, s_out)
    assert folded.encoder == encoder
    assert (folded.d_in, folded.d_out) == (D, OUT)
    assert not folded.apply_b_dec_to_input
    raw_x, raw_y = (x / s_in).float(), y / s_out
    error = (folded.reconstruct(raw_x).double() - raw_y).square().sum() * s_out**2
    assert error.item() == pytest.approx(result.squared_error.item(), rel=1e-4)
    assert int(folded.encode_sparse(raw_x).l0.sum()) == result.active
    norms_F = folded.W_dec_FO.norm(dim=1)
    assert torch.allclose(norms_F, torch.ones_like(norms_F))


@pytest.mark.parametrize("architecture", TRANSCODER_ARCHITECTURES)
def test_the_start_is_the_mean_of_the_target(architecture: str) -> None:
    sae = new_trainable(architecture, D, M, K, seed=1, d_out=OUT, encoder="skip_transcoder")
    x, y = data()
    sae.start_from(x.mean(0), y.mean(0))
    p = sae.parameters
    h_at_mean_F = x.mean(0).float() @ p["W_enc_FD"].T + p["b_enc_F"]
    assert h_at_mean_F.abs().max() < 1e-6
    assert torch.allclose(p["b_dec_O"], y.mean(0).float())
    assert not p["W_skip_OD"].any()
    assert torch.allclose(p["W_enc_FD"].norm(dim=1), torch.full((M,), 0.1))
    assert torch.allclose(p["W_dec_FO"].norm(dim=1), torch.ones(M))
    with pytest.raises(InvalidInput, match="mean of what it is to give"):
        sae.start_from(x.mean(0))
    plain = new_trainable(architecture, D, M, K, seed=1)
    plain.start_from(x.mean(0))
    assert torch.allclose(plain.parameters["b_dec_O"], x.mean(0).float())
    assert not plain.parameters["b_enc_F"].any()


def test_a_skip_takes_what_is_linear() -> None:
    """Targets that are an affine map of the inputs: the skip learns it, the latents stay out."""
    generator = torch.Generator().manual_seed(0)
    map_OD = torch.randn(OUT, D, generator=generator)
    explained = {}
    x = y = torch.zeros(0)
    for encoder in TRANSCODERS:
        sae = new_trainable("batch_topk", D, 32, 1, seed=0, d_out=OUT, encoder=encoder)
        optimizer = ClippedAdam(sae.parameters, 1.0)
        for _ in range(500):
            x = torch.randn(128, D, generator=generator)
            y = x @ map_OD.T + 1.0
            sae.gradients(x, float(y.var(0).sum()), None, y)
            optimizer.step(1e-2)
            sae.normalise_decoder()
        result = sae.gradients(x, 1.0, None, y)
        explained[encoder] = 1 - float(result.squared_error / result.squared_deviation)
    assert explained["skip_transcoder"] > 0.95
    assert explained["transcoder"] < 0.6


def test_what_a_step_refuses() -> None:
    x, y = data()
    sae = new_trainable("topk", D, M, K, seed=0, dtype=torch.float64)
    with pytest.raises(Mismatch, match="no other target"):
        sae.gradients(x, V, None, x)
    transcoder = prepared("topk", "transcoder", {})
    for wrong in (None, x, y[1:]):
        with pytest.raises(Mismatch, match="width 9"):
            transcoder.gradients(x, V, None, wrong)


def test_only_what_has_a_transcoder_can_be_one() -> None:
    assert set(ARCHITECTURES) - set(TRANSCODER_ARCHITECTURES) == {"gated"}
    for encoder in TRANSCODERS:
        with pytest.raises(InvalidInput, match="no gated transcoder"):
            new_trainable("gated", D, M, K, seed=0, encoder=encoder)
    with pytest.raises(InvalidInput, match="no encoder 'other'"):
        new_trainable("topk", D, M, K, seed=0, encoder="other")
    with pytest.raises(InvalidInput, match="width it reads"):
        new_trainable("topk", D, M, K, seed=0, d_out=OUT)
    assert ENCODERS[1:] == TRANSCODERS


def test_an_sae_starts_as_it_did_before_there_were_transcoders() -> None:
    sae = new_trainable("topk", D, M, K, seed=7)
    W_dec_FO = torch.randn(M, D, generator=torch.Generator().manual_seed(7))
    W_dec_FO /= W_dec_FO.norm(dim=1, keepdim=True)
    assert torch.equal(sae.parameters["W_dec_FO"], W_dec_FO)
    assert torch.equal(sae.parameters["W_enc_FD"], W_dec_FO)
    assert set(sae.parameters) == {"W_enc_FD", "b_enc_F", "W_dec_FO", "b_dec_O"}
