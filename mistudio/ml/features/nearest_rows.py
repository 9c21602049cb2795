"""What decoder rows tell without any text: their nearest rows and their largest entries."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

CHUNK_ENTRIES = 1 << 24  # cosines held at a time (64 MB)


class NearestRows(NamedTuple):
    """Of each row the K rows with the largest cosine, falling; itself is left out."""

    rows_FK: NDArray[np.int64]
    cosines_FK: NDArray[np.float32]


class LargestEntries(NamedTuple):
    """Of each row its K largest entries, falling, and their absolute values over its L1 norm."""

    places_FK: NDArray[np.int64]
    values_FK: NDArray[np.float32]
    shares_FK: NDArray[np.float32]


@torch.inference_mode()
def nearest_rows(
    W_dec_FO: torch.Tensor, most: int = 10, check: Callable[[float], None] = lambda _done: None
) -> NearestRows:
    """The `most` nearest rows of each decoder row [F, d] by cosine; ties by number.

    `check` is called with the share done and may raise.
    """
    unit_FO = torch.nn.functional.normalize(W_dec_FO.float(), dim=1)
    features = len(unit_FO)
    kept = min(most, features - 1)
    rows_FK = np.zeros((features, kept), np.int64)
    cosines_FK = np.zeros((features, kept), np.float32)
    step = max(1, CHUNK_ENTRIES // max(features, 1))
    for start in range(0, features, step):
        check(start / features)
        cosine_CF = unit_FO[start : start + step] @ unit_FO.T
        own_C = torch.arange(len(cosine_CF), device=cosine_CF.device)
        cosine_CF[own_C, own_C + start] = -torch.inf
        best = torch.topk(cosine_CF, kept, dim=1)
        rows_FK[start : start + step] = best.indices.cpu().numpy()
        cosines_FK[start : start + step] = best.values.cpu().numpy()
    return NearestRows(rows_FK, cosines_FK)


@torch.inference_mode()
def largest_entries(W_dec_FO: torch.Tensor, most: int = 3) -> LargestEntries:
    """The `most` largest entries of each decoder row [F, d]: the neurons it is most aligned to."""
    best = torch.topk(W_dec_FO.float(), min(most, W_dec_FO.shape[1]), dim=1)
    length_F1 = W_dec_FO.float().abs().sum(1, keepdim=True).clamp_min(1e-30)
    return LargestEntries(
        best.indices.cpu().numpy(),
        best.values.cpu().numpy(),
        (best.values.abs() / length_F1).cpu().numpy(),
    )
