"""What features add directly to the next token of a text, at every place where they are active.

Direct path only: a feature's part is taken out of the final stream of its own position, and norm,
output matrix and softcap are applied anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mistudio.ml.activations.multi_capture import HookPoint
from mistudio.ml.features.own_text import FiredText
from mistudio.ml.features.stream_rows import StreamRows
from mistudio.ml.hooks import first_tensor
from mistudio.ml.lens import CHUNK_LOGITS, Unembed
from mistudio.ml.loading import LoadedModel
from mistudio.ml.sae.base import SparseAutoencoder


@torch.inference_mode()
def final_streams(loaded: LoadedModel, ids_T: NDArray[np.int64]) -> torch.Tensor:
    """Run a text and take what reaches the final norm at each position: float32 [T, D]."""
    seen: list[torch.Tensor] = []

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        seen.append(first_tensor(output).detach())

    handle = loaded.blocks.modules[-1].register_forward_hook(keep)
    try:
        loaded.model(input_ids=torch.from_numpy(ids_T)[None].to(loaded.device), use_cache=False)
    finally:
        handle.remove()
    return seen[0].reshape(len(ids_T), -1).float()


@torch.inference_mode()
def direct_changes(
    unembed: Unembed,
    streams_TD: torch.Tensor,
    rows_of: StreamRows,
    token_N: NDArray[np.int64],
    features_N: NDArray[np.int64],
    values_N: NDArray[np.float64],
    next_N: NDArray[np.int64],
    check: Callable[[float], None] = lambda _done: None,
) -> NDArray[np.float64]:
    """log p(next) with each entry's part minus without it, at its token [N], in nats.

    Entry n is feature `features_N[n]` at activation `values_N[n]` on token `token_N[n]`.
    """
    device = streams_TD.device
    step = max(1, CHUNK_LOGITS // unembed.vocabulary)
    places, where_N = np.unique(token_N, return_inverse=True)
    whole_N = np.empty(len(token_N))
    for start in range(0, len(places), step):
        log_p_PV = unembed.logits(streams_TD[places[start : start + step]]).log_softmax(-1)
        here = np.flatnonzero((where_N >= start) & (where_N < start + len(log_p_PV)))
        found = log_p_PV[where_N[here] - start, torch.from_numpy(next_N[here]).to(device)]
        whole_N[here] = found.double().cpu().numpy()
    changes_N = np.empty(len(token_N))
    for start in range(0, len(token_N), step):
        check(start / len(token_N))
        part = slice(start, start + step)
        a_C = torch.as_tensor(values_N[part], dtype=torch.float32, device=device)
        added_CD = rows_of(torch.from_numpy(features_N[part])).float().to(device)
        without_CD = streams_TD[token_N[part]] - a_C[:, None] * added_CD
        log_p_CV = unembed.logits(without_CD).log_softmax(-1)
        wanted_C1 = torch.from_numpy(next_N[part])[:, None].to(device)
        log_p_C = log_p_CV.gather(1, wanted_C1)[:, 0]
        changes_N[part] = whole_N[part] - log_p_C.double().cpu().numpy()
    return changes_N


def effects_on_next(
    loaded: LoadedModel,
    sae: SparseAutoencoder,
    fired: FiredText,
    feature: int | None = None,
    check: Callable[[float], None] = lambda _done: None,
    written: HookPoint | None = None,
) -> NDArray[np.float64]:
    """Direct effect of each entry of a text on the log-probability of the token that follows [N].

    NaN on the last token, which none follows, and for features other than `feature` if one is
    named. `written` is where the SAE writes, None for the stream. Raises `Unsupported` if the model
    has no logit lens, and as `StreamRows`.
    """
    unembed = Unembed(loaded)
    rows_of = StreamRows(loaded, sae, written, exact=True)
    ids_T, token_N = fired.tokens.ids_T, fired.token_of()
    wanted = token_N < len(ids_T) - 1
    if feature is not None:
        wanted &= fired.features == feature
    effects_N = np.full(len(token_N), np.nan)
    places = np.flatnonzero(wanted)
    if len(places):
        effects_N[places] = direct_changes(
            unembed,
            final_streams(loaded, ids_T),
            rows_of,
            token_N[places],
            fired.features[places],
            fired.values[places],
            ids_T[token_N[places] + 1],
            check,
        )
    return effects_N
