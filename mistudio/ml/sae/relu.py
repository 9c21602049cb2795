"""Standard: ReLU latents under an L1 penalty (Cunningham et al., arXiv 2309.08600)."""

from __future__ import annotations

from typing import ClassVar

import torch

from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.dense import DenseSae
from mistudio.ml.sae.dense_parts import ActiveGradient, TileGradient, has_rare
from mistudio.ml.sae.selection import SparseCodes, picked
from mistudio.ml.sae.sparse_gradient import ByLatent, value_gradient, weighted_rows_of
from mistudio.ml.sae.trainable import EPS, Penalty


class Standard(DenseSae):
    """f = ReLU(h), P = Σ f_i n_i per token with n_i = ‖D_i‖, which is 1 unless lengths are free."""

    architecture: ClassVar[str] = "standard"

    def clear(self) -> None:
        self._zero("b_enc_F")
        W_dec_FO = self.parameters["W_dec_FO"]
        self._norm_F = None if self.unit_decoder else torch.linalg.vector_norm(W_dec_FO, dim=1)
        self._sum_F = torch.zeros_like(self.parameters["b_enc_F"])  # Σ f over the batch
        self._along_F = None if self._norm_F is None else torch.zeros_like(self._norm_F)

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
        weight = penalty.weight * unit
        norm_T = None if self._norm_F is None else self._norm_F[at]
        grad_CT = grads[0].add_(weight if norm_T is None else weight * norm_T)
        f_CT, ghost = kept_CT, kept_CT.new_zeros(())
        torch.ops.aten.threshold_backward.grad_input(grad_CT, kept_CT, 0.0, grad_input=grad_CT)
        if has_rare(penalty, at):
            ghost, pull_CT = self.ghost(-kept_CT, unit, penalty, at)
            grad_CT -= pull_CT
            f_CT = torch.relu(kept_CT)
        sum_T = grad_CT.sum(0)
        self.gradient("b_enc_F")[at] += sum_T
        if norm_T is None:
            return TileGradient(f_CT, grad_CT, sum_T, f_CT.sum(), ghost)
        total_T = f_CT.sum(0)
        self._sum_F[at] += total_T
        return TileGradient(f_CT, grad_CT, sum_T, total_T @ norm_T, ghost)

    def reach(self) -> tuple[torch.Tensor, float]:
        return self.parameters["b_enc_F"], 0.0

    def touched(
        self,
        codes: SparseCodes,
        by_latent: ByLatent,
        wanted_BO: torch.Tensor,
        unit: float,
        penalty: Penalty,
    ) -> ActiveGradient:
        W_dec_FO = self.parameters["W_dec_FO"]
        error_BO = weighted_rows_of(W_dec_FO, codes, [codes.values])[0].sub_(wanted_BO)
        told = value_gradient(codes, by_latent, error_BO * (2 * unit), W_dec_FO)
        weight, sparsity = penalty.weight * unit, codes.values.sum()
        if self._norm_F is None:
            grad_pre = told + weight
        else:
            norms = picked(self._norm_F, codes.ids)
            grad_pre = told + weight * norms
            sparsity = codes.values @ norms
            self._sum_F.index_add_(0, codes.ids, codes.values)
        return ActiveGradient(
            codes=codes,
            by_latent=by_latent,
            told=told,
            grad_pre=grad_pre,
            vectors={"b_enc_F": grad_pre},
            error_BO=error_BO,
            reconstruction=error_BO.square().sum(),
            sparsity=sparsity,
        )

    def add_norm_gradient(self, grad_dec_FO: torch.Tensor, weight: float) -> None:
        """∂P/∂D_i = Σ f_i D_i/n_i, and likewise ∂G/∂D_i = r_i Σ ReLU(-h_i) D_i/n_i."""
        assert self._norm_F is not None
        assert self._along_F is not None
        along_F = (weight * self._sum_F + self._along_F) / self._norm_F.clamp_min(EPS)
        grad_dec_FO.addcmul_(along_F[:, None], self.parameters["W_dec_FO"])

    def take_ghost(self, pull_N: torch.Tensor, at: torch.Tensor) -> None:
        self.gradient("b_enc_F").index_add_(0, at, pull_N, alpha=-1)

    def folded(self, scale: float, threshold: float | None = None) -> SparseAutoencoder:
        """A standard SAE; a threshold has no meaning here and is ignored."""
        return self._inference("standard", scale, None)
