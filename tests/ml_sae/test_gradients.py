"""The hand-written step equals dense autograd in float64."""

from __future__ import annotations

import pytest
import torch

from mistudio.core.errors import InvalidInput
from mistudio.core.training_rules import ARCHITECTURES, TOPK_FAMILY
from mistudio.ml.sae.matryoshka import prefix_widths
from mistudio.ml.sae.registry import TRAINABLE, new_trainable
from mistudio.ml.sae.trainable import Auxiliary, TrainableSae
from mistudio.ml.training.optimizer import ClippedAdam

NAMES = ("W_enc_FD", "b_enc_F", "W_dec_FO", "b_dec_O")


def prepared(architecture: str, d: int, m: int, k: int) -> TrainableSae:
    """An SAE away from its symmetric start."""
    sae = new_trainable(architecture, d, m, k, seed=3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(5)
    for name in ("W_enc_FD", "b_enc_F", "b_dec_O"):
        noise = torch.randn(sae.parameters[name].shape, generator=generator, dtype=torch.float64)
        sae.parameters[name] += 0.2 * noise
    return sae


def prefixes(sae: TrainableSae) -> list[int]:
    """Sizes of the dictionaries that reconstruct the input, written out here once more."""
    m = sae.n_latents
    if sae.architecture == "matryoshka_batch_topk":
        return [m // 32, 3 * m // 32, 7 * m // 32, 15 * m // 32, m]
    return [m]


def dense_loss(
    sae: TrainableSae, x: torch.Tensor, variance: float, auxiliary: Auxiliary | None
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    p = {name: sae.parameters[name].detach().clone().requires_grad_() for name in NAMES}
    h = (x - p["b_dec_O"]) @ p["W_enc_FD"].T + p["b_enc_F"]
    f = torch.relu(h)
    if sae.architecture == "topk":
        kept = torch.zeros_like(f).scatter_(1, f.topk(sae.k, dim=1).indices, 1.0)
    else:
        flat = torch.zeros(f.numel(), dtype=f.dtype)
        flat[f.detach().flatten().topk(sae.k * len(x)).indices] = 1.0
        kept = flat.view_as(f)
    loss = torch.zeros((), dtype=f.dtype)
    ends = prefixes(sae)
    for end in ends:
        y = (f * kept)[:, :end] @ p["W_dec_FO"][:end] + p["b_dec_O"]
        loss = loss + (y - x).square().sum(1).mean() / variance / len(ends)
    if auxiliary is not None:
        dead = auxiliary.dead_N
        r = (x - y).detach()
        active = min(auxiliary.aux_k, len(dead))
        z = torch.relu(h[:, dead])
        z = z * torch.zeros_like(z).scatter_(1, z.topk(active, dim=1).indices, 1.0)
        error = (z @ p["W_dec_FO"][dead] - r).square().sum(1).mean()
        spread = (r - r.mean(0)).square().sum(1).mean()
        loss = loss + auxiliary.weight * min(1, len(dead) / auxiliary.aux_k) * error / spread
    return loss, p


@pytest.mark.parametrize("architecture", TOPK_FAMILY)
@pytest.mark.parametrize(("m", "aux"), [(96, None), (256, None), (96, (4, 16)), (256, (90, 8))])
def test_gradients_equal_float64_autograd(
    architecture: str, m: int, aux: tuple[int, int] | None
) -> None:
    sae = prepared(architecture, 24, m, 4)
    x = torch.randn(80, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.5
    auxiliary = None
    if aux is not None:
        auxiliary = Auxiliary(torch.arange(1, 1 + aux[0]), aux[1], 1 / 32)
    result = sae.gradients(x, 7.0, auxiliary)
    loss, p = dense_loss(sae, x, 7.0, auxiliary)
    loss.backward()
    total = result.reconstruction + (auxiliary.weight * result.auxiliary if auxiliary else 0.0)
    assert total.item() == pytest.approx(loss.item(), rel=1e-12)
    expected = {name: p[name].grad for name in NAMES}
    W, grad_W = p["W_dec_FO"].detach(), expected["W_dec_FO"]
    assert grad_W is not None
    expected["W_dec_FO"] = grad_W - (grad_W * W).sum(1, keepdim=True) * W
    for name in NAMES:
        ours, theirs = sae.parameters[name].grad, expected[name]
        assert ours is not None
        assert theirs is not None
        assert (ours - theirs).abs().max() <= 1e-9 * max(1.0, float(theirs.abs().max()))
        assert theirs.abs().max() > 1e-4


@pytest.mark.parametrize("architecture", TOPK_FAMILY)
def test_rows_of_other_lengths_turn_and_keep_them(architecture: str) -> None:
    sae = prepared(architecture, 24, 96, 4)
    lengths = torch.linspace(0.3, 3.0, 96, dtype=torch.float64)
    sae.row_lengths_F = lengths
    sae.normalise_decoder()
    assert torch.allclose(sae.parameters["W_dec_FO"].norm(dim=1), lengths, rtol=1e-12)
    x = torch.randn(80, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.5
    auxiliary = Auxiliary(torch.arange(1, 5), 16, 1 / 32)
    sae.gradients(x, 7.0, auxiliary)
    loss, p = dense_loss(sae, x, 7.0, auxiliary)
    loss.backward()
    W, grad_W = p["W_dec_FO"].detach(), p["W_dec_FO"].grad
    assert grad_W is not None
    directions = W / W.norm(dim=1, keepdim=True)
    across = grad_W - (grad_W * directions).sum(1, keepdim=True) * directions
    for name, theirs in {**{n: p[n].grad for n in NAMES}, "W_dec_FO": across}.items():
        ours = sae.parameters[name].grad
        assert ours is not None
        assert theirs is not None
        assert (ours - theirs).abs().max() <= 1e-9 * max(1.0, float(theirs.abs().max()))
        assert theirs.abs().max() > 1e-4


def test_every_architecture_that_can_be_chosen_can_be_trained() -> None:
    assert set(TRAINABLE) == set(ARCHITECTURES)


def test_prefixes_of_a_matryoshka() -> None:
    assert prefix_widths(4096) == (128, 384, 896, 1920, 4096)
    for width in (32, 33, 47, 1000):
        ends = prefix_widths(width)
        assert ends[-1] == width
        assert all(a < b for a, b in zip((0, *ends), ends, strict=False))
    with pytest.raises(InvalidInput, match="at least 32"):
        prefix_widths(31)


def test_prefixes_of_a_matryoshka_learn_the_common_features_first() -> None:
    """Planted directions, some of them frequent: the first block finds those."""
    generator = torch.Generator().manual_seed(0)
    directions_FD = torch.randn(64, 32, generator=generator)
    directions_FD /= directions_FD.norm(dim=1, keepdim=True)
    rate_F = torch.where(torch.arange(64) < 2, 0.5, 0.02)
    sae = new_trainable("matryoshka_batch_topk", 32, 64, 3, seed=0)
    optimizer = ClippedAdam(sae.parameters, 1.0)
    for _ in range(600):
        f_BF = (torch.rand(256, 64, generator=generator) < rate_F).float()
        x_BD = f_BF @ directions_FD
        sae.gradients(x_BD, float(x_BD.var(0).sum()))
        optimizer.step(3e-3)
        sae.normalise_decoder()
    first = sae.parameters["W_dec_FO"][: prefix_widths(64)[0]]
    assert len(first) == 2
    assert ((directions_FD[:2] @ first.T).amax(1) > 0.9).all()


def test_auxiliary_gradient_reaches_the_encoder_of_dead_latents() -> None:
    sae = prepared("topk", 16, 64, 2)
    sae.parameters["b_enc_F"][:8] = -1.0  # never among the two largest
    x = torch.randn(64, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    plain = sae.gradients(x, 1.0)
    dead = torch.arange(8)[plain.counts_F[:8] == 0]
    assert len(dead) > 2
    grad = sae.parameters["W_enc_FD"].grad
    assert grad is not None
    assert torch.equal(grad[dead], torch.zeros_like(grad[dead]))
    sae.gradients(x, 1.0, Auxiliary(dead, 8, 1 / 32))
    assert (grad[dead].abs().amax(1) > 0).any()


@pytest.mark.parametrize("architecture", TOPK_FAMILY)
def test_selected_zeros_are_inactive(architecture: str) -> None:
    sae = new_trainable(architecture, 8, 32, 4, seed=0)
    sae.parameters["b_enc_F"].fill_(-100.0)
    result = sae.gradients(torch.randn(16, 8), 1.0)
    assert result.active == 0
    assert int(result.counts_F.sum()) == 0
    assert not sae.parameters["W_enc_FD"].grad.any()  # type: ignore[union-attr]


def test_scaling_the_input_changes_neither_loss_nor_selection() -> None:
    x = torch.randn(64, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    sae = new_trainable("topk", 16, 64, 4, seed=0, dtype=torch.float64)
    first = sae.gradients(x, float(x.var(0).sum()))
    second = sae.gradients(1000 * x, float((1000 * x).var(0).sum()))
    assert second.reconstruction.item() == pytest.approx(first.reconstruction.item(), rel=1e-12)
    assert torch.equal(first.counts_F, second.counts_F)


def test_batch_selection_is_exact_whatever_the_bound() -> None:
    sae = new_trainable("batch_topk", 16, 128, 4, seed=0)
    generator = torch.Generator().manual_seed(1)
    for scale in (1.0, 0.1, 3.0, 0.01, 1.0, 1.0):
        x = scale * torch.randn(100, 16, generator=generator)
        result = sae.gradients(x, 1.0)
        h = torch.relu(x @ sae.parameters["W_enc_FD"].T)
        limit = h.flatten().topk(400).values.min()
        assert result.active == 400
        assert result.smallest_kept == pytest.approx(limit.item(), rel=1e-6)
        assert torch.equal(result.counts_F, (h >= limit).sum(0))


def test_last_firing_row() -> None:
    sae = new_trainable("topk", 16, 48, 2, seed=0)
    x = torch.randn(40, 16, generator=torch.Generator().manual_seed(4))
    result = sae.gradients(x, 1.0)
    h = torch.relu(x @ sae.parameters["W_enc_FD"].T)
    fired = torch.zeros_like(h).scatter_(1, h.topk(2, dim=1).indices, 1.0) * (h > 0)
    for latent in range(48):
        rows = fired[:, latent].nonzero().flatten()
        assert int(result.counts_F[latent]) == len(rows)
        if len(rows):
            assert int(result.last_row_F[latent]) == int(rows[-1])
