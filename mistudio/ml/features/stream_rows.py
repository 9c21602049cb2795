"""What features add to the residual stream: their decoder rows, or those of heads led through the
attention's output projection.

The lens, labels by promoted tokens and direct effects ask for it.
"""

from __future__ import annotations

import torch
from torch import nn

from mistudio.core.errors import Mismatch, Unsupported
from mistudio.ml.activations.capture import Capture
from mistudio.ml.activations.multi_capture import HookPoint
from mistudio.ml.features.norms import gain_of
from mistudio.ml.hooks import attention_projection
from mistudio.ml.loading import LoadedModel
from mistudio.ml.quantization import plain_weight
from mistudio.ml.sae.base import SparseAutoencoder

CHUNK_FEATURES = 1 << 12  # rows led through the projection at a time


class StreamRows:
    """Call it with feature numbers for what an activation of 1 adds to the stream, [N, D].

    Where a norm follows the projection (Gemma 2 and 3) that depends on the token: a row is then
    multiplied by the norm's gain, which is right but for a positive factor of the token's.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        sae: SparseAutoencoder,
        written: HookPoint | None = None,
        *,
        exact: bool = False,
    ) -> None:
        """`written` is where the SAE writes, None for the stream itself.

        Raises `InvalidInput` if the layer has no heads, `Mismatch` if they are not as wide as the
        SAE, and with `exact` `Unsupported` where the stream gets something else than the projection
        gives: a norm follows it, or the block scales what it adds.
        """
        self._sae = sae
        self._projection_OD: torch.Tensor | None = None
        self._gain_D: torch.Tensor | None = None
        self._centres = False
        if written is None or written.hook != "attn_z":
            return
        path, module = attention_projection(loaded, written.layer)
        weight = plain_weight(module).detach().float()
        weight_OD = weight if type(module).__name__ == "Conv1D" else weight.T
        if weight_OD.shape[0] != sae.d_out:
            raise Mismatch(
                f"The SAE writes vectors of width {sae.d_out:,}, the heads of layer "
                f"{written.layer} are {weight_OD.shape[0]:,} wide."
            )
        self._projection_OD = weight_OD.to(sae.device)
        norm = _norm_behind(loaded, written.layer, path)
        if norm is None:
            if exact:
                _check_added(loaded, written.layer)
            return
        if exact:
            raise Unsupported(
                "In this model a norm follows the attention's projection, so that what a feature "
                "of the heads adds to the stream is no fixed direction.",
                code="no_direct",
            )
        gain = gain_of(norm, weight_OD.shape[1], loaded.device)
        self._gain_D, self._centres = gain.gain_D.to(sae.device), gain.centres

    @torch.inference_mode()
    def __call__(self, features_N: torch.Tensor) -> torch.Tensor:
        rows_NO = self._sae.W_dec_FO[features_N.to(self._sae.device)]
        if self._projection_OD is None:
            return rows_NO
        rows_ND = rows_NO.float() @ self._projection_OD
        if self._gain_D is None:
            return rows_ND
        if self._centres:
            rows_ND = rows_ND - rows_ND.mean(1, keepdim=True)
        return rows_ND * self._gain_D

    @torch.inference_mode()
    def all(self) -> torch.Tensor:
        """The rows of every feature [F, D]."""
        if self._projection_OD is None:
            return self._sae.W_dec_FO
        numbers = torch.arange(self._sae.n_latents)
        return torch.cat([self(part) for part in numbers.split(CHUNK_FEATURES)])


def _check_added(loaded: LoadedModel, layer: int) -> None:
    """Raise `Unsupported` unless a block adds what its attention gives as it is."""
    try:
        Capture(loaded, layer, "attn_out")
    except Unsupported as refusal:
        raise Unsupported(
            "In this model a block does not add what its attention gives as it is, so that what a "
            "feature of the heads adds to the stream is not known.",
            details=refusal.sentence,
            code="no_direct",
        ) from refusal


def _norm_behind(loaded: LoadedModel, layer: int, projection: str) -> nn.Module | None:
    """The norm between the projection and the stream, None if there is none."""
    blocks = loaded.blocks
    if projection.startswith(f"{blocks.attention_path[layer]}."):
        return None
    return blocks.attention[layer]
