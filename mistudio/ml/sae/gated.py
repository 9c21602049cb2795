"""Gated: one path decides which latents act, another how much (Rajamanoharan et al. 2404.16014)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.dense import Chunk, DenseSae, ghost_of
from mistudio.ml.sae.trainable import Penalty


class Gated(DenseSae):
    """π = x_c W_enc + b_gate, f = [π > 0] ReLU(x_c W_enc e^r + b_mag), P = Σ ReLU(π_i) per token.

    R gains the error of ReLU(π) through a detached decoder, which alone trains the gate. Both
    paths read one matrix, so that the trained SAE is a JumpReLU: h = x_c W_enc e^r + b_mag fires
    above b_mag - e^r b_gate.
    """

    architecture: ClassVar[str] = "gated"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        zero_F = self.parameters.pop("b_enc_F")
        self.parameters |= {
            "b_gate_F": zero_F,
            "r_mag_F": torch.zeros_like(zero_F),
            "b_mag_F": torch.zeros_like(zero_F),
        }

    def _clear(self) -> None:
        self._zero("b_gate_F", "r_mag_F", "b_mag_F")

    def _rows(
        self, pre_CF: torch.Tensor, x_CD: torch.Tensor, unit: float, penalty: Penalty
    ) -> Chunk:
        p = self.parameters
        W_dec_FO, gain_F = p["W_dec_FO"], p["r_mag_F"].exp()
        gate_CF = pre_CF + p["b_gate_F"]
        open_CF = gate_CF > 0
        scaled_CF = pre_CF * gain_F
        f_CF = torch.relu(scaled_CF + p["b_mag_F"]).mul_(open_CF)
        through_CF = torch.relu(gate_CF)
        error_CO = torch.addmm(x_CD, f_CF, W_dec_FO, beta=-1)  # ŷ - y: b_dec cancels
        second_CO = torch.addmm(x_CD, through_CF, W_dec_FO, beta=-1)
        grad_mag_CF = torch.mm(error_CO * (2 * unit), W_dec_FO.T).mul_(f_CF > 0)
        grad_gate_CF = torch.mm(second_CO * (2 * unit), W_dec_FO.T)
        grad_gate_CF.add_(penalty.weight * unit).mul_(open_CF)
        ghost = torch.zeros_like(gate_CF[0, 0])
        if (found := ghost_of(-gate_CF, unit, penalty)) is not None:
            ghost, pull_CF = found
            grad_gate_CF -= pull_CF
        self._gradient("b_mag_F").add_(grad_mag_CF.sum(0))
        self._gradient("b_gate_F").add_(grad_gate_CF.sum(0))
        self._gradient("r_mag_F").add_((grad_mag_CF * scaled_CF).sum(0))
        grad_pre_CF = grad_mag_CF.mul_(gain_F).add_(grad_gate_CF)
        counted = error_CO.square().sum() + second_CO.square().sum()
        return Chunk(f_CF, error_CO, grad_pre_CF, counted, through_CF.sum(), ghost)

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
