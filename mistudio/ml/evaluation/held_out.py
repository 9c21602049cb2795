"""The few figures that are followed while an SAE is trained, each time on the same tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch

from mistudio.ml.evaluation.bootstrap import figures, plain, totals
from mistudio.ml.evaluation.definitions import ev, l0
from mistudio.ml.evaluation.firing import FiringSums
from mistudio.ml.evaluation.reconstruction import ReconstructionSums
from mistudio.ml.sae.base import SparseAutoencoder

HELD_OUT_TOKENS = 32_768
_FOLLOWED = {define.__name__: define for define in (ev, l0)}


class HeldBatch(NamedTuple):
    """Kept tokens: what is read, what is to be given (the same for an SAE), each token's row.

    float32 and unscaled; tokens of a row come one after another.
    """

    x_TD: torch.Tensor
    y_TO: torch.Tensor
    row_T: np.ndarray


HeldRows = Callable[[], Iterable[HeldBatch]]
"""Gives the same tokens in the same batches whenever it is called; none if nothing is held out."""


def measure_held(
    sae: SparseAutoencoder, batches: Iterable[HeldBatch], check: Callable[[], object]
) -> dict[str, Any] | None:
    """ev, l0, dead (the share that never fired) and n as JSON values; None without tokens.

    They are what `definitions` and `FiringSums` say, pooled over all tokens, and have no interval.
    `check()` is called before each batch; what it raises ends the measurement. Draws no random
    number and changes nothing of `sae`. Raises `Mismatch` for tokens of another width.
    """
    sums, firing = ReconstructionSums(sae.d_out, 1), FiringSums(sae.n_latents)
    for x_TD, y_TO, row_T in batches:
        check()
        codes = sae.encode_sparse(x_TD)
        group_T = np.zeros(len(row_T), dtype=np.int64)
        sums.add(y_TO, sae.decode_sparse(codes, x_TD), codes, group_T)
        firing.add(codes, row_T)
    if not sums.tokens:
        return None
    found = figures(_FOLLOWED, totals(sums.per_group()))
    told = {name: plain(float(value)) for name, value in found.items()}
    return {**told, "dead": firing.metrics()["dead"], "n": sums.tokens}
