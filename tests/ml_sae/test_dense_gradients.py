"""The hand-written steps of the penalised architectures equal dense autograd in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mistudio.core.training_configs import TrainConfig
from mistudio.ml.sae import dense, dense_band, dense_parts, trainable
from mistudio.ml.sae.firing import FiringMask
from mistudio.ml.sae.registry import new_trainable
from mistudio.ml.sae.trainable import Penalty, TrainableSae

D, M, N, V = 12, 70, 90, 5.0
CASES = [
    ("standard", {}),
    ("standard", {"unit_decoder": False}),
    ("gated", {}),
    ("jumprelu", {"jumprelu_penalty": "tanh", "bandwidth": 0.8}),
    ("jumprelu", {"jumprelu_penalty": "step", "bandwidth": 0.3}),
    ("jumprelu", {"jumprelu_penalty": "quadratic", "bandwidth": 0.3}),
]

# the band's step is for one path from what the encoder gives to the latents; gated has two
CASES_BY_PATH = [
    (*case, path)
    for case in CASES
    for path in ("tiles", "active", "band")
    if (case[0], path) != ("gated", "band")
]


class Jump(torch.autograd.Function):
    """h·[h > θ] with the two-sided estimator, which may reach h too."""

    @staticmethod
    def forward(ctx: Any, h: Any, theta: Any, eps: float, to_input: bool) -> Any:
        ctx.save_for_backward(h, theta)
        ctx.eps, ctx.to_input = eps, to_input
        return h * (h > theta)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        h, theta = ctx.saved_tensors
        near = ((h - theta).abs() < ctx.eps / 2).to(h.dtype)
        jump = grad * theta / ctx.eps * near
        grad_h = grad * (h > theta) + (jump if ctx.to_input else 0)
        return grad_h, -jump.sum(0), None, None


class Step(torch.autograd.Function):
    """[h > θ], whose estimator reaches θ only."""

    @staticmethod
    def forward(ctx: Any, h: Any, theta: Any, eps: float) -> Any:
        ctx.save_for_backward(h, theta)
        ctx.eps = eps
        return (h > theta).to(h.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        h, theta = ctx.saved_tensors
        near = ((h - theta).abs() < ctx.eps / 2).to(h.dtype)
        return None, -(grad * near).sum(0) / ctx.eps, None


def prepared(
    architecture: str, settings: dict[str, Any], dtype: Any = torch.float64
) -> TrainableSae:
    """An SAE away from its symmetric start."""
    sae = new_trainable(architecture, D, M, 6, seed=3, dtype=dtype)
    sae.configure(TrainConfig(architecture=architecture, width=M, k=6, **settings))
    generator = torch.Generator().manual_seed(5)
    for name, parameter in sae.parameters.items():
        if name != "W_dec_FO" or not sae.unit_decoder:
            noise = torch.randn(parameter.shape, generator=generator, dtype=dtype)
            parameter += 0.2 * noise
    if "threshold_F" in sae.parameters:
        sae.parameters["threshold_F"].abs_()
    return sae


def dense_losses(
    sae: TrainableSae, x: torch.Tensor, penalty: Penalty, settings: dict[str, Any]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """R/V, λP/V and λ_g G/V by their formulas, and the leaves they were made from."""
    p = {n: t.detach().clone().requires_grad_() for n, t in sae.parameters.items()}
    pre = (x - p["b_dec_O"]) @ p["W_enc_FD"].T
    rare = torch.zeros(M, dtype=x.dtype) if penalty.rare_F is None else penalty.rare_F
    extra = torch.zeros((), dtype=x.dtype)
    norm = p["W_dec_FO"].norm(dim=1) if settings.get("unit_decoder") is False else torch.ones(M)
    if sae.architecture == "gated":
        gate = pre + p["b_gate_F"]
        f = (gate > 0) * torch.relu(pre * p["r_mag_F"].exp() + p["b_mag_F"])
        through = torch.relu(gate)
        second = through @ p["W_dec_FO"].detach() + p["b_dec_O"].detach() - x
        extra = second.square().sum(1).mean()
        P = through.sum(1).mean()
        lacking = -gate
    else:
        h = pre + p["b_enc_F"]
        mode, eps = settings.get("jumprelu_penalty"), settings.get("bandwidth", 1.0)
        if sae.architecture == "standard":
            f = torch.relu(h)
            P = (f * norm).sum(1).mean()
            lacking = -h
        else:
            theta = p["threshold_F"]
            f = Jump.apply(h, theta, eps, mode == "tanh")
            l0 = Step.apply(h, theta, eps).sum(1)
            if mode == "tanh":
                P = torch.tanh(4 * f).sum(1).mean()
            elif mode == "step":
                P = l0.mean()
            else:
                P = (2 / 6 * (l0 - 6).square()).mean()
            lacking = theta - h
    y = f @ p["W_dec_FO"] + p["b_dec_O"]
    losses = {
        "reconstruction": ((y - x).square().sum(1).mean() + extra) / V,
        "sparsity": penalty.weight * P / V,
        "ghost": penalty.ghost * (rare * torch.relu(lacking) * norm).sum(1).mean() / V,
    }
    return losses, p


def choose_path(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Take every step over the active entries, or over tiles of 24 latents (the last has 22), with
    latents that fire summed one by one ("band") or not."""
    monkeypatch.setattr(dense, "SPARSE_BELOW", {"cpu": 2.0 if path == "active" else 0.0})
    monkeypatch.setattr(dense, "FEW_BELOW", {"cpu": 2.0 if path == "band" else 0.0})
    monkeypatch.setattr(dense_parts, "TILE_LATENTS", {"cpu": 24})
    monkeypatch.setattr(dense_band, "BLOCK_ENTRIES", 5 * M)
    used = {"tiles": "tiled_step", "active": "active_step", "band": "band_step"}[path]
    for name in {"tiled_step", "active_step", "band_step"} - {used}:
        monkeypatch.setattr(dense, name, None)


