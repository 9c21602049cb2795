"""Whether an SAE fits what it is given: its explained variance on a sample of the harvest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from mistudio.core.sae_readings import is_cross_layer
from mistudio.ml.sae.base import SparseAutoencoder

TOLERANCE = 0.05  # explained variance that a sample of another text may lack


class Fit(NamedTuple):
    """Explained variance on `n` tokens (None without any), and a sentence if it is too low."""

    ev: float | None
    n: int
    warning: str


@torch.inference_mode()
def measure_fit(
    sae: SparseAutoencoder,
    sample: Sequence[tuple[torch.Tensor, torch.Tensor]],
    expected_ev: float | None,
) -> Fit:
    """1 - sum |y - y'|^2 / sum |y - mean y|^2 over pairs x_TD, y_TO of tokens that count.

    Sums are taken in float64. `expected_ev` is the SAE's known figure; without one only an SAE
    that explains less than the mean does is doubted. One that writes into several layers is not to
    give what stands at one, and is not measured.
    """
    n = sum(len(y_TO) for _, y_TO in sample)
    if n == 0 or is_cross_layer(sae.metadata):
        return Fit(None, 0, "")
    mean_O = sum(y_TO.double().sum(0) for _, y_TO in sample) / n
    error = total = 0.0
    for x_TD, y_TO in sample:
        made_TO = sae.reconstruct(x_TD.to(sae.W_enc_DF.dtype))
        error += float((y_TO.double() - made_TO.double()).square().sum())
        total += float((y_TO.double() - mean_O).square().sum())
    ev = 1.0 - error / max(total, 1e-30)
    return Fit(ev, n, _warning(ev, n, expected_ev))


def _warning(ev: float, n: int, expected_ev: float | None) -> str:
    if expected_ev is None:
        if ev >= 0:
            return ""
        found = "less than the mean activation does"
    elif ev >= expected_ev - TOLERANCE:
        return ""
    else:
        found = f"less than it should ({expected_ev:.3f} as it was measured)"
    return (
        f"This SAE explains {found}: explained variance {ev:.3f} on {n:,} tokens. The model, its "
        "format, the hook or the scale of the input may be another one than it was trained for."
    )
