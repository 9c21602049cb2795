"""Which tokens a feature's decoder row pushes up and down: the static logit lens.

l_i = (d_i * gain) W_U - mean over the vocabulary (nostalgebraist 2020). Models
whose final norm subtracts the mean (LayerNorm) subtract mean(d_i) from d_i first. Logits are
never turned into probabilities: without the rest of the stream there are none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mistudio.core import lens_figures
from mistudio.core.errors import Mismatch, Unsupported
from mistudio.ml.activations.multi_capture import HookPoint
from mistudio.ml.features.norms import NormGain, norm_gain
from mistudio.ml.features.stream_rows import StreamRows
from mistudio.ml.loading import LoadedModel
from mistudio.ml.sae.base import SparseAutoencoder

BINS = 50
CHUNK_LOGITS = 1 << 24  # logits held at a time (64 MB in float32)
CPU_LOGITS = 1 << 20  # of those summarised at a time on a CPU, so that they stay in its cache
CHUNK_VOCABULARY = 1 << 15  # rows of the unembedding cast to float32 at a time


class LogitLens(NamedTuple):
    """Per feature (axis N): the tokens with the largest and smallest logits, and their spread.

    Positive lists fall, negative lists rise (the most negative first). `histogram_NB` counts all
    vocabulary entries in `BINS` equal bins from `low_N` to `high_N`. `skew_N` and `kurtosis_N`
    are E[z^3] and E[z^4] of the standardised logits.
    """

    positive_ids_NK: NDArray[np.int32]
    positive_logits_NK: NDArray[np.float32]
    negative_ids_NK: NDArray[np.int32]
    negative_logits_NK: NDArray[np.float32]
    histogram_NB: NDArray[np.int32]
    low_N: NDArray[np.float32]
    high_N: NDArray[np.float32]
    skew_N: NDArray[np.float32]
    kurtosis_N: NDArray[np.float32]


@torch.inference_mode()
def feature_logits(
    directions_ND: torch.Tensor, loaded: LoadedModel, gain: NormGain | None = None
) -> torch.Tensor:
    """Logits [N, V] in float32, centred over the vocabulary, for directions in residual units.

    Raises `Mismatch` if the directions are not as wide as the stream and `Unsupported` if the
    model has no unembedding of that width.
    """
    weight_VD = _unembedding(directions_ND, loaded)
    gain = gain or norm_gain(loaded.blocks, loaded.hidden_dim, weight_VD.device)
    r_ND = directions_ND.to(weight_VD.device, torch.float32)
    if gain.centres:
        r_ND = r_ND - r_ND.mean(1, keepdim=True)
    logits_NV = _times(r_ND * gain.gain_D, weight_VD)
    return logits_NV.sub_(logits_NV.mean(1, keepdim=True))


@torch.inference_mode()
def raw_logits(directions_ND: torch.Tensor, loaded: LoadedModel) -> torch.Tensor:
    """Directions times the unembedding [N, V] in float32, nothing else; raises as
    `feature_logits`."""
    weight_VD = _unembedding(directions_ND, loaded)
    return _times(directions_ND.to(weight_VD.device, torch.float32), weight_VD)


def _unembedding(directions_ND: torch.Tensor, loaded: LoadedModel) -> torch.Tensor:
    weight_VD = getattr(loaded.blocks.unembedding, "weight", None)
    width = loaded.hidden_dim
    if weight_VD is None or weight_VD.shape[1] != width:
        raise Unsupported("This model has no unembedding of the stream's width, so no logit lens.")
    if directions_ND.shape[1] != width:
        raise Mismatch(
            f"The SAE writes vectors of width {directions_ND.shape[1]}, the model's stream is "
            f"{width} wide."
        )
    return weight_VD


def _times(r_ND: torch.Tensor, weight_VD: torch.Tensor) -> torch.Tensor:
    logits_NV = torch.empty(len(r_ND), len(weight_VD), device=r_ND.device)
    for start in range(0, len(weight_VD), CHUNK_VOCABULARY):
        part = weight_VD[start : start + CHUNK_VOCABULARY].float()
        torch.matmul(r_ND, part.T, out=logits_NV[:, start : start + len(part)])
    return logits_NV


def logit_lens(
    sae: SparseAutoencoder,
    loaded: LoadedModel,
    features: NDArray[np.int64] | None = None,
    *,
    written: HookPoint | None = None,
    check: Callable[[float], None] = lambda _done: None,
) -> LogitLens:
    """The lens of `features` (all by default), in chunks of bounded memory.

    `written` is where the SAE writes, None for the stream. `check` is called with the share done
    before each chunk and may raise. Raises as `feature_logits` and `StreamRows`.
    """
    wanted = np.arange(sae.n_latents) if features is None else np.asarray(features)
    blocks = loaded.blocks
    vocabulary = len(getattr(blocks.unembedding, "weight", ()))
    step = max(1, CHUNK_LOGITS // max(vocabulary, 1))
    gain = norm_gain(blocks, loaded.hidden_dim, loaded.device)
    rows_of = StreamRows(loaded, sae, written)
    parts = []
    for start in range(0, max(len(wanted), 1), step):
        check(start / max(len(wanted), 1))
        rows = torch.from_numpy(wanted[start : start + step]).to(sae.device)
        logits_NV = feature_logits(rows_of(rows), loaded, gain)
        whole = logits_NV.device.type != "cpu" or not vocabulary
        block = len(logits_NV) if whole else max(1, CPU_LOGITS // vocabulary)
        parts += [_summarise(part_NV) for part_NV in logits_NV.split(max(block, 1))]
    return LogitLens(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


@torch.inference_mode()
def _summarise(logits_NV: torch.Tensor) -> LogitLens:
    count = min(lens_figures.KEPT, logits_NV.shape[1])
    positive = torch.topk(logits_NV, count, dim=1)
    negative = torch.topk(logits_NV, count, dim=1, largest=False)
    low_N, high_N = negative.values[:, 0], positive.values[:, 0]
    span_N = (high_N - low_N).clamp_min(torch.finfo(torch.float32).tiny)
    rows_N = torch.arange(len(logits_NV), device=logits_NV.device, dtype=torch.int32)
    bin_NV = (logits_NV - low_N[:, None]).mul_((BINS / span_N)[:, None]).to(torch.int32)
    bin_NV.clamp_(0, BINS - 1).add_(rows_N[:, None] * BINS)
    counts_NB = torch.bincount(bin_NV.view(-1), minlength=len(logits_NV) * BINS).view(-1, BINS)
    deviation_N = logits_NV.square().mean(1, keepdim=True).sqrt().clamp_min(1e-30)
    z_NV = logits_NV / deviation_N
    square_NV = z_NV.square()
    skew_N = z_NV.mul_(square_NV).mean(1)
    kurtosis_N = square_NV.square_().mean(1)
    return LogitLens(
        _array(positive.indices, np.int32),
        _array(positive.values, np.float32),
        _array(negative.indices, np.int32),
        _array(negative.values, np.float32),
        _array(counts_NB, np.int32),
        _array(low_N, np.float32),
        _array(high_N, np.float32),
        _array(skew_N, np.float32),
        _array(kurtosis_N, np.float32),
    )


def _array(tensor: torch.Tensor, dtype: type[np.generic]) -> NDArray[Any]:
    return tensor.cpu().numpy().astype(dtype)
