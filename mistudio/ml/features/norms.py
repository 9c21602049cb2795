"""What a model's norms do besides dividing by a length; measured, so no family needs a case."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from mistudio.ml.architecture import Blocks


class NormGain(NamedTuple):
    """What the final norm does besides dividing by a length: a gain [D], and centring or not."""

    gain_D: torch.Tensor
    centres: bool


@torch.inference_mode()
def norm_gain(blocks: Blocks, width: int, device: torch.device) -> NormGain:
    """Measure the final norm on vectors of known length, so that no family needs its own case.

    A constant vector tells whether the norm centres; a mean-free one gives the gain (the weight,
    or 1 + weight in Gemma). A model without a final norm has gain 1.
    """
    norm = blocks.final_norm
    if norm is None:
        return NormGain(torch.ones(width, device=device), False)
    return gain_of(norm, width, device)


@torch.inference_mode()
def gain_of(norm: nn.Module, width: int, device: torch.device) -> NormGain:
    """Measure any norm, as `norm_gain` does the final one."""
    dtype = next((p.dtype for p in norm.parameters()), torch.float32)
    probe_D = torch.where(torch.arange(width) % 2 == 0, 1.0, -1.0)
    if width % 2:
        probe_D[-3:] = torch.tensor([2.0, -1.0, -1.0])
    ones_D = torch.ones(width)
    both_2D = torch.stack([probe_D, ones_D]).to(device, dtype)
    odd_2D = (norm(both_2D).float() - norm(-both_2D).float()) / 2  # a bias cancels
    length = (probe_D.square().mean() + _epsilon(norm)).sqrt()
    gain_D = odd_2D[0] * length.to(device) / probe_D.to(device)
    centres = bool(odd_2D[1].abs().max() < 1e-3 * gain_D.abs().max())
    return NormGain(gain_D, centres)


def _epsilon(norm: nn.Module) -> float:
    for name in ("eps", "variance_epsilon", "epsilon"):
        value = getattr(norm, name, None)
        if isinstance(value, float):
            return value
    return 0.0
