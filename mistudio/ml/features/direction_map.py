"""A map of features: the two principal components of their decoder directions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

CHUNK = 4096  # directions at a time


class DirectionMap(NamedTuple):
    """Coordinates [F, 2], NaN for features left out; share of the variance that each explains."""

    places_F2: NDArray[np.float64]
    shares_2: NDArray[np.float64]


@torch.inference_mode()
def direction_map(
    W_dec_FO: torch.Tensor,
    kept_F: NDArray[np.bool_],
    *,
    check: Callable[[float], None] = lambda _done: None,
) -> DirectionMap:
    """Exact principal components of the unit decoder rows of the kept features, in float64.

    The covariance is summed chunk by chunk, so memory is that of O x O. The sign of a component
    is that which makes its largest loading positive. `check` gets the share done and may raise.
    """
    rows = torch.from_numpy(np.flatnonzero(kept_F))
    width = W_dec_FO.shape[1]
    sum_O = torch.zeros(width, dtype=torch.float64)
    product_OO = torch.zeros(width, width, dtype=torch.float64)
    for start in range(0, len(rows), CHUNK):
        check(0.5 * start / max(1, len(rows)))
        unit_CO = _unit(W_dec_FO, rows[start : start + CHUNK])
        sum_O += unit_CO.sum(0)
        product_OO += unit_CO.T @ unit_CO
    places_F2 = np.full((len(kept_F), 2), np.nan)
    if len(rows) < 2 or width < 2:
        places_F2[rows.numpy()] = 0.0
        return DirectionMap(places_F2, np.zeros(2))
    mean_O = sum_O / len(rows)
    covariance_OO = product_OO / len(rows) - torch.outer(mean_O, mean_O)
    check(0.5)
    values_O, vectors_OO = torch.linalg.eigh(covariance_OO)
    axes_O2 = vectors_OO[:, -2:].flip(1)
    largest_2 = axes_O2.abs().argmax(0)
    axes_O2 = axes_O2 * axes_O2[largest_2, torch.arange(2)].sign()
    for start in range(0, len(rows), CHUNK):
        check(0.7 + 0.3 * start / len(rows))
        part = rows[start : start + CHUNK]
        places_F2[part.numpy()] = ((_unit(W_dec_FO, part) - mean_O) @ axes_O2).numpy()
    total = float(values_O.clamp_min(0).sum())
    shares_2 = values_O[-2:].flip(0).clamp_min(0).numpy() / max(total, 1e-30)
    return DirectionMap(places_F2, shares_2)


def _unit(W_dec_FO: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    found_CO = W_dec_FO[rows.to(W_dec_FO.device)].double().cpu()
    return found_CO / found_CO.norm(dim=1, keepdim=True).clamp_min(1e-12)
