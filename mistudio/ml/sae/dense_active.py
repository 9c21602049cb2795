"""The same step over the entries that take part in it, once they are few.

One product remains, that of the encoder; the rest are sums over the active latents, with the
kernels of the TopK family. Rare latents, which do not fire, are few columns of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mistudio.ml.sae.dense_parts import StepSums
from mistudio.ml.sae.selection import SparseCodes, above, splits_of
from mistudio.ml.sae.sparse_gradient import sort_by_latent, sum_by_latent, weight_gradient
from mistudio.ml.sae.trainable import Penalty

if TYPE_CHECKING:
    from mistudio.ml.sae.dense import DenseSae


def active_step(
    sae: DenseSae, x_BD: torch.Tensor, wanted_BO: torch.Tensor, unit: float, penalty: Penalty
) -> StepSums:
    """Forward and backward over the touched entries; `wanted_BO` is what f W_dec is to be."""
    W_dec_FO = sae.parameters["W_dec_FO"]
    grad_enc_FD, grad_dec_FO = sae.weight_gradients()
    rare_N = None
    if penalty.rare_F is not None and penalty.ghost != 0:
        rare_N = penalty.rare_F.nonzero().squeeze(1)
    touched, reached_BN = _encode(sae, x_BD, rare_N)
    by_latent = sort_by_latent(touched, sae.n_latents)
    part = sae.touched(touched, by_latent, wanted_BO, unit, penalty)
    out_BO = part.error_BO * (2 * unit)

    grad_pre = by_latent.sorted(part.grad_pre)
    weight_gradient(by_latent, grad_pre, x_BD, grad_enc_FD)
    pre_sum_F = sum_by_latent(by_latent, grad_pre)
    for name, entries in part.vectors.items():
        sae.gradient(name).add_(sum_by_latent(by_latent, by_latent.sorted(entries)))

    by_latent = part.by_latent
    values, told = by_latent.sorted(part.codes.values), by_latent.sorted(part.told)
    if sae.unit_decoder:
        weight_gradient(
            by_latent,
            values,
            out_BO,
            grad_dec_FO,
            along_F=sum_by_latent(by_latent, values * told),
            directions_FD=W_dec_FO,
        )
    else:
        weight_gradient(by_latent, values, out_BO, grad_dec_FO)

    counts_F, last_row_F = by_latent.counts, by_latent.last_rows
    if part.fires is not None:
        counts_F, last_row_F = by_latent.counted(part.fires)

    ghost = torch.zeros_like(part.sparsity)
    if rare_N is not None and reached_BN is not None:
        ghost, pull_BN = sae.ghost(-reached_BN, unit, penalty, rare_N)
        pull_N = pull_BN.sum(0)
        grad_enc_FD.index_add_(0, rare_N, pull_BN.T @ x_BD, alpha=-1)
        pre_sum_F.index_add_(0, rare_N, pull_N, alpha=-1)
        sae.take_ghost(pull_N, rare_N)
    if not sae.unit_decoder:
        sae.add_norm_gradient(grad_dec_FO, penalty.weight * unit)
    return StepSums(
        squared_error=part.error_BO.square().sum(),
        reconstruction=part.reconstruction,
        sparsity=part.sparsity,
        ghost=ghost,
        counts_F=counts_F,
        last_row_F=last_row_F,
        grad_out_O=out_BO.sum(0),
        pre_sum_F=pre_sum_F,
        grad_skip_OD=out_BO.T @ x_BD if "W_skip_OD" in sae.parameters else None,
    )


def _encode(
    sae: DenseSae, x_BD: torch.Tensor, rare_N: torch.Tensor | None
) -> tuple[SparseCodes, torch.Tensor | None]:
    """The entries that take part in the step, and how far each rare latent is from firing."""
    W_enc_FD = sae.parameters["W_enc_FD"]
    shift_F, bound = sae.reach()
    rows, values, ids, rare, start = [], [], [], [], 0
    for x_CD in x_BD.split(sae.rows_of_chunk()):
        pre_CF = sae.buffer("kept", (x_CD.shape[0], W_enc_FD.shape[0]), x_CD)
        sae.encoder_product(x_CD, pre_CF).add_(shift_F)
        mask_CF = sae.buffer("mask", pre_CF.shape, x_CD, torch.bool)
        row, value, latent = above(pre_CF, bound, mask_CF)
        rows.append(row + start)
        values.append(value)
        ids.append(latent)
        if rare_N is not None:
            rare.append(pre_CF.index_select(1, rare_N))
        start += x_CD.shape[0]
    splits = splits_of(torch.cat(rows), x_BD.shape[0])
    codes = SparseCodes(torch.cat(values), torch.cat(ids), splits)
    return codes, torch.cat(rare) if rare_N is not None else None
