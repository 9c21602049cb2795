"""What labels need of the decoder's directions: their neighbours, and the classes they promote."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from mistudio.core.errors import Mismatch, Unsupported
from mistudio.ml.features.labels.promotes import Enrichment, Promoted, sample_vocabulary
from mistudio.ml.features.labels.strings import Strings
from mistudio.ml.features.logit_lens import norm_gain
from mistudio.ml.loading import LoadedModel

NEIGHBOURS = 4
CHUNK = 512  # directions at a time


@torch.inference_mode()
def nearest_directions(
    W_dec_FO: torch.Tensor,
    count: int = NEIGHBOURS,
    *,
    check: Callable[[float], None] = lambda _done: None,
) -> NDArray[np.int32]:
    """The `count` directions with the largest cosine to each one, itself left out: int32 [F, M].

    Directions of length 0 have no neighbours (-1) and are none.
    """
    unit_FO = torch.nn.functional.normalize(W_dec_FO.float(), dim=1)
    features = len(unit_FO)
    count = min(count, features - 1)
    found = np.full((features, count), -1, np.int32)
    empty_F = unit_FO.abs().sum(1) == 0
    for start in range(0, features if count else 0, CHUNK):
        check(start / features)
        part = unit_FO[start : start + CHUNK]
        cosine_CF = part @ unit_FO.T
        lines = torch.arange(len(part), device=part.device)
        cosine_CF[lines, start + lines] = -torch.inf
        cosine_CF[:, empty_F] = -torch.inf
        best = torch.topk(cosine_CF, count, dim=1)
        kept = torch.where(best.values == -torch.inf, -1, best.indices)
        kept[empty_F[start : start + CHUNK]] = -1
        found[start : start + len(part)] = kept.cpu().numpy()
    return found


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

    `used_ids`: vocabulary ids of the text, of which the sample is drawn. Raises `Unsupported` for
    a model without an unembedding and `Mismatch` if directions are not as wide as its stream.
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
    enrich = Enrichment(strings.classes_V[ids], seed)
    parts = []
    for start in range(0, len(W_dec_FO), CHUNK):
        check(start / len(W_dec_FO))
        r_CD = W_dec_FO[start : start + CHUNK].to(weight_VD.device, torch.float32)
        if gain.centres:
            r_CD = r_CD - r_CD.mean(1, keepdim=True)
        parts.append(enrich((r_CD @ unembedding_VD.T).cpu().numpy()))
    return Promoted(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
