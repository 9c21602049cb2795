"""Folding scales, whitening and decoder norms into an SAE's weights, in float64."""

from __future__ import annotations

from dataclasses import replace

import torch

from mistudio.core.errors import Unsupported
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.whitening import Coordinates

UNIT_TOLERANCE = 1e-5  # float32 rounding of a unit row; folding that away would only change bits
COLUMNS = 4096  # of a weight matrix, turned at a time


def fold_unit_scale(sae: SparseAutoencoder, scale: float) -> SparseAutoencoder:
    """An SAE trained on scale * x as one that reads x, with the decoder rows it has.

    Biases and threshold are divided by the scale, so that latents, with unit rows, are in the units
    of x; the weights stay. Keeps the selected latents, also for topk. So do those of a matching
    pursuit, whatever its rows' lengths: what it leaves over is divided by the scale too.
    """

    def shrunk(tensor: torch.Tensor) -> torch.Tensor:
        return (tensor.double() / scale).to(tensor.dtype)

    threshold = None if sae.threshold_F is None else shrunk(sae.threshold_F)
    return replace(
        sae,
        b_enc_F=shrunk(sae.b_enc_F),
        b_dec_O=shrunk(sae.b_dec_O),
        threshold_F=threshold,
        pursuit=None if sae.pursuit is None else sae.pursuit.divided(scale),
    )


def fold_input_ratio(sae: SparseAutoencoder, ratio: float) -> SparseAutoencoder:
    """A transcoder that reads ratio * x as one that reads x, giving the same: W_enc and W_skip
    are multiplied. b_dec must not be subtracted from the input."""

    def grown(tensor: torch.Tensor) -> torch.Tensor:
        return (tensor.double() * ratio).to(tensor.dtype)

    skip = None if sae.W_skip_OD is None else grown(sae.W_skip_OD)
    return replace(sae, W_enc_DF=grown(sae.W_enc_DF), W_skip_OD=skip)


def fold_input_scale(
    sae: SparseAutoencoder, scale: float, scale_out: float | None = None
) -> SparseAutoencoder:
    """An SAE with decoder rows of any length trained on scale * x, as one that reads x; a
    transcoder trained to give scale_out * y of it, as one that gives y.

    Latents keep their values, so b_enc and a threshold on the pre-activation stay. Where the two
    scales differ b_dec must not be subtracted from the input.
    """
    scale_out = scale if scale_out is None else scale_out
    sae = fold_input_ratio(sae, scale)
    skip = sae.W_skip_OD
    return replace(
        sae,
        context=None if sae.context is None else sae.context.divided(scale),
        W_dec_FO=(sae.W_dec_FO.double() / scale_out).to(sae.W_dec_FO.dtype),
        b_dec_O=(sae.b_dec_O.double() / scale_out).to(sae.b_dec_O.dtype),
        W_skip_OD=None if skip is None else (skip.double() / scale_out).to(skip.dtype),
    )


def fold_decoder_norms(sae: SparseAutoencoder) -> SparseAutoencoder:
    """The same function with unit decoder rows; latent i is multiplied by its row's length.

    For topk and groupmax only right if the selection was on latent times length. Rows that are
    unit already, and rows of zeros, are left as they are. Raises `Unsupported` for a matching
    pursuit with other rows, which would choose other latents, and for a temporal SAE with such,
    whose layers are made for latents of these lengths.
    """
    norms_F = torch.linalg.vector_norm(sae.W_dec_FO.double(), dim=1)
    if bool(((norms_F - 1).abs() <= UNIT_TOLERANCE).all()):
        return sae
    if sae.pursuit is not None or sae.context is not None:
        raise Unsupported(
            f"The lengths of a {sae.architecture} SAE's decoder rows decide which latents it "
            "chooses; they cannot be folded away."
        )
    norms_F = torch.where(norms_F > 0, norms_F, torch.ones_like(norms_F))
    threshold = sae.threshold_F
    if threshold is not None:
        threshold = (threshold.double() * norms_F).to(threshold.dtype)
    return replace(
        sae,
        W_enc_DF=(sae.W_enc_DF.double() * norms_F).to(sae.W_enc_DF.dtype),
        b_enc_F=(sae.b_enc_F.double() * norms_F).to(sae.b_enc_F.dtype),
        W_dec_FO=(sae.W_dec_FO.double() / norms_F[:, None]).to(sae.W_dec_FO.dtype),
        threshold_F=threshold,
    )


def fold_coordinates(sae: SparseAutoencoder, change: Coordinates) -> SparseAutoencoder:
    """An SAE that reads and gives z as one that reads and gives x; a transcoder reads x, and what
    it gives stays.

    Latents keep their values, and so do b_enc, where b_dec is subtracted, and a threshold on the
    pre-activation. The lengths of an SAE's decoder rows change. Raises `Unsupported` for a matching
    pursuit, which reads by what it writes, and for a temporal SAE, which measures lengths.
    """
    if sae.pursuit is not None or sae.context is not None:
        raise Unsupported(
            f"A whitening cannot be folded into a {sae.architecture} SAE: the lengths and angles "
            "of its decoder's rows are those that it reads by."
        )
    origin_D, into_DC, back_CD = change
    W_enc_DF = _product(into_DC, sae.W_enc_DF)
    if not sae.is_transcoder:
        b_enc_F = sae.b_enc_F
        if not sae.apply_b_dec_to_input:
            b_enc_F = (b_enc_F.double() - origin_D @ W_enc_DF.double()).to(b_enc_F.dtype)
        b_dec_O = sae.b_dec_O.double() @ back_CD + origin_D
        return replace(
            sae,
            W_enc_DF=W_enc_DF,
            b_enc_F=b_enc_F,
            W_dec_FO=_product(back_CD.T, sae.W_dec_FO.T).T.contiguous(),
            b_dec_O=b_dec_O.to(sae.b_dec_O.dtype),
        )
    b_enc_F = sae.b_enc_F.double()
    if sae.apply_b_dec_to_input:  # its place is in z, not in x
        b_enc_F = b_enc_F - sae.b_dec_O.double() @ sae.W_enc_DF.double()
    b_enc_F = b_enc_F - origin_D @ W_enc_DF.double()
    W_skip_OD, b_dec_O = sae.W_skip_OD, sae.b_dec_O
    if W_skip_OD is not None:
        turned_OD = W_skip_OD.double() @ into_DC.T
        b_dec_O = (b_dec_O.double() - turned_OD @ origin_D).to(b_dec_O.dtype)
        W_skip_OD = turned_OD.to(W_skip_OD.dtype)
    return replace(
        sae,
        W_enc_DF=W_enc_DF,
        b_enc_F=b_enc_F.to(sae.b_enc_F.dtype),
        b_dec_O=b_dec_O,
        W_skip_OD=W_skip_OD,
        apply_b_dec_to_input=False,
    )


def _product(left_DC: torch.Tensor, right_CF: torch.Tensor) -> torch.Tensor:
    """A product by way of float64, some columns at a time: the whole would take twice the room."""
    found_DF = right_CF.new_empty(left_DC.shape[0], right_CF.shape[1])
    for low in range(0, right_CF.shape[1], COLUMNS):
        at = slice(low, low + COLUMNS)
        found_DF[:, at] = left_DC @ right_CF[:, at].double()
    return found_DF
