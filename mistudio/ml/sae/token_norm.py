"""Scaling each token by itself: what some SAEs do to the activations they read, and undo.

It cannot be folded into weights, as each token has a scale of its own. Such an SAE's latents are
given in the units of the activations all the same: times the scale that was divided by.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

KINDS = ("layer_norm", "constant_norm_rescale")  # as SAELens calls them
_LAYER_EPS = 1e-5  # as there, added to the deviation


class TokenNorm(NamedTuple):
    """What was made of some tokens [..., D]: z = (x - mean) / scale, up to rounding.

    `scale_B1` is what z is to be multiplied by to give x - mean; `mean_B1` is None for 0.
    """

    z_BD: torch.Tensor
    scale_B1: torch.Tensor
    mean_B1: torch.Tensor | None


def normed(x_BD: torch.Tensor, kind: str) -> TokenNorm:
    """Tokens at mean 0 and deviation 1 ("layer_norm") or at norm √D ("constant_norm_rescale")."""
    if kind == "constant_norm_rescale":
        norm_B1 = x_BD.norm(dim=-1, keepdim=True)
        factor_B1 = x_BD.shape[-1] ** 0.5 / norm_B1.clamp_min(torch.finfo(x_BD.dtype).tiny)
        return TokenNorm(x_BD * factor_B1, 1 / factor_B1, None)
    mean_B1 = x_BD.mean(dim=-1, keepdim=True)
    z_BD = x_BD - mean_B1
    deviation_B1 = z_BD.std(dim=-1, keepdim=True)
    return TokenNorm(z_BD / (deviation_B1 + _LAYER_EPS), deviation_B1, mean_B1)
