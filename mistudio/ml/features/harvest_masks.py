"""Which tokens of a harvest count, and the norm beyond which one does not."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mistudio.core.errors import Mismatch
from mistudio.ml.activations.masking import keep_mask, keep_pair
from mistudio.ml.data.token_store import LISTED as AT_LISTED
from mistudio.ml.data.token_store import PADDING as NO_TOKEN
from mistudio.ml.data.token_store import SPECIAL as SPECIAL_TOKEN
from mistudio.ml.data.token_store import TokenStore
from mistudio.ml.features.feature_store import (
    EXTREME,
    KEPT,
    LISTED,
    NOT_FINITE,
    PADDING,
    SPECIAL,
)
from mistudio.ml.features.rows import RowPlan, read_block
from mistudio.ml.features.sources import Source
from mistudio.ml.sae.base import SparseAutoencoder

REFERENCE_TOKENS = 4096  # content tokens whose median norm the cut refers to


def store_mask(
    x_RSD: torch.Tensor,
    y_RSO: torch.Tensor,
    tokens_RS: NDArray[np.uint8],
    median_norms: tuple[float, float],
    norm_cut: float,
    mask_special: bool,
) -> NDArray[np.uint8]:
    """The store's mask: which tokens count, and why others do not."""
    kept = keep_pair(
        x_RSD,
        y_RSO,
        tokens_RS,
        norm_limits=(norm_cut * median_norms[0], norm_cut * median_norms[1]),
        mask_special=mask_special,
    )
    keep_RS = kept.keep_BS.cpu().numpy()
    mask_RS = np.full(tokens_RS.shape, KEPT, np.uint8)
    mask_RS[~keep_RS] = EXTREME
    if kept.dropped["non_finite"]:
        finite_RS = x_RSD.isfinite().all(-1) & y_RSO.isfinite().all(-1)
        mask_RS[~keep_RS & ~finite_RS.cpu().numpy()] = NOT_FINITE
    mask_RS[tokens_RS & AT_LISTED != 0] = LISTED
    if mask_special:
        mask_RS[tokens_RS & SPECIAL_TOKEN != 0] = SPECIAL
    mask_RS[tokens_RS == NO_TOKEN] = PADDING
    return mask_RS


@torch.inference_mode()
def median_norms(
    source: Source,
    sae: SparseAutoencoder,
    tokens: TokenStore,
    plan: RowPlan,
    height: int,
    *,
    filled: bool = True,
) -> tuple[float, float]:
    """The median norms of the SAE's training, of what it reads and of what it gives; a foreign
    SAE's are measured on the first rows."""
    found: list[float] = []
    for side, name in enumerate(("median_norm", "median_norm_out")):
        known = sae.metadata.get(name)
        if isinstance(known, (int, float)) and known > 0:
            found.append(float(known))
        elif side == 0 or source.is_pair:
            found.append(_measured_norm(source, side, tokens, plan, height, filled))
        else:
            found.append(found[0])
    return found[0], found[1]


def _measured_norm(
    source: Source, side: int, tokens: TokenStore, plan: RowPlan, height: int, filled: bool
) -> float:
    found: list[torch.Tensor] = []
    for index in range(-(-len(plan.rows_R2) // height)):
        block = read_block(tokens, plan, height, index, filled=filled)
        x_BSD = source(block)[side]
        keep_BS = keep_mask(x_BSD, block.mask_RS, norm_limit=None).keep_BS
        found.append(x_BSD[keep_BS].float().norm(dim=1).cpu())
        if sum(part.numel() for part in found) >= REFERENCE_TOKENS:
            break
    norms = torch.cat(found)[:REFERENCE_TOKENS]
    if not norms.numel():
        raise Mismatch("This tokenisation holds no text that counts, only special tokens.")
    return float(norms.median())
