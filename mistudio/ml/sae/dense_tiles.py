"""The dense step, some latents at a time, so that their element-wise work stays in the cache.

The products of a dense step remain: encode, decode, and the gradients of the latents, of the
decoder and of the encoder. Each is formed over many rows at once, which is what makes it quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mistudio.ml.sae.dense_parts import StepSums, keep_lengths, tiles_of, total
from mistudio.ml.sae.firing import FiringMask
from mistudio.ml.sae.trainable import Penalty

if TYPE_CHECKING:
    from mistudio.ml.sae.dense import DenseSae


def tiled_step(
    sae: DenseSae, x_BD: torch.Tensor, wanted_BO: torch.Tensor, unit: float, penalty: Penalty
) -> StepSums:
    """Forward and backward over all latents; `wanted_BO` is what f W_dec is to be."""
    W_enc_FD, W_dec_FO = sae.parameters["W_enc_FD"], sae.parameters["W_dec_FO"]
    grad_enc_FD, grad_dec_FO = sae.weight_gradients()
    width = W_enc_FD.shape[0]
    tiles = tiles_of(width, x_BD.device)
    errors2, counted, penalties, ghosts = [], [], [], []
    counts_F = torch.zeros(width, dtype=torch.int64, device=x_BD.device)
    last_row_F = torch.zeros_like(counts_F)
    grad_out_O, pre_sum_F = torch.zeros_like(W_dec_FO[0]), torch.zeros_like(W_enc_FD[:, 0])
    skip_OD = sae.parameters.get("W_skip_OD")
    grad_skip_OD = None if skip_OD is None else torch.zeros_like(skip_OD)
    mask, start = FiringMask(), 0
    size = _even(x_BD.shape[0], sae.rows_of_chunk())
    for x_CD, wanted_CO in zip(x_BD.split(size), wanted_BO.split(size), strict=True):
        rows, beta = x_CD.shape[0], 1.0 if start else 0.0
        kept = sae.buffer("kept", (rows * width,), x_CD)
        errors = [-wanted_CO for _ in range(sae.paths)]
        l0_C1 = torch.zeros_like(x_CD[:, :1]) if sae.needs_l0 else None
        for at in tiles:
            pre_CT = _tile(kept, rows, at)
            sae.encoder_product(x_CD, pre_CT, at)
            found = sae.forward_tile(pre_CT, at, penalty)
            for error_CO, f_CT in zip(errors, found, strict=True):
                error_CO.addmm_(f_CT, W_dec_FO[at])
            if l0_C1 is not None:
                l0_C1 += torch.sign(found[0]).sum(1, keepdim=True)
        squares = [error_CO.square().sum() for error_CO in errors]
        errors2.append(squares[0])
        counted += squares
        outs = [error_CO.mul_(2 * unit) for error_CO in errors]
        grad_out_O += outs[0].sum(0)
        if grad_skip_OD is not None:
            grad_skip_OD.addmm_(outs[0].T, x_CD)
        for at in tiles:
            columns = at.stop - at.start
            grads = []
            for number, out_CO in enumerate(outs):
                grad_CT = sae.buffer(f"grad {number}", (rows, columns), x_CD)
                grads.append(torch.mm(out_CO, W_dec_FO[at].T, out=grad_CT))
            part = sae.backward_tile(_tile(kept, rows, at), grads, at, unit, penalty, l0_C1)
            torch.addmm(grad_dec_FO[at], part.f_CT.T, outs[0], beta=beta, out=grad_dec_FO[at])
            torch.addmm(grad_enc_FD[at], part.grad_pre_CT.T, x_CD, beta=beta, out=grad_enc_FD[at])
            pre_sum_F[at] += part.pre_sum_T
            penalties.append(part.sparsity)
            ghosts.append(part.ghost)
            mask.fill(part.f_CT)
            counts_T, last_T = mask.count()
            counts_F[at] += counts_T
            last_row_F[at] = torch.where(last_T > 0, last_T - 1 + start, last_row_F[at])
        start += rows
    if sae.unit_decoder:
        keep_lengths(grad_dec_FO, W_dec_FO, tiles)
    else:
        sae.add_norm_gradient(grad_dec_FO, penalty.weight * unit)
    return StepSums(
        squared_error=total(errors2),
        reconstruction=total(counted),
        sparsity=total(penalties),
        ghost=total(ghosts),
        counts_F=counts_F,
        last_row_F=last_row_F,
        grad_out_O=grad_out_O,
        pre_sum_F=pre_sum_F,
        grad_skip_OD=grad_skip_OD,
    )


def _even(rows: int, limit: int) -> int:
    """Rows of a chunk such that none exceeds the limit and all are about alike."""
    chunks = -(-rows // limit)
    return -(-rows // chunks)


def _tile(kept: torch.Tensor, rows: int, at: slice) -> torch.Tensor:
    """The part of a flat buffer that holds the latents `at` of some rows, [C, T]."""
    return kept[rows * at.start : rows * at.stop].view(rows, at.stop - at.start)