@pytest.mark.parametrize(("architecture", "settings", "path"), CASES_BY_PATH)
@pytest.mark.parametrize("rows", [7, 1000])
@pytest.mark.parametrize("ghost", [0.0, 0.3])
def test_gradients_equal_float64_autograd(
    architecture: str,
    settings: dict[str, Any],
    rows: int,
    ghost: float,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choose_path(monkeypatch, path)
    monkeypatch.setattr(trainable, "CHUNK_ENTRIES", rows * M)
    monkeypatch.setattr(trainable, "MIN_CHUNK_ROWS", 1)
    sae = prepared(architecture, settings)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N, D, dtype=torch.float64, generator=generator) + 0.5
    rare = torch.rand(M, dtype=torch.float64, generator=generator) * (torch.arange(M) < 30)
    penalty = Penalty(0.7, ghost, rare if ghost else None, 6.0)
    result = sae.gradients(x, V, penalty)
    losses, p = dense_losses(sae, x, penalty, settings)
    for name, loss in losses.items():
        assert getattr(result, name).item() == pytest.approx(loss.item(), rel=1e-12), name
        assert loss.item() > 0 or name == "ghost"
    torch.stack(list(losses.values())).sum().backward()
    expected = {name: leaf.grad for name, leaf in p.items()}
    W, grad_W = p["W_dec_FO"].detach(), expected["W_dec_FO"]
    assert grad_W is not None
    if sae.unit_decoder:
        expected["W_dec_FO"] = grad_W - (grad_W * W).sum(1, keepdim=True) * W
    for name, theirs in expected.items():
        ours = sae.parameters[name].grad
        assert ours is not None
        assert theirs is not None
        assert (ours - theirs).abs().max() <= 1e-9 * max(1.0, float(theirs.abs().max())), name
        assert theirs.abs().max() > 1e-5, name


