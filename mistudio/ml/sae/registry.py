"""Which class trains which architecture; a new one is a file beside this and a line here."""

from __future__ import annotations

import torch

from mistudio.core.errors import InvalidInput
from mistudio.ml.sae.batch_topk import BatchTopK
from mistudio.ml.sae.gated import Gated
from mistudio.ml.sae.jumprelu import JumpReLU
from mistudio.ml.sae.matryoshka import MatryoshkaBatchTopK
from mistudio.ml.sae.relu import Standard
from mistudio.ml.sae.topk import TopK
from mistudio.ml.sae.trainable import TrainableSae

_KINDS = (TopK, BatchTopK, MatryoshkaBatchTopK, Standard, Gated, JumpReLU)
TRAINABLE: dict[str, type[TrainableSae]] = {kind.architecture: kind for kind in _KINDS}


def new_trainable(
    architecture: str,
    d_in: int,
    n_latents: int,
    k: int,
    *,
    seed: int,
    dtype: torch.dtype = torch.float32,
) -> TrainableSae:
    """A freshly initialised SAE on the CPU; raises `InvalidInput` for an unknown architecture."""
    if architecture not in TRAINABLE:
        known = ", ".join(TRAINABLE)
        raise InvalidInput(f"There is no architecture {architecture!r} to train; known: {known}.")
    generator = torch.Generator().manual_seed(seed)
    return TRAINABLE[architecture](d_in, n_latents, k, generator=generator, dtype=dtype)
