"""The step where few latents fire, but many entries lie near a threshold and are taught there.

Wide bands of JumpReLU's estimator hold a share of the entries for which dense products are the
quicker ones: what the encoder gives, the gradient of the latents, that of the encoder. Decoding and
the decoder's gradient are over the latents that fire alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mistudio.ml.sae.dense_parts import StepSums, keep_lengths, tiles_of, total
from mistudio.ml.sae.selection import SparseCodes, above, picked, splits_of
from mistudio.ml.sae.sparse_gradient import sort_by_latent, weight_gradient, weighted_rows
from mistudio.ml.sae.trainable import Penalty

if TYPE_CHECKING:
    from mistudio.ml.sae.dense import DenseSae

BLOCK_ENTRIES = 1 << 18  # that are looked through for latents that fire at a time (1 MB)


def band_step(
    sae: DenseSae, x_BD: torch.Tensor, wanted_BO: torch.Tensor, unit: float, penalty: Penalty
) -> StepSums:
    """Forward and backward of an architecture with one path; `wanted_BO` is what f W_dec is to be.

    Its latents are x_c W_enc + b_enc where they fire.
    """
    W_enc_FD, W_dec_FO = sae.parameters["W_enc_FD"], sae.parameters["W_dec_FO"]
    grad_enc_FD, grad_dec_FO = sae.weight_gradients()
    width = W_enc_FD.shape[0]
    tiles = tiles_of(width, x_BD.device)
    out_BO, pre_sum_F = torch.empty_like(wanted_BO), torch.zeros_like(W_enc_FD[:, 0])
    squares, penalties, ghosts, parts, start = [], [], [], [], 0
    for x_CD, wanted_CO in zip(
        x_BD.split(sae.rows_of_chunk()), wanted_BO.split(sae.rows_of_chunk()), strict=True
    ):
        rows, beta = x_CD.shape[0], 1.0 if start else 0.0
        kept_CF = sae.buffer("kept", (rows, width), x_CD)
        sae.encoder_product(x_CD, kept_CF)
        codes = _firing(sae, kept_CF)
        parts.append(codes)
        error_CO = weighted_rows(W_dec_FO, codes).sub_(wanted_CO)
        squares.append(error_CO.square().sum())
        out_CO = torch.mul(error_CO, 2 * unit, out=out_BO[start : start + rows])
        l0_C1 = codes.l0[:, None].to(x_CD.dtype) if sae.needs_l0 else None
        for at in tiles:
            kept_CT = kept_CF[:, at]
            sae.forward_tile(kept_CT, at, penalty)
            grad_CT = sae.buffer("grad 0", (rows, at.stop - at.start), x_CD)
            torch.mm(out_CO, W_dec_FO[at].T, out=grad_CT)
            part = sae.backward_tile(kept_CT, [grad_CT], at, unit, penalty, l0_C1)
            torch.addmm(grad_enc_FD[at], part.grad_pre_CT.T, x_CD, beta=beta, out=grad_enc_FD[at])
            pre_sum_F[at] += part.pre_sum_T
            penalties.append(part.sparsity)
            ghosts.append(part.ghost)
        start += rows
    by_latent = sort_by_latent(_joined(parts), width)
    values = by_latent.sorted(torch.cat([codes.values for codes in parts]))
    weight_gradient(by_latent, values, out_BO, grad_dec_FO)
    if sae.unit_decoder:
        keep_lengths(grad_dec_FO, W_dec_FO, tiles)
    else:
        sae.add_norm_gradient(grad_dec_FO, penalty.weight * unit)
    squared_error = total(squares)
    return StepSums(
        squared_error=squared_error,
        reconstruction=squared_error,
        sparsity=total(penalties),
        ghost=total(ghosts),
        counts_F=by_latent.counts,
        last_row_F=by_latent.last_rows,
        grad_out_O=out_BO.sum(0),
        pre_sum_F=pre_sum_F,
        grad_skip_OD=out_BO.T @ x_BD if "W_skip_OD" in sae.parameters else None,
    )


def _firing(sae: DenseSae, pre_CF: torch.Tensor) -> SparseCodes:
    """The latents that fire, from x_c W_enc; looked for in blocks of rows that fit a cache."""
    shift_F, _ = sae.reach()
    bias_F, width = sae.parameters["b_enc_F"], pre_CF.shape[1]
    rows, values, ids, start = [], [], [], 0
    for pre_RF in pre_CF.split(max(1, BLOCK_ENTRIES // width)):
        over_RF = sae.buffer("over", pre_RF.shape, pre_RF)
        row, _, latent = above(torch.add(pre_RF, shift_F, out=over_RF), 0.0)
        rows.append(row + start)
        values.append(pre_RF[row, latent] + picked(bias_F, latent))
        ids.append(latent)
        start += pre_RF.shape[0]
    splits = splits_of(torch.cat(rows), pre_CF.shape[0])
    return SparseCodes(torch.cat(values), torch.cat(ids), splits)


def _joined(parts: list[SparseCodes]) -> SparseCodes:
    """Codes of chunks of rows as those of all rows."""
    if len(parts) == 1:
        return parts[0]
    splits, entries = [parts[0].row_splits], parts[0].ids.numel()
    for codes in parts[1:]:
        splits.append(codes.row_splits[1:] + entries)
        entries += codes.ids.numel()
    values, ids = (torch.cat([getattr(c, name) for c in parts]) for name in ("values", "ids"))
    return SparseCodes(values, ids, torch.cat(splits))