@pytest.mark.parametrize(("architecture", "settings", "path"), CASES_BY_PATH)
def test_counts_and_last_rows(
    architecture: str, settings: dict[str, Any], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_path(monkeypatch, path)
    monkeypatch.setattr(trainable, "CHUNK_ENTRIES", 40 * M)
    monkeypatch.setattr(trainable, "MIN_CHUNK_ROWS", 1)
    sae = prepared(architecture, settings)
    sae.parameters["W_enc_FD"][:3] = 0.0
    for name in ("b_enc_F", "b_gate_F", "b_mag_F"):
        if name in sae.parameters:
            sae.parameters[name][:3] = -1.0  # never fire
    x = torch.randn(N, D, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    result = sae.gradients(x, V, Penalty(0.1))
    inference = sae.folded(1.0)
    f = inference.encode(x.float())
    fired = f > 0
    assert torch.equal(result.counts_F, fired.sum(0))
    assert result.active == int(fired.sum())
    assert not result.counts_F[:3].any()
    for latent in range(M):
        rows = fired[:, latent].nonzero().flatten()
        if len(rows):
            assert int(result.last_row_F[latent]) == int(rows[-1])


@pytest.mark.parametrize("path", ["tiles", "active", "band"])
def test_the_threshold_is_taught_from_both_sides(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_path(monkeypatch, path)
    sae = new_trainable("jumprelu", 5, 5, 5, seed=0, dtype=torch.float64)
    sae.configure(
        TrainConfig(
            architecture="jumprelu", width=5, k=5, jumprelu_penalty="step", bandwidth=0.1,
            first_threshold=0.5,
        )
    )  # fmt: skip
    sae.parameters["W_enc_FD"].copy_(torch.eye(5))
    sae.parameters["W_dec_FO"].zero_()  # so that only the penalty is felt
    sae.gradients(
        torch.tensor([[0.46, 0.49, 0.51, 0.54, 0.6]], dtype=torch.float64), 1.0, Penalty(1.0)
    )
    grad = sae.parameters["threshold_F"].grad
    assert grad is not None
    assert grad.tolist() == pytest.approx([-10, -10, -10, -10, 0])


def test_thresholds_never_fall_below_zero() -> None:
    sae = prepared("jumprelu", {"jumprelu_penalty": "tanh"})
    sae.parameters["threshold_F"][:5] = -1.0
    sae.gradients(torch.randn(8, D, dtype=torch.float64), V, Penalty(1.0))
    assert float(sae.parameters["threshold_F"].min()) >= 0


@pytest.mark.parametrize("path", ["tiles", "active"])
def test_the_gated_gate_gives_the_decoder_no_gradient(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With latents shut by their magnitude only the gate's path is left."""
    choose_path(monkeypatch, path)
    sae = prepared("gated", {})
    sae.parameters["b_mag_F"].fill_(-1e3)
    result = sae.gradients(torch.randn(N, D, dtype=torch.float64), V, Penalty(0.5))
    assert result.active == 0
    grad_dec, grad_enc = (sae.parameters[n].grad for n in ("W_dec_FO", "W_enc_FD"))
    assert grad_dec is not None
    assert grad_enc is not None
    assert not grad_dec.any()
    assert grad_enc.any()


@pytest.mark.parametrize(("architecture", "settings"), CASES)
@pytest.mark.parametrize("scale", [1.0, 0.037])
def test_the_folded_sae_computes_the_same(
    architecture: str, settings: dict[str, Any], scale: float
) -> None:
    sae = prepared(architecture, settings)
    x = torch.randn(N, D, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    result = sae.gradients(x, V, Penalty(0.1))
    folded = sae.folded(scale)
    raw = (x / scale).float()
    error = (folded.reconstruct(raw).double() * scale - x).square().sum()
    assert error.item() == pytest.approx(result.squared_error.item(), rel=1e-4)
    assert int(folded.encode_sparse(raw).l0.sum()) == result.active


def test_scaling_the_input_changes_neither_loss_nor_latents() -> None:
    sae = new_trainable("standard", D, M, 6, seed=0, dtype=torch.float64)
    x = torch.randn(N, D, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    first = sae.gradients(x, float(x.var(0).sum()), Penalty(0.0))
    second = sae.gradients(1000 * x, float((1000 * x).var(0).sum()), Penalty(0.0))
    assert second.reconstruction.item() == pytest.approx(first.reconstruction.item(), rel=1e-12)
    assert torch.equal(first.counts_F, second.counts_F)


@pytest.mark.parametrize(("architecture", "settings"), CASES)
def test_the_share_of_touched_entries_decides_how_a_step_is_made(
    architecture: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either way the same step comes out; the choice depends on batch and parameters alone."""
    sae = prepared(architecture, settings, torch.float32)
    x = torch.randn(N, D, generator=torch.Generator().manual_seed(2))
    assert isinstance(sae, dense.DenseSae)
    assert sae.step_for(x) is dense.tiled_step
    bias = {"gated": "b_gate_F"}.get(architecture, "b_enc_F")
    sae.parameters[bias] -= 9.0
    sae.parameters[bias][::9] += 7.0  # a few still fire now and then
    assert sae.step_for(x) is dense.active_step
    rare = (torch.arange(M) % 9 == 1).float()
    penalty = Penalty(0.7, 0.3, rare, 6.0)
    few = sae.gradients(x, V, penalty)
    gradients = {name: p.grad.clone() for name, p in sae.parameters.items() if p.grad is not None}
    monkeypatch.setattr(dense, "SPARSE_BELOW", {"cpu": 0.0})
    all_of_them = sae.gradients(x, V, penalty)
    assert 0 < few.active < 0.1 * N * M
    assert few.active == all_of_them.active
    assert torch.equal(few.counts_F, all_of_them.counts_F)
    fired = few.counts_F > 0
    assert torch.equal(few.last_row_F[fired], all_of_them.last_row_F[fired])
    for name in ("reconstruction", "sparsity", "ghost", "squared_error", "squared_deviation"):
        assert getattr(few, name).item() == pytest.approx(getattr(all_of_them, name).item(), 1e-5)
    for name, one in gradients.items():
        other = sae.parameters[name].grad
        assert other is not None
        assert (one - other).abs().max() <= 1e-5 * float(other.abs().max()), name


def test_few_that_fire_among_many_near_a_threshold_are_summed_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The wide band of tanh: dense gradients, sparse decoding, the same step."""
    sae = prepared("jumprelu", {"jumprelu_penalty": "tanh", "bandwidth": 8.0}, torch.float32)
    assert isinstance(sae, dense.DenseSae)
    x = torch.randn(N, D, generator=torch.Generator().manual_seed(2))
    assert sae.step_for(x) is dense.tiled_step
    sae.parameters["threshold_F"].fill_(3.0)
    assert sae.step_for(x) is dense.band_step
    penalty = Penalty(0.7, 0.3, (torch.arange(M) % 9 == 1).float(), 6.0)
    few = sae.gradients(x, V, penalty)
    gradients = {name: p.grad.clone() for name, p in sae.parameters.items() if p.grad is not None}
    monkeypatch.setattr(dense, "FEW_BELOW", {"cpu": 0.0})
    whole = sae.gradients(x, V, penalty)
    assert 0 < few.active < 0.05 * N * M
    assert torch.equal(few.counts_F, whole.counts_F)
    for name in ("reconstruction", "sparsity", "ghost", "squared_error"):
        assert getattr(few, name).item() == pytest.approx(getattr(whole, name).item(), 1e-5)
    for name, one in gradients.items():
        other = sae.parameters[name].grad
        assert other is not None
        assert (one - other).abs().max() <= 1e-5 * float(other.abs().max()), name


@pytest.mark.parametrize("shape", [(1, 1), (31, 8), (64, 9), (300, 70)])
def test_firings_are_counted_and_the_last_one_is_found(shape: tuple[int, int]) -> None:
    f = torch.relu(torch.randn(shape, generator=torch.Generator().manual_seed(3)) - 1.5)
    f[:, 0] = 0.0
    mask = FiringMask()
    mask.fill(torch.ones(500, 90))  # what an earlier use left behind
    mask.fill(f)
    counts, last = mask.count()
    assert torch.equal(counts, (f > 0).sum(0))
    for latent in range(shape[1]):
        rows = f[:, latent].nonzero().flatten().tolist()
        assert int(last[latent]) == (rows[-1] + 1 if rows else 0)
