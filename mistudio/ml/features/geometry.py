"""Measures what an SAE's weights say of its features; the fields are those of `GEOMETRY`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from mistudio.ml.features.decoder_rows import GEOMETRY, KEPT_NEIGHBOURS, NEURONS
from mistudio.ml.sae.base import SparseAutoencoder

BLOCK_ENTRIES = 1 << 23  # cosines held at a time (32 MB in float32)


@torch.inference_mode()
def measure_geometry(
    sae: SparseAutoencoder, *, check: Callable[[float], None] = lambda _done: None
) -> NDArray[np.void]:
    """Geometry [F]: nearest rows among all F, lengths, cosines, largest entries.

    Every row is multiplied with every other, in blocks, on the SAE's device; memory is that of one
    block and a copy of the decoder. `check` is called with the share done and may raise.
    """
    W_dec_FO = sae.W_dec_FO.float()
    made_F = np.zeros(sae.n_latents, GEOMETRY)
    made_F["nearest"], made_F["cosine"] = -1, np.nan
    norm_F = W_dec_FO.norm(dim=1)
    made_F["norm"] = _array(norm_F)
    unit_FO = W_dec_FO / norm_F[:, None]  # a row without a length becomes NaN
    made_F["encoder_cosine"] = np.nan
    if not sae.is_transcoder:
        encoder_F = functional.cosine_similarity(sae.W_enc_DF.T.float(), W_dec_FO, dim=1)
        made_F["encoder_cosine"] = np.where(made_F["norm"] > 0, _array(encoder_F), np.nan)
    b_dec_O = sae.b_dec_O.float()
    made_F["bias_product"] = _array(W_dec_FO @ b_dec_O)
    made_F["bias_cosine"] = _array(unit_FO @ (b_dec_O / b_dec_O.norm()))
    _largest_entries(W_dec_FO, made_F)
    _nearest(unit_FO, made_F, check)
    return made_F


def _largest_entries(W_dec_FO: torch.Tensor, made_F: NDArray[np.void]) -> None:
    count = min(NEURONS, W_dec_FO.shape[1])
    size_FO = W_dec_FO.abs()
    found = torch.topk(size_FO, count, dim=1)
    made_F["neuron"] = -1
    made_F["neuron"][:, :count] = _array(found.indices)
    made_F["neuron_value"][:, :count] = _array(W_dec_FO.gather(1, found.indices))
    total_F1 = size_FO.sum(1, keepdim=True)
    made_F["neuron_share"][:, :count] = _array(found.values / total_F1)


def _nearest(
    unit_FO: torch.Tensor, made_F: NDArray[np.void], check: Callable[[float], None]
) -> None:
    features = len(unit_FO)
    count = min(KEPT_NEIGHBOURS, features - 1)
    step = max(1, BLOCK_ENTRIES // features)
    for start in range(0, features if count else 0, step):
        check(start / features)
        cosine_BF = unit_FO[start : start + step] @ unit_FO.T
        own = torch.arange(len(cosine_BF), device=cosine_BF.device)
        cosine_BF[own, start + own] = -torch.inf
        found = torch.topk(cosine_BF.nan_to_num_(nan=-torch.inf, neginf=-torch.inf), count, dim=1)
        values, ids = _array(found.values), _array(found.indices)
        order = np.lexsort((ids, -values), axis=1)  # equal cosines by index
        values, ids = (np.take_along_axis(a, order, axis=1) for a in (values, ids))
        known = np.isfinite(values)
        place = slice(start, start + len(values))
        made_F["nearest"][place, :count] = np.where(known, ids, -1)
        made_F["cosine"][place, :count] = np.where(known, np.clip(values, -1, 1), np.nan)


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    return tensor.cpu().numpy()
