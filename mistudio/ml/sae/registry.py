"""Which class trains which architecture; a new one is a file beside this and a line here."""

from __future__ import annotations

import torch

from mistudio.core.configs import ENCODERS
from mistudio.core.errors import InvalidInput
from mistudio.core.training_rules import TRANSCODER_ARCHITECTURES, no_transcoder
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
    d_out: int | None = None,
    encoder: str = "sae",
) -> TrainableSae:
    """A freshly initialised SAE or transcoder (`encoder`) on the CPU.

    `d_out` is the width of what it gives, None that of its input. Raises `InvalidInput` for an
    unknown architecture, and for one that has no transcoder.
    """
    if architecture not in TRAINABLE:
        known = ", ".join(TRAINABLE)
        raise InvalidInput(f"There is no architecture {architecture!r} to train; known: {known}.")
    if encoder not in ENCODERS:
        raise InvalidInput(f"There is no encoder {encoder!r}; known: {', '.join(ENCODERS)}.")
    if encoder != "sae" and architecture not in TRANSCODER_ARCHITECTURES:
        raise InvalidInput(no_transcoder(architecture))
    generator = torch.Generator().manual_seed(seed)
    return TRAINABLE[architecture](
        d_in, n_latents, k, generator=generator, dtype=dtype, d_out=d_out, encoder=encoder
    )
