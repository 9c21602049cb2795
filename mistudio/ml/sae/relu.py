"""Standard: ReLU latents under an L1 penalty (Cunningham et al., arXiv 2309.08600)."""

from __future__ import annotations

from typing import ClassVar

import torch

from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.dense import DenseSae
from mistudio.ml.sae.dense_parts import ActiveGradient, TileGradient, ghost_of, has_rare
from mistudio.ml.sae.selection import SparseCodes
from mistudio.ml.sae.sparse_gradient import value_gradient, weighted_rows
from mistudio.ml.sae.trainable import Penalty


class Standard(DenseSae):
    """f = ReLU(h), P = Σ f_i per token; decoder rows have unit length, so no norm enters P."""

    architecture: ClassVar[str] = "standard"

    def clear(self) -> None:
        self._zero("b_enc_F")

    def forward_tile(
        self, pre_CT: torch.Tensor, at: slice, penalty: Penalty
    ) -> tuple[torch.Tensor, ...]:
        pre_CT.add_(self.parameters["b_enc_F"][at])
        if has_rare(penalty, at):  # what they lack is still to be read
            return (torch.relu(pre_CT),)
        return (pre_CT.relu_(),)

    def backward_tile(
        self,
        kept_CT: torch.Tensor,
        grads: list[torch.Tensor],
        at: slice,
        unit: float,
        penalty: Penalty,
        l0_C1: torch.Tensor | None,
    ) -> TileGradient:
        grad_CT = grads[0].add_(penalty.weight * unit)
        f_CT, ghost = kept_CT, kept_CT.new_zeros(())
        torch.ops.aten.threshold_backward.grad_input(grad_CT, kept_CT, 0.0, grad_input=grad_CT)
        if has_rare(penalty, at):
            ghost, pull_CT = ghost_of(-kept_CT, unit, penalty, at)
            grad_CT -= pull_CT
            f_CT = torch.relu(kept_CT)
        sum_T = grad_CT.sum(0)
        self.gradient("b_enc_F")[at] += sum_T
        return TileGradient(f_CT, grad_CT, sum_T, f_CT.sum(), ghost)

    def reach(self) -> tuple[torch.Tensor, float]:
        return self.parameters["b_enc_F"], 0.0

    def touched(
        self, codes: SparseCodes, wanted_BO: torch.Tensor, unit: float, penalty: Penalty
    ) -> ActiveGradient:
        W_dec_FO = self.parameters["W_dec_FO"]
        error_BO = weighted_rows(W_dec_FO, codes) - wanted_BO
        told = value_gradient(codes, error_BO * (2 * unit), W_dec_FO)
        grad_pre = told + penalty.weight * unit
        return ActiveGradient(
            codes=codes,
            told=told,
            grad_pre=grad_pre,
            vectors={"b_enc_F": grad_pre},
            error_BO=error_BO,
            reconstruction=error_BO.square().sum(),
            sparsity=codes.values.sum(),
        )

    def take_ghost(self, pull_N: torch.Tensor, at: torch.Tensor) -> None:
        self.gradient("b_enc_F").index_add_(0, at, pull_N, alpha=-1)

    def folded(self, scale: float, threshold: float | None = None) -> SparseAutoencoder:
        """A standard SAE; a threshold has no meaning here and is ignored."""
        return self._inference("standard", scale, None)
