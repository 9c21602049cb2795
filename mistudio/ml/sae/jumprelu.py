"""JumpReLU with learnt thresholds and straight-through estimators (arXiv 2407.14435, 2501.17727).

With K = [|h - θ| < ε/2], h taken before the jump: ∂f/∂θ = -(θ/ε) K and ∂[h > θ]/∂θ = -K/ε, on both
sides of the threshold.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from mistudio.core.training_configs import TrainConfig
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.dense import Chunk, DenseSae, ghost_of
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

    def _clear(self) -> None:
        self._zero("b_enc_F", "threshold_F")

    def _rows(
        self, pre_CF: torch.Tensor, x_CD: torch.Tensor, unit: float, penalty: Penalty
    ) -> Chunk:
        W_dec_FO, threshold_F = self.parameters["W_dec_FO"], self.parameters["threshold_F"]
        h_CF = pre_CF.add_(self.parameters["b_enc_F"])
        above_CF = h_CF > threshold_F
        f_CF = h_CF * above_CF
        near_CF = (h_CF - threshold_F).abs_() < self.bandwidth / 2
        error_CO = torch.addmm(x_CD, f_CF, W_dec_FO, beta=-1)  # ŷ - y: b_dec cancels
        grad_f_CF = torch.mm(error_CO * (2 * unit), W_dec_FO.T)
        weight = penalty.weight * unit
        through_F = threshold_F / self.bandwidth  # -∂f/∂θ where near
        step_CF: torch.Tensor | float = 0.0  # ∂(λP)/∂[h > θ] where near
        if self.mode == "tanh":
            bent_CF = torch.tanh(TANH_SLOPE * f_CF)
            sparsity = bent_CF.sum()
            grad_f_CF += (weight * TANH_SLOPE) * (1 - bent_CF.square_())
        elif self.mode == "step":
            sparsity = above_CF.sum().to(h_CF.dtype)
            step_CF = weight
        else:
            aim = penalty.target_l0 or float(self.k)
            off_C1 = above_CF.sum(1, keepdim=True).to(h_CF.dtype) - aim
            sparsity = off_C1.square().sum() * (2 / aim)
            step_CF = off_C1 * (4 * weight / aim)
        grad_threshold_CF = (grad_f_CF * through_F + step_CF / self.bandwidth) * near_CF
        grad_threshold_F = -grad_threshold_CF.sum(0)
        grad_h_CF = grad_f_CF * above_CF
        if self.mode == "tanh":
            grad_h_CF += (grad_f_CF * through_F).mul_(near_CF)
        ghost = torch.zeros_like(sparsity)
        if (found := ghost_of(threshold_F - h_CF, unit, penalty)) is not None:
            ghost, pull_CF = found
            grad_h_CF -= pull_CF
            grad_threshold_F += pull_CF.sum(0)
        self._gradient("b_enc_F").add_(grad_h_CF.sum(0))
        self._gradient("threshold_F").add_(grad_threshold_F)
        return Chunk(f_CF, error_CO, grad_h_CF, error_CO.square().sum(), sparsity, ghost)

    def folded(self, scale: float, threshold: float | None = None) -> SparseAutoencoder:
        """A jumprelu SAE with its own thresholds; another is ignored."""
        own_F = self.parameters["threshold_F"].detach().clamp(min=0)
        return self._inference("jumprelu", scale, own_F)
