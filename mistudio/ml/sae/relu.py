"""Standard: ReLU latents under an L1 penalty (Cunningham et al., arXiv 2309.08600)."""

from __future__ import annotations

from typing import ClassVar

import torch

from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.dense import Chunk, DenseSae, ghost_of
from mistudio.ml.sae.trainable import Penalty


class Standard(DenseSae):
    """f = ReLU(h), P = Σ f_i per token; decoder rows have unit length, so no norm enters P."""

    architecture: ClassVar[str] = "standard"

    def _clear(self) -> None:
        self._zero("b_enc_F")

    def _rows(
        self, pre_CF: torch.Tensor, x_CD: torch.Tensor, unit: float, penalty: Penalty
    ) -> Chunk:
        W_dec_FO = self.parameters["W_dec_FO"]
        h_CF = pre_CF.add_(self.parameters["b_enc_F"])
        f_CF = torch.relu(h_CF)
        error_CO = torch.addmm(x_CD, f_CF, W_dec_FO, beta=-1)  # ŷ - y: b_dec cancels
        grad_CF = torch.mm(error_CO * (2 * unit), W_dec_FO.T)
        grad_CF.add_(penalty.weight * unit).mul_(f_CF > 0)
        ghost = torch.zeros_like(h_CF[0, 0])
        if (found := ghost_of(-h_CF, unit, penalty)) is not None:
            ghost, pull_CF = found
            grad_CF -= pull_CF
        self._gradient("b_enc_F").add_(grad_CF.sum(0))
        return Chunk(f_CF, error_CO, grad_CF, error_CO.square().sum(), f_CF.sum(), ghost)

    def folded(self, scale: float, threshold: float | None = None) -> SparseAutoencoder:
        """A standard SAE; a threshold has no meaning here and is ignored."""
        return self._inference("standard", scale, None)
