"""How strongly features fire on a text when the unsteered model reads it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mistudio.ml.activations.capture import Capture
from mistudio.ml.features.own_values import own_values
from mistudio.ml.loading import LoadedModel
from mistudio.ml.sae.base import SparseAutoencoder


def reread(
    loaded: LoadedModel,
    sae: SparseAutoencoder,
    layer: int,
    hook_in: str,
    features: Sequence[int],
    prompt_ids: Sequence[int],
    ids: Sequence[int],
) -> list[float] | None:
    """Mean activation of each feature over the generated tokens; None if there is none."""
    return reread_texts(loaded, sae, layer, hook_in, features, prompt_ids, [ids])[0]


@torch.inference_mode()
def reread_texts(
    loaded: LoadedModel,
    sae: SparseAutoencoder,
    layer: int,
    hook_in: str,
    features: Sequence[int],
    prompt_ids: Sequence[int],
    texts: Sequence[Sequence[int]],
) -> list[list[float] | None]:
    """The same for several texts that go on from one prompt.

    The unsteered model reads them in one pass; call it with no hook on the model. Shorter texts
    are filled up behind their end, where a left-to-right model does not look.
    """
    longest = max(map(len, texts), default=0)
    if not longest or not features:
        return [None for _ in texts]
    rows = [[*prompt_ids, *ids, *[prompt_ids[0]] * (longest - len(ids))] for ids in texts]
    x_BSD = Capture(loaded, layer, hook_in)(torch.tensor(rows, device=loaded.device))
    sae = sae.to(loaded.device)
    x_BSD = sae.in_context(x_BSD)
    first = len(prompt_ids)
    return [
        mean_activations(sae, x_SD[first : first + len(ids)], features) if ids else None
        for x_SD, ids in zip(x_BSD, texts, strict=True)
    ]


@torch.inference_mode()
def mean_activations(
    sae: SparseAutoencoder, x_TD: torch.Tensor, features: Sequence[int]
) -> list[float]:
    """Mean activation of each feature over tokens; x as `sae.in_context` gives it."""
    numbers_K = torch.tensor(list(features), dtype=torch.int64, device=x_TD.device)
    x_KTD = x_TD[None].expand(len(numbers_K), -1, -1)
    return own_values(sae.to(x_TD.device), x_KTD, numbers_K).mean(1).tolist()
