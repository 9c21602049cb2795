"""AuxK: dead latents model what the live ones leave over, to come back (arXiv 2406.04093)."""

from __future__ import annotations

from typing import NamedTuple

import torch

from mistudio.ml.collective import SINGLE, Collective
from mistudio.ml.sae.selection import codes_from_top
from mistudio.ml.sae.sparse_gradient import (
    sort_by_latent,
    sum_by_latent,
    value_gradient,
    weight_gradient,
    weighted_rows,
)

DENSE_FACTOR = 8  # dead latents per auxiliary k up to which dense products are the cheaper form


class AuxiliaryGradient(NamedTuple):
    """The auxiliary loss L_aux (unweighted) and the weighted gradients of the dead latents.

    `grad_enc_ND` and `grad_dec_NO` are [n_dead, width], `grad_b_enc_N` and `along_N` [n_dead]:
    the last is the part of the decoder gradient along its own row.
    """

    loss: torch.Tensor
    grad_enc_ND: torch.Tensor
    grad_dec_NO: torch.Tensor
    grad_b_enc_N: torch.Tensor
    along_N: torch.Tensor


def auxiliary_gradient(
    h_BN: torch.Tensor,
    x_BD: torch.Tensor,
    residual_BO: torch.Tensor,
    W_dec_NO: torch.Tensor,
    aux_k: int,
    weight: float,
    collective: Collective = SINGLE,
) -> AuxiliaryGradient:
    """Loss and gradients of ê = z W_dec modelling the residual y - ŷ (a constant here).

    `h_BN` are pre-activations of the dead latents only, `x_BD` the encoder's input (less b_dec),
    z the ReLU of the min(aux_k, n_dead) largest. Real gradients reach encoder and decoder. A
    residual without variance gives no loss. With several processes in `collective` each gives its
    rows, and the sum of what they get is that of all rows.
    """
    n_dead = h_BN.shape[1]
    active = min(aux_k, n_dead)
    if n_dead > DENSE_FACTOR * active:
        return _sparse(h_BN, x_BD, residual_BO, W_dec_NO, active, weight, collective)
    z_BN = torch.relu(h_BN)
    if active < n_dead:
        kept = torch.topk(h_BN, active, dim=1, sorted=False).indices
        z_BN = torch.zeros_like(z_BN).scatter_(1, kept, z_BN.gather(1, kept))
    error_BO = z_BN @ W_dec_NO - residual_BO
    scale = _scale(residual_BO, n_dead / aux_k, collective)
    loss = scale * error_BO.square().sum()
    grad_BO = error_BO.mul_(2 * weight * scale)
    grad_BN = (grad_BO @ W_dec_NO.T).mul_(z_BN > 0)
    return AuxiliaryGradient(
        loss=loss,
        grad_enc_ND=grad_BN.T @ x_BD,
        grad_dec_NO=z_BN.T @ grad_BO,
        grad_b_enc_N=grad_BN.sum(0),
        along_N=(z_BN * grad_BN).sum(0),
    )


def _sparse(
    h_BN: torch.Tensor,
    x_BD: torch.Tensor,
    residual_BO: torch.Tensor,
    W_dec_NO: torch.Tensor,
    active: int,
    weight: float,
    collective: Collective,
) -> AuxiliaryGradient:
    """The same with the kernels of the main step: cheaper when few of many dead latents act."""
    n_dead = h_BN.shape[1]
    codes = codes_from_top(*torch.topk(h_BN, active, dim=1, sorted=False))
    error_BO = weighted_rows(W_dec_NO, codes) - residual_BO
    scale = _scale(residual_BO, 1.0, collective)
    loss = scale * error_BO.square().sum()
    grad_BO = error_BO.mul_(2 * weight * scale)
    by_latent = sort_by_latent(codes, n_dead)
    grad = by_latent.sorted(value_gradient(codes, by_latent, grad_BO, W_dec_NO))
    values = by_latent.sorted(codes.values)
    grad_enc_ND = torch.empty(n_dead, x_BD.shape[1], dtype=x_BD.dtype, device=x_BD.device)
    weight_gradient(by_latent, grad, x_BD, grad_enc_ND)
    grad_dec_NO = torch.empty_like(W_dec_NO)
    weight_gradient(by_latent, values, grad_BO, grad_dec_NO)
    return AuxiliaryGradient(
        loss=loss,
        grad_enc_ND=grad_enc_ND,
        grad_dec_NO=grad_dec_NO,
        grad_b_enc_N=sum_by_latent(by_latent, grad),
        along_N=sum_by_latent(by_latent, values * grad),
    )


def _scale(residual_BO: torch.Tensor, share: float, collective: Collective) -> torch.Tensor:
    """min(1, share) / Σ‖r - r̄‖² over all processes, 0 for a residual without variance."""
    mean_O = residual_BO.mean(0)
    if collective.size > 1:
        rows = residual_BO.new_tensor([residual_BO.shape[0]])
        total = collective.sum_(torch.cat([residual_BO.sum(0), rows]))
        mean_O = total[:-1] / total[-1]
    spread = collective.sum_((residual_BO - mean_O).square().sum())
    return torch.where(spread > 0, min(1.0, share) / spread, torch.zeros_like(spread))
