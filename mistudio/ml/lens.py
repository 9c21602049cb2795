"""The logit lens on a prompt: what the model would say if it ended after each layer.

The distribution at a layer is softmax(softcap(lm_head(norm_final(h)))), with the statistics of the
norm taken anew for each h (nostalgebraist 2020). All of it in float32; at the last layer it is the
model's own distribution, which is checked before a model is said to have a lens.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from mistudio.core.errors import InvalidInput, Unsupported
from mistudio.ml.activations.capture import check_ids, first_tensor
from mistudio.ml.architecture import text_config
from mistudio.ml.loading import LoadedModel
from mistudio.ml.quantization import plain_weight

CHUNK_VOCABULARY = 1 << 15  # rows of the unembedding cast to float32 at a time
CHUNK_LOGITS = 1 << 24  # logits held at a time (64 MB)
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.1}
_PROBE_IDS = 8


@dataclass(frozen=True)
class PromptLens:
    """Likeliest tokens per layer and position.

    Axes: L + 1 layers (the embedding, then each block), S positions, K tokens.
    """

    top_ids_LSK: torch.Tensor
    probabilities_LSK: torch.Tensor


class Unembed:
    """The way from the residual stream to probabilities, in float32."""

    def __init__(self, loaded: LoadedModel) -> None:
        """Raises `Unsupported` if the model has no output matrix of the stream's width."""
        blocks = loaded.blocks
        output: Any = blocks.unembedding
        if getattr(output, "weight", None) is None:
            raise Unsupported("This model has no output matrix.", code="no_lens")
        self._weight_VD = plain_weight(output)
        width = self._weight_VD.shape[1]
        if width != loaded.hidden_dim:
            raise Unsupported(
                f"The output matrix reads vectors of width {width}, the residual stream is "
                f"{loaded.hidden_dim} wide.",
                code="no_lens",
            )
        self._bias_V = getattr(output, "bias", None)
        norm = blocks.final_norm
        self._norm: nn.Module | None = None if norm is None else copy.deepcopy(norm).float()
        config = text_config(loaded.model)
        self._cap = getattr(config, "final_logit_softcapping", None)
        self._factor = float(getattr(config, "logit_scale", None) or 1.0)
        self._factor /= float(getattr(config, "logits_scaling", None) or 1.0)

    @property
    def vocabulary(self) -> int:
        """Number of rows of the output matrix."""
        return len(self._weight_VD)

    def column(self, token: int) -> torch.Tensor:
        """What a normed stream is multiplied by for one token's logit, before any softcap [D]."""
        return self._weight_VD[token].float() * self._factor

    @torch.inference_mode()
    def logits(self, stream_TD: torch.Tensor) -> torch.Tensor:
        """Logits [T, V] in float32 for vectors of the residual stream."""
        x_TD = stream_TD.float()
        if self._norm is not None:
            x_TD = self._norm(x_TD)
        logits_TV = torch.empty(len(x_TD), self.vocabulary, device=x_TD.device)
        for start in range(0, self.vocabulary, CHUNK_VOCABULARY):
            part_PD = self._weight_VD[start : start + CHUNK_VOCABULARY].float()
            torch.matmul(x_TD, part_PD.T, out=logits_TV[:, start : start + len(part_PD)])
        if self._bias_V is not None:
            logits_TV += self._bias_V.float()
        if self._factor != 1.0:
            logits_TV *= self._factor
        if self._cap:
            logits_TV.div_(self._cap).tanh_().mul_(self._cap)
        return logits_TV


@torch.inference_mode()
def residual_streams(loaded: LoadedModel, ids_S: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One whole forward pass: x_LSD (the first block's input, each block's output), logits_SV."""
    seen: list[torch.Tensor] = []

    def before(_module: nn.Module, inputs: Any, named: Any) -> None:
        seen.append((inputs[0] if inputs else named["hidden_states"]).detach())

    def after(_module: nn.Module, _inputs: Any, output: Any) -> None:
        seen.append(first_tensor(output).detach())

    blocks = loaded.blocks.modules
    handles = [blocks[0].register_forward_pre_hook(before, with_kwargs=True)]
    handles += [block.register_forward_hook(after) for block in blocks]
    try:
        output = loaded.model(input_ids=ids_S[None].to(loaded.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    width = loaded.hidden_dim
    return torch.stack([x.reshape(-1, width) for x in seen]), output.logits[0]


@torch.inference_mode()
def prompt_lens(
    loaded: LoadedModel,
    ids_S: torch.Tensor,
    top_k: int,
    step: Callable[[float], None] = lambda _done: None,
) -> PromptLens:
    """The `top_k` likeliest next tokens after each layer at each of the positions `ids_S`.

    `step` gets the share done before each chunk and may raise. Raises `InvalidInput` without
    tokens and `Unsupported` if the model has no lens.
    """
    if not len(ids_S):
        raise InvalidInput("The prompt holds no token.")
    check_ids(ids_S[None], loaded.facts.vocab_size)
    unembed = Unembed(loaded)
    streams_LSD, _logits = residual_streams(loaded, ids_S)
    count = min(top_k, unembed.vocabulary)
    rows = max(1, CHUNK_LOGITS // unembed.vocabulary)
    parts: list[tuple[torch.Tensor, torch.Tensor]] = []
    flat_TD = streams_LSD.flatten(0, 1)
    for start in range(0, len(flat_TD), rows):
        step(start / len(flat_TD))
        probabilities_TV = functional.softmax(unembed.logits(flat_TD[start : start + rows]), 1)
        values, ids = probabilities_TV.topk(count, 1)
        parts.append((ids.cpu(), values.cpu()))
    shape = (*streams_LSD.shape[:2], count)
    return PromptLens(
        torch.cat([ids for ids, _ in parts]).view(shape),
        torch.cat([values for _, values in parts]).view(shape),
    )


def why_no_lens(loaded: LoadedModel) -> str:
    """Why a model has no logit lens, "" if it has one.

    The lens at the last layer must be the model's own distribution on a few tokens.
    """
    try:
        unembed = Unembed(loaded)
    except Unsupported as refusal:
        return refusal.sentence
    ids_S = torch.arange(2, 2 + _PROBE_IDS) % loaded.facts.vocab_size
    streams_LSD, logits_SV = residual_streams(loaded, ids_S)
    ours_SV = functional.softmax(unembed.logits(streams_LSD[-1]), 1)
    own_SV = functional.softmax(logits_SV.float(), 1)
    gap = float((ours_SV - own_SV).abs().sum(1).max()) / 2  # total variation, 0 to 1
    if not gap <= _TOLERANCE.get(loaded.dtype, 0.1):
        return (
            "The final norm and the output matrix alone do not give this model's own "
            f"distribution (they differ by {100 * gap:.0f} %)."
        )
    return ""
