"""JumpReLU with learnt thresholds and straight-through estimators (arXiv 2407.14435, 2501.17727).

With K = [|h - θ| < ε/2], h taken before the jump: ∂f/∂θ = -(θ/ε) K and ∂[h > θ]/∂θ = -K/ε, on both
sides of the threshold.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from mistudio.core.training_configs import TrainConfig
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.dense import DenseSae
from mistudio.ml.sae.dense_parts import ActiveGradient, TileGradient, has_rare
from mistudio.ml.sae.selection import SparseCodes, kept_codes, picked
from mistudio.ml.sae.sparse_gradient import ByLatent, value_gradient, weighted_rows_of
from mistudio.ml.sae.trainable import Penalty

TANH_SLOPE = 4.0
BANDWIDTH = {"tanh": 2.0, "step": 0.05, "quadratic": 0.05}
THRESHOLD = {"tanh": 0.1, "step": 0.01, "quadratic": 0.01}


class JumpReLU(DenseSae):
    """f = h·[h > θ], θ one parameter per latent, at least 0.

    Penalties: "tanh" Σ tanh(c f_i), its estimator also reaching h; "step" L0; "quadratic"
    (2/L*)(L0 - L*)² of each token. The last two reach θ only.
    """

    architecture: ClassVar[str] = "jumprelu"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.mode = "tanh"
        self.bandwidth = BANDWIDTH["tanh"]
        self.parameters["threshold_F"] = torch.full_like(
            self.parameters["b_enc_F"], THRESHOLD["tanh"]
        )

    def configure(self, config: TrainConfig) -> None:
        """Penalty, ε and the first θ of a run."""
        super().configure(config)
        self.mode = config.jumprelu_penalty
        self.bandwidth = config.bandwidth or BANDWIDTH[self.mode]
        self.parameters["threshold_F"].fill_(config.first_threshold or THRESHOLD[self.mode])

    def project(self) -> None:
        """θ ≥ 0; a clamp inside the graph would pin latents there."""
        self.parameters["threshold_F"].clamp_(min=0)

    @property
    def needs_l0(self) -> bool:
        return self.mode == "quadratic"

    def clear(self) -> None:
        self._zero("b_enc_F", "threshold_F")

    def forward_tile(
        self, pre_CT: torch.Tensor, at: slice, penalty: Penalty
    ) -> tuple[torch.Tensor, ...]:
        h_CT = pre_CT.add_(self.parameters["b_enc_F"][at])
        return (self._jump(h_CT, at)[0],)

    def _jump(self, h_CT: torch.Tensor, at: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """f and h - θ."""
        over_CT = self.buffer("over", h_CT.shape, h_CT)
        torch.sub(h_CT, self.parameters["threshold_F"][at], out=over_CT)
        f_CT = self.buffer("f", h_CT.shape, h_CT)
        torch.ops.aten.threshold_backward.grad_input(h_CT, over_CT, 0.0, grad_input=f_CT)
        return f_CT, over_CT

    def backward_tile(
        self,
        kept_CT: torch.Tensor,
        grads: list[torch.Tensor],
        at: slice,
        unit: float,
        penalty: Penalty,
        l0_C1: torch.Tensor | None,
    ) -> TileGradient:
        f_CT, over_CT = self._jump(kept_CT, at)
        grad_CT, work_CT = grads[0], self.buffer("work", f_CT.shape, f_CT)
        threshold_T, half = self.parameters["threshold_F"][at], self.bandwidth / 2
        weight = penalty.weight * unit
        through_T = threshold_T / self.bandwidth  # -∂f/∂θ where near
        if self.mode == "tanh":
            # tanh(c f) = 2σ(2c f) - 1, and its slope is 4c σ(1 - σ): σ is the quicker one
            bent_CT = torch.mul(f_CT, 2 * TANH_SLOPE, out=work_CT).sigmoid_()
            sparsity = 2 * bent_CT.sum() - bent_CT.numel()
            slope = 4 * TANH_SLOPE * weight
            grad_CT.add_(bent_CT, alpha=slope).addcmul_(bent_CT, bent_CT, value=-slope)
            near_CT = _within(grad_CT, over_CT, half, work_CT)
            grad_threshold_T = near_CT.sum(0).mul_(-through_T)
            _above(grad_CT, over_CT).addcmul_(near_CT, through_T)
        else:
            sparsity, step_C1 = self._counted(f_CT, l0_C1, weight, penalty)
            torch.addcmul(step_C1, grad_CT, threshold_T, out=work_CT)
            near_CT = _within(work_CT, over_CT, half, work_CT)
            grad_threshold_T = near_CT.sum(0).mul_(-1 / self.bandwidth)
            _above(grad_CT, over_CT)
        ghost = torch.zeros_like(sparsity)
        if has_rare(penalty, at):
            ghost, pull_CT = self.ghost(-over_CT, unit, penalty, at)
            grad_CT -= pull_CT
            grad_threshold_T += pull_CT.sum(0)
        sum_T = grad_CT.sum(0)
        self.gradient("b_enc_F")[at] += sum_T
        self.gradient("threshold_F")[at] += grad_threshold_T
        return TileGradient(f_CT, grad_CT, sum_T, sparsity, ghost)

    def _counted(
        self, f_CT: torch.Tensor, l0_C1: torch.Tensor | None, weight: float, penalty: Penalty
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """This tile's share of ΣP of a penalty on L0, and ∂(λP)/∂[h > θ] of each token."""
        if l0_C1 is None:
            return torch.sign(f_CT).sum(), f_CT.new_full((1, 1), weight)
        aim = penalty.target_l0 or float(self.k)
        off_C1 = l0_C1 - aim
        share = f_CT.shape[1] / self.n_latents
        return off_C1.square().sum() * (2 / aim * share), off_C1 * (4 * weight / aim)

    def reach(self) -> tuple[torch.Tensor, float]:
        shift_F = self.parameters["b_enc_F"] - self.parameters["threshold_F"]
        return shift_F, -self.bandwidth / 2

    def touched(
        self,
        codes: SparseCodes,
        by_latent: ByLatent,
        wanted_BO: torch.Tensor,
        unit: float,
        penalty: Penalty,
    ) -> ActiveGradient:
        W_dec_FO = self.parameters["W_dec_FO"]
        threshold = picked(self.parameters["threshold_F"], codes.ids)
        over, weight = codes.values, penalty.weight * unit
        fires, near = over > 0, over.abs() < self.bandwidth / 2
        f = (over + threshold) * fires
        active, at = kept_codes(codes, f, fires)
        error_BO = weighted_rows_of(W_dec_FO, active, [active.values])[0].sub_(wanted_BO)
        grad = value_gradient(codes, by_latent, error_BO * (2 * unit), W_dec_FO)
        told = picked(grad, at)
        if self.mode == "tanh":
            bent = torch.tanh(TANH_SLOPE * f)
            sparsity = bent.sum()
            grad = grad + (weight * TANH_SLOPE) * (1 - bent.square())
            jump = grad * near * threshold / self.bandwidth
            grad_pre = grad * fires + jump
        else:
            l0_B = active.l0.to(f.dtype)
            if self.mode == "step":
                sparsity, step = l0_B.sum(), torch.full_like(f, weight)
            else:
                aim = penalty.target_l0 or float(self.k)
                sparsity = (l0_B - aim).square().sum() * (2 / aim)
                step = picked((l0_B - aim) * (4 * weight / aim), codes.rows)
            jump = (grad * threshold + step) * near / self.bandwidth
            grad_pre = grad * fires
        return ActiveGradient(
            codes=active,
            by_latent=by_latent.only(fires),
            told=told,
            grad_pre=grad_pre,
            vectors={"b_enc_F": grad_pre, "threshold_F": -jump},
            error_BO=error_BO,
            reconstruction=error_BO.square().sum(),
            sparsity=sparsity,
        )

    def take_ghost(self, pull_N: torch.Tensor, at: torch.Tensor) -> None:
        self.gradient("b_enc_F").index_add_(0, at, pull_N, alpha=-1)
        self.gradient("threshold_F").index_add_(0, at, pull_N)

    def folded(self, scale: float, threshold: float | None = None) -> SparseAutoencoder:
        """A jumprelu SAE with its own thresholds; another is ignored."""
        own_F = self.parameters["threshold_F"].detach().clamp(min=0)
        return self._inference("jumprelu", scale, own_F)


def _above(grad_CT: torch.Tensor, over_CT: torch.Tensor) -> torch.Tensor:
    """Leave a gradient where h > θ, set it to 0 elsewhere; in place, in one pass."""
    return torch.ops.aten.threshold_backward.grad_input(grad_CT, over_CT, 0.0, grad_input=grad_CT)


def _within(
    grad_CT: torch.Tensor, over_CT: torch.Tensor, half: float, out_CT: torch.Tensor
) -> torch.Tensor:
    """A gradient where |h - θ| < half, else 0, in one pass."""
    return torch.ops.aten.hardtanh_backward.grad_input(
        grad_CT, over_CT, -half, half, grad_input=out_CT
    )
