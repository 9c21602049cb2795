"""What the parts of a penalised architecture's step hand to each other, and the ghost penalty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from mistudio.ml.sae.selection import SparseCodes
from mistudio.ml.sae.sparse_gradient import ByLatent
from mistudio.ml.sae.trainable import Penalty

TILE_LATENTS = {"cpu": 512}  # elsewhere all at once: a GPU has no cache to stay in


class StepSums(NamedTuple):
    """What a step adds up over the batch; the gradients of the weights are in their `grad`.

    `grad_out_O` is the sum of the gradients of ŷ, `pre_sum_F` that of the gradients of x_c W_enc,
    `grad_skip_OD` the gradient of a skip transcoder's linear map.
    `last_row_F` is meaningless where `counts_F` is 0.
    """

    squared_error: torch.Tensor
    reconstruction: torch.Tensor
    sparsity: torch.Tensor
    ghost: torch.Tensor
    counts_F: torch.Tensor
    last_row_F: torch.Tensor
    grad_out_O: torch.Tensor
    pre_sum_F: torch.Tensor
    grad_skip_OD: torch.Tensor | None = None


class TileGradient(NamedTuple):
    """What the backward pass of some rows and latents gives. Sums are over the tile.

    `f_CT` are the latents, `grad_pre_CT` the gradient of x_c W_enc and `pre_sum_T` its sum over the
    rows; `sparsity` is ΣP, `ghost` ΣG.
    """

    f_CT: torch.Tensor
    grad_pre_CT: torch.Tensor
    pre_sum_T: torch.Tensor
    sparsity: torch.Tensor
    ghost: torch.Tensor


class ActiveGradient(NamedTuple):
    """What the backward pass of the touched entries [n] gives. Sums are over the batch.

    `codes` are the active latents and `by_latent` the same sorted, `told` [n_active] is ⟨gradient
    of ŷ, decoder row⟩ of each; where nearly all are active they may be all of the touched ones,
    some of value 0, and `fires` tells which are active. `grad_pre` [n] is the gradient of x_c
    W_enc, `vectors` [n] those of the architecture's own vectors by name. `error_BO` is ŷ - y,
    `reconstruction` Σ of the squared errors that R counts.
    """

    codes: SparseCodes
    by_latent: ByLatent
    told: torch.Tensor
    grad_pre: torch.Tensor
    vectors: Mapping[str, torch.Tensor]
    error_BO: torch.Tensor
    reconstruction: torch.Tensor
    sparsity: torch.Tensor
    fires: torch.Tensor | None = None


class GhostPart(NamedTuple):
    """ΣG of some rows and latents, and its weighted gradients: `pull_CT` with respect to what the
    latents lack to fire, `along_T` to the lengths of their decoder rows, None where these are 1."""

    total: torch.Tensor
    pull_CT: torch.Tensor
    along_T: torch.Tensor | None


def ghost_of(
    below_CT: torch.Tensor,
    unit: float,
    penalty: Penalty,
    at: slice | torch.Tensor,
    norm_F: torch.Tensor | None,
) -> GhostPart:
    """G = Σ_i r_i ReLU(below_i) n_i per token of the latents `at`.

    `below_CT` is what they lack to fire, `norm_F` the n_i of all latents (None: they are 1).
    """
    assert penalty.rare_F is not None
    rare_T = penalty.rare_F[at].to(below_CT.dtype)
    lacking_CT = torch.relu(below_CT)
    weight, along_T = penalty.ghost * unit, None
    if norm_F is not None:
        along_T = lacking_CT.sum(0) * (rare_T * weight)
        rare_T = rare_T * norm_F[at]
    total = (lacking_CT * rare_T).sum()
    return GhostPart(total, (lacking_CT > 0) * (rare_T * weight), along_T)


def has_rare(penalty: Penalty, at: slice) -> bool:
    """Whether the ghost penalty concerns one of the latents `at`."""
    return (
        penalty.rare_F is not None and penalty.ghost != 0 and bool(penalty.rare_F[at].any().item())
    )


def tiles_of(width: int, device: torch.device) -> list[slice]:
    """All latents in pieces whose element-wise work stays in the cache."""
    step = TILE_LATENTS.get(device.type, width)
    return [slice(start, min(start + step, width)) for start in range(0, width, step)]


def keep_lengths(grad_dec_FO: torch.Tensor, W_dec_FO: torch.Tensor, tiles: list[slice]) -> None:
    """Take out of the decoder's gradient, in place, what would only change the length of a row."""
    for at in tiles:
        along_T1 = (grad_dec_FO[at] * W_dec_FO[at]).sum(1, keepdim=True)
        grad_dec_FO[at].addcmul_(along_T1, W_dec_FO[at], value=-1)


def total(parts: list[torch.Tensor]) -> torch.Tensor:
    """The sum of scalars, added in float64."""
    return torch.stack(parts).double().sum().to(parts[0].dtype)
