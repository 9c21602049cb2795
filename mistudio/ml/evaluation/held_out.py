"""The few figures that are followed while an SAE is trained, each time on the same tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch

from mistudio.ml.evaluation.bootstrap import GROUPS, with_intervals
from mistudio.ml.evaluation.definitions import ev, l0
from mistudio.ml.evaluation.firing import FiringSums
from mistudio.ml.evaluation.reconstruction import ReconstructionSums
from mistudio.ml.sae.base import SparseAutoencoder

HELD_OUT_TOKENS = 32_768
_FOLLOWED = {define.__name__: define for define in (ev, l0)}
_SUMS = ("n", "error", "square", "y", "l0")  # those that they are of: each drawing costs its width
_OF_LATENTS = (
    "dead",
    "dead_bound",
    "density_histogram",
    "density_below_1e-6",
    "density_below_1e-5",
    "density_above_1e-2",
    "density_above_1e-1",
)


class HeldBatch(NamedTuple):
    """Kept tokens: what is read, what is to be given (the same for an SAE), each token's row and
    document.

    float32 and unscaled; tokens of a row come one after another. Documents are numbered from 0
    through all batches; of bare vectors each is its own.
    """

    x_TD: torch.Tensor
    y_TO: torch.Tensor
    row_T: np.ndarray
    doc_T: np.ndarray


HeldRows = Callable[[], Iterable[HeldBatch]]
"""Gives the same tokens in the same batches whenever it is called; none if nothing is held out."""


def measure_held(
    sae: SparseAutoencoder, batches: Iterable[HeldBatch], check: Callable[[], object]
) -> dict[str, Any] | None:
    """A few figures of `evaluate` by its names, as JSON values; None without tokens.

    ev and l0 with their 95 % "intervals" over documents, "n", "documents", and of the latents the
    share that never fired, its bound and the densities. `check()` is called before each batch;
    what it raises ends the measurement. The documents are drawn by a generator of their own: those
    of a training are as before, as is `sae`. Raises `Mismatch` for tokens of another width.
    """
    sums, firing = ReconstructionSums(sae.d_out, GROUPS), FiringSums(sae.n_latents)
    documents = np.empty(0, dtype=np.int64)
    for x_TD, y_TO, row_T, doc_T in batches:
        check()
        codes = sae.encode_sparse(x_TD)
        sums.add(y_TO, sae.decode_sparse(codes, x_TD), codes, doc_T % GROUPS)
        firing.add(codes, row_T)
        documents = np.union1d(documents, doc_T)
    if not sums.tokens:
        return None
    per_group = sums.per_group()
    values, intervals = with_intervals(_FOLLOWED, {name: per_group[name] for name in _SUMS})
    latents = firing.metrics()
    return {
        **values,
        **{name: latents[name] for name in _OF_LATENTS},
        "n": sums.tokens,
        "documents": len(documents),
        "intervals": intervals,
    }
