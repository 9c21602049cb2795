"""The static logit lens of one feature in full: past the final norm or raw, with z-scores."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mistudio.core import lens_figures
from mistudio.ml.activations.multi_capture import HookPoint
from mistudio.ml.features.logit_lens import BINS, feature_logits, raw_logits
from mistudio.ml.features.stream_rows import StreamRows
from mistudio.ml.loading import LoadedModel
from mistudio.ml.sae.base import SparseAutoencoder


class FeatureLens(NamedTuple):
    """Largest and smallest logits [K] with their tokens, positive falling, negative rising.

    z = (logit - `mean`) / `deviation`, both over the `counts.sum()` entries of the vocabulary;
    `skew` and `kurtosis` are E[z^3] and E[z^4]. `edges` [B + 1] and `counts` [B]: all logits.
    """

    positive_ids: NDArray[np.int64]
    positive: NDArray[np.float64]
    negative_ids: NDArray[np.int64]
    negative: NDArray[np.float64]
    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    mean: float
    deviation: float
    skew: float
    kurtosis: float


@torch.inference_mode()
def feature_lens(
    sae: SparseAutoencoder,
    loaded: LoadedModel,
    feature: int,
    *,
    raw: bool,
    top: int = lens_figures.KEPT,
    written: HookPoint | None = None,
) -> FeatureLens:
    """The lens of a feature; `raw`: its decoder row times the unembedding, without the final norm's
    gain and centring and not centred over the vocabulary. `written` is where the SAE writes, None
    for the stream. Raises as `feature_logits` and `StreamRows`."""
    row_1D = StreamRows(loaded, sae, written)(torch.tensor([feature]))
    make = raw_logits if raw else feature_logits
    logits_V = make(row_1D, loaded)[0].double().cpu().numpy()
    count = min(top, logits_V.size)
    order = np.argsort(-logits_V, kind="stable")
    counts, edges = np.histogram(logits_V, BINS)
    mean, deviation = float(logits_V.mean()), float(logits_V.std())
    z_V = (logits_V - mean) / max(deviation, 1e-30)
    low = order[::-1][:count]
    return FeatureLens(
        order[:count],
        logits_V[order[:count]],
        low,
        logits_V[low],
        edges,
        counts,
        mean,
        deviation,
        float((z_V**3).mean()),
        float((z_V**4).mean()),
    )
