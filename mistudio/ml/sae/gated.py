"""Gated: one path decides which latents act, another how much (Rajamanoharan et al. 2404.16014)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.dense import DenseSae
from mistudio.ml.sae.dense_parts import ActiveGradient, TileGradient, has_rare
from mistudio.ml.sae.selection import SparseCodes, picked
from mistudio.ml.sae.sparse_gradient import ByLatent, value_gradient, weighted_rows_of
from mistudio.ml.sae.trainable import Penalty


class Gated(DenseSae):
    """π = x_c W_enc + b_gate, f = [π > 0] ReLU(x_c W_enc e^r + b_mag), P = Σ ReLU(π_i) per token.

    R gains the error of ReLU(π) through a detached decoder, which alone trains the gate. Both
    paths read one matrix, so that the trained SAE is a JumpReLU: h = x_c W_enc e^r + b_mag fires
    above b_mag - e^r b_gate.
    """

    architecture: ClassVar[str] = "gated"
    paths: ClassVar[int] = 2

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        zero_F = self.parameters.pop("b_enc_F")
        self.parameters |= {
            "b_gate_F": zero_F,
            "r_mag_F": torch.zeros_like(zero_F),
            "b_mag_F": torch.zeros_like(zero_F),
        }

    def clear(self) -> None:
        self._zero("b_gate_F", "r_mag_F", "b_mag_F")

    def forward_tile(
        self, pre_CT: torch.Tensor, at: slice, penalty: Penalty
    ) -> tuple[torch.Tensor, ...]:
        p = self.parameters
        through_CT = self.buffer("through", pre_CT.shape, pre_CT)
        torch.add(pre_CT, p["b_gate_F"][at], out=through_CT).relu_()
        f_CT = self.buffer("f", pre_CT.shape, pre_CT)
        torch.addcmul(p["b_mag_F"][at], pre_CT, p["r_mag_F"][at].exp(), out=f_CT).relu_()
        torch.ops.aten.threshold_backward.grad_input(f_CT, through_CT, 0.0, grad_input=f_CT)
        return f_CT, through_CT

    def backward_tile(
        self,
        kept_CT: torch.Tensor,
        grads: list[torch.Tensor],
        at: slice,
        unit: float,
        penalty: Penalty,
        l0_C1: torch.Tensor | None,
    ) -> TileGradient:
        gain_T = self.parameters["r_mag_F"][at].exp()
        f_CT, through_CT = self.forward_tile(kept_CT, at, penalty)
        mag_CT, gate_CT = grads
        torch.ops.aten.threshold_backward.grad_input(mag_CT, f_CT, 0.0, grad_input=mag_CT)
        gate_CT.add_(penalty.weight * unit)
        torch.ops.aten.threshold_backward.grad_input(gate_CT, through_CT, 0.0, grad_input=gate_CT)
        sparsity, ghost = through_CT.sum(), kept_CT.new_zeros(())
        if has_rare(penalty, at):
            lacking_CT = -(kept_CT + self.parameters["b_gate_F"][at])
            ghost, pull_CT = self.ghost(lacking_CT, unit, penalty, at)
            gate_CT -= pull_CT
        mag_T, gate_T = mag_CT.sum(0), gate_CT.sum(0)
        self.gradient("b_mag_F")[at] += mag_T
        self.gradient("b_gate_F")[at] += gate_T
        self.gradient("r_mag_F")[at] += gain_T * torch.mul(mag_CT, kept_CT, out=through_CT).sum(0)
        grad_CT = gate_CT.addcmul_(mag_CT, gain_T)
        return TileGradient(f_CT, grad_CT, gain_T * mag_T + gate_T, sparsity, ghost)

    def reach(self) -> tuple[torch.Tensor, float]:
        return self.parameters["b_gate_F"], 0.0

    def touched(
        self,
        codes: SparseCodes,
        by_latent: ByLatent,
        wanted_BO: torch.Tensor,
        unit: float,
        penalty: Penalty,
    ) -> ActiveGradient:
        p = self.parameters
        W_dec_FO, gain = p["W_dec_FO"], picked(p["r_mag_F"].exp(), codes.ids)
        scaled = (codes.values - picked(p["b_gate_F"], codes.ids)).mul_(gain)
        f = (scaled + picked(p["b_mag_F"], codes.ids)).relu_()
        fires = f > 0  # of nearly all that their gate lets through
        both = weighted_rows_of(W_dec_FO, codes, [f, codes.values])
        error_BO, second_BO = (made_BO.sub_(wanted_BO) for made_BO in both)
        told = value_gradient(codes, by_latent, error_BO * (2 * unit), W_dec_FO)
        grad_mag = told * fires
        grad_gate = value_gradient(codes, by_latent, second_BO * (2 * unit), W_dec_FO)
        grad_gate += penalty.weight * unit
        return ActiveGradient(
            codes=codes._replace(values=f),
            by_latent=by_latent,
            told=told,
            grad_pre=grad_mag * gain + grad_gate,
            vectors={"b_mag_F": grad_mag, "b_gate_F": grad_gate, "r_mag_F": grad_mag * scaled},
            error_BO=error_BO,
            reconstruction=error_BO.square().sum() + second_BO.square().sum(),
            sparsity=codes.values.sum(),
            fires=fires,
        )

    def take_ghost(self, pull_N: torch.Tensor, at: torch.Tensor) -> None:
        self.gradient("b_gate_F").index_add_(0, at, pull_N, alpha=-1)

    def folded(self, scale: float, threshold: float | None = None) -> SparseAutoencoder:
        """The jumprelu SAE that computes the same; a given threshold is ignored."""
        p = self.parameters
        gain_F = p["r_mag_F"].detach().double().exp()
        fires_above_F = p["b_mag_F"].double() - gain_F * p["b_gate_F"].double()
        return self._inference(
            "jumprelu",
            scale,
            fires_above_F.clamp(min=0),
            W_enc_FD=p["W_enc_FD"].double() * gain_F[:, None],
            b_enc_F=p["b_mag_F"],
        )
