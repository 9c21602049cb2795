"""Gated SAEs: one path tells which latents act, another how much; both read one matrix.

That is a JumpReLU, as which they are used and kept here. Files that have a form of their own for
them are written in it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from mistudio.ml.sae.base import SparseAutoencoder

TRAINED_AS = ("gated", "GatedAutoEncoder")  # our and SAELens's name, and dictionary_learning's


class GatedWeights(NamedTuple):
    """f = [x W_enc + b_gate > 0] ReLU(x W_enc e^r + b_mag), in our orientation."""

    W_enc_DF: torch.Tensor
    b_gate_F: torch.Tensor
    r_mag_F: torch.Tensor
    b_mag_F: torch.Tensor


def gated_as_jumprelu(gated: GatedWeights) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """W_enc, b_enc and thresholds of the JumpReLU that computes the same, in float64 arithmetic:
    both paths read one matrix, so that h = x W_enc e^r + b_mag fires above b_mag - e^r b_gate."""
    gain_F, b_mag_F = gated.r_mag_F.double().exp(), gated.b_mag_F.double()
    threshold_F = (b_mag_F - gain_F * gated.b_gate_F.double()).clamp(min=0)
    W_enc_DF = gated.W_enc_DF.double() * gain_F
    return W_enc_DF.float(), gated.b_mag_F, threshold_F.float()


def is_gated(sae: SparseAutoencoder, trained_as: object) -> bool:
    """Whether a JumpReLU was a gated SAE and has a gated form that is read back as it is.

    A threshold below 0 is one of 0 to a gated SAE; transcoders have no gated form.
    """
    if sae.threshold_F is None or sae.is_transcoder or trained_as not in TRAINED_AS:
        return False
    return bool((sae.threshold_F >= 0).all())


def jumprelu_as_gated(sae: SparseAutoencoder, b_enc_F: torch.Tensor) -> GatedWeights:
    """The gated weights that compute what a JumpReLU SAE with this b_enc [n_latents] does.

    h = x W_enc + b_enc is above the threshold where x W_enc + b_enc - threshold is above 0.
    """
    assert sae.threshold_F is not None
    b_gate_F = (b_enc_F.double() - sae.threshold_F.double()).to(b_enc_F.dtype)
    return GatedWeights(sae.W_enc_DF, b_gate_F, torch.zeros_like(b_enc_F), b_enc_F)
