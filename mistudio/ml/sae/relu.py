"""Standard: ReLU latents under an L1 penalty (Cunningham et al., arXiv 2309.08600)."""

from __future__ import annotations

from typing import ClassVar

import torch

from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.dense import Chunk, DenseSae, ghost_of
from mistudio.ml.sae.trainable import EPS, Penalty


class Standard(DenseSae):
    """f = ReLU(h), P = Σ f_i n_i per token with n_i = ‖D_i‖, which is 1 unless lengths are free."""

    architecture: ClassVar[str] = "standard"

    def _clear(self) -> None:
        self._zero("b_enc_F")
        W_dec_FO = self.parameters["W_dec_FO"]
        self._norm_F = None if self.unit_decoder else torch.linalg.vector_norm(W_dec_FO, dim=1)
        self._sum_F = torch.zeros_like(self.parameters["b_enc_F"])  # Σ f over the batch

    def _rows(
        self, pre_CF: torch.Tensor, x_CD: torch.Tensor, unit: float, penalty: Penalty
    ) -> Chunk:
        W_dec_FO = self.parameters["W_dec_FO"]
        h_CF = pre_CF.add_(self.parameters["b_enc_F"])
        f_CF = torch.relu(h_CF)
        error_CO = torch.addmm(x_CD, f_CF, W_dec_FO, beta=-1)  # ŷ - y: b_dec cancels
        grad_CF = torch.mm(error_CO * (2 * unit), W_dec_FO.T)
        weight = penalty.weight * unit
        grad_CF.add_(weight if self._norm_F is None else weight * self._norm_F).mul_(f_CF > 0)
        ghost = torch.zeros_like(h_CF[0, 0])
        if (found := ghost_of(-h_CF, unit, penalty)) is not None:
            ghost, pull_CF = found
            grad_CF -= pull_CF
        self._gradient("b_enc_F").add_(grad_CF.sum(0))
        sparsity = f_CF.sum()
        if self._norm_F is not None:
            sum_F = f_CF.sum(0)
            self._sum_F += sum_F
            sparsity = sum_F @ self._norm_F
        return Chunk(f_CF, error_CO, grad_CF, error_CO.square().sum(), sparsity, ghost)

    def _add_norm_gradient(self, grad_dec_FO: torch.Tensor, weight: float) -> None:
        """∂P/∂D_i = Σ f_i D_i/n_i."""
        assert self._norm_F is not None
        along_F = weight * self._sum_F / self._norm_F.clamp_min(EPS)
        grad_dec_FO.addcmul_(along_F[:, None], self.parameters["W_dec_FO"])

    def folded(self, scale: float, threshold: float | None = None) -> SparseAutoencoder:
        """A standard SAE; a threshold has no meaning here and is ignored."""
        return self._inference("standard", scale, None)
