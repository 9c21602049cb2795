"""What labels need of the decoder's directions: the classes of tokens that they promote."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from mistudio.core.errors import Mismatch, Unsupported
from mistudio.ml.features.labels.make import WORKERS
from mistudio.ml.features.labels.promotes import Enrichment, Promoted, sample_vocabulary
from mistudio.ml.features.labels.strings import Strings
from mistudio.ml.features.norms import norm_gain
from mistudio.ml.loading import LoadedModel

NEIGHBOURS = 4  # nearest directions on whose tokens rules are judged
CHUNK = 512  # directions at a time


@torch.inference_mode()
def promoted_classes(
    loaded: LoadedModel,
    W_dec_FO: torch.Tensor,
    strings: Strings,
    used_ids: NDArray[np.integer],
    *,
    seed: int = 0,
    check: Callable[[float], None] = lambda _done: None,
) -> Promoted:
    """The class of tokens that each direction promotes most, over a sample of the vocabulary.

    `W_dec_FO` are directions of the stream (`StreamRows`); `used_ids`: vocabulary ids of the text,
    of which the sample is drawn. Raises `Unsupported` for a model without an unembedding and
    `Mismatch` if directions are not as wide as its stream.
    """
    weight_VD = getattr(loaded.blocks.unembedding, "weight", None)
    if weight_VD is None or weight_VD.shape[1] != loaded.hidden_dim:
        raise Unsupported("This model has no unembedding of the stream's width, so no logit lens.")
    if W_dec_FO.shape[1] != loaded.hidden_dim:
        raise Mismatch("The SAE writes vectors of another width than the model's stream.")
    known = used_ids[(used_ids >= 0) & (used_ids < min(len(weight_VD), len(strings.string_V)))]
    ids = sample_vocabulary(known, seed, strings.classes_V)
    gain = norm_gain(loaded.blocks, loaded.hidden_dim, weight_VD.device)
    rows = torch.from_numpy(ids).to(weight_VD.device)
    unembedding_VD = weight_VD[rows].float() * gain.gain_D
    if gain.centres:  # as good as centring every direction
        unembedding_VD = unembedding_VD - unembedding_VD.mean(1, keepdim=True)
    return enriched(W_dec_FO, unembedding_VD, strings.classes_V[ids], seed=seed, check=check)


def enriched(
    direction_FD: torch.Tensor,
    unembedding_VD: torch.Tensor,
    classes_V: NDArray[np.uint32],
    *,
    seed: int = 0,
    check: Callable[[float], None] = lambda _done: None,
) -> Promoted:
    """The most enriched class in the order of each direction's logits over some tokens, whose rows
    of the unembedding and classes are given."""
    enrich = Enrichment(classes_V, seed)

    @torch.inference_mode()
    def part(start: int) -> Promoted:
        r_CD = direction_FD[start : start + CHUNK].to(unembedding_VD.device, torch.float32)
        return enrich((r_CD @ unembedding_VD.T).cpu().numpy())

    parts: list[Promoted] = []
    starts = range(0, len(direction_FD), CHUNK)
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="promoted") as pool:
        try:
            for start, made in zip(starts, pool.map(part, starts), strict=True):
                check(start / len(direction_FD))
                parts.append(made)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return Promoted(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
