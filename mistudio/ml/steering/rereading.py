"""How strongly features fire on a text when the unsteered model reads it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mistudio.ml.features.own_values import own_values
from mistudio.ml.hooks import hook_place, listen
from mistudio.ml.loading import LoadedModel
from mistudio.ml.sae.base import SparseAutoencoder


@torch.inference_mode()
def reread(
    loaded: LoadedModel,
    sae: SparseAutoencoder,
    layer: int,
    hook_in: str,
    features: Sequence[int],
    prompt_ids: Sequence[int],
    ids: Sequence[int],
) -> list[float] | None:
    """Mean activation of each feature over the generated tokens; None if there is none.

    The unsteered model reads prompt and text in one pass; call it with no hook on the model.
    """
    if not ids:
        return None
    whole_1S = torch.tensor([[*prompt_ids, *ids]], device=loaded.device)
    seen: list[torch.Tensor] = []
    handle = listen(hook_place(loaded, layer, hook_in), seen.append)
    try:
        loaded.model(input_ids=whole_1S, use_cache=False)
    finally:
        handle.remove()
    x_1SD = seen[-1].view(1, whole_1S.shape[1], -1)[:, len(prompt_ids) :]
    return mean_activations(sae, x_1SD[0], features)


@torch.inference_mode()
def mean_activations(
    sae: SparseAutoencoder, x_TD: torch.Tensor, features: Sequence[int]
) -> list[float]:
    """Mean activation of each feature over tokens with these vectors at the hook."""
    numbers_K = torch.tensor(list(features), dtype=torch.int64, device=x_TD.device)
    x_KTD = x_TD[None].expand(len(numbers_K), -1, -1)
    return own_values(sae.to(x_TD.device), x_KTD, numbers_K).mean(1).tolist()
