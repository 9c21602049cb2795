"""Matching pursuit: latents chosen one after another, each by what those before it left over.

There is no pre-activation that decides alone: the decoder's row that goes furthest into the rest
of a token gives its latent the length of that step, is taken out of the rest, and so on. The
operations and their order are those of SAELens 6.54.12.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from mistudio.core.errors import InvalidInput


@dataclass(frozen=True)
class Pursuit:
    """When a matching pursuit is done with a token.

    It is where what is left over is shorter than `residual_threshold` (0 or less: never), behind
    `max_iterations` steps (None: as many as the width), and, with `stop_on_duplicate_support`,
    behind a step that makes no further latent active. Raises `InvalidInput` for other values.
    """

    residual_threshold: float = 1e-2
    max_iterations: int | None = None
    stop_on_duplicate_support: bool = True

    def __post_init__(self) -> None:
        if not math.isfinite(self.residual_threshold):
            raise InvalidInput("The residual_threshold of a matching pursuit must be a number.")
        if self.max_iterations is not None and self.max_iterations < 1:
            raise InvalidInput("A matching pursuit needs a max_iterations of at least 1, or none.")

    def steps(self, width: int) -> int:
        """The most steps for a token of this width, and so the most latents that become active."""
        return width if self.max_iterations is None else self.max_iterations

    def divided(self, scale: float) -> Pursuit:
        """That of x for one of scale * x: what is left over is so much shorter."""
        return replace(self, residual_threshold=self.residual_threshold / scale)


def pursued(x_BD: torch.Tensor, W_dec_FD: torch.Tensor, pursuit: Pursuit) -> torch.Tensor:
    """Latent values [B, n_latents] of tokens [B, d_in] from which b_dec is subtracted already.

    Needs twice the room of what it gives, and a product with all rows for every step: tokens that
    are done are left out of the further ones.
    """
    f_BF = x_BD.new_zeros(x_BD.shape[0], W_dec_FD.shape[0])
    at_A, left_AD = torch.arange(x_BD.shape[0], device=x_BD.device), x_BD
    for _ in range(pursuit.steps(x_BD.shape[1])):
        if not at_A.numel():
            break
        ids_A = (left_AD @ W_dec_FD.T).relu_().max(dim=1).indices
        rows_AD = W_dec_FD[ids_A]
        values_A = (left_AD * rows_AD).sum(dim=-1).relu_()
        before_A = f_BF[at_A, ids_A]
        f_BF[at_A, ids_A] = before_A + values_A
        left_AD = left_AD - values_A[:, None] * rows_AD
        done_A = values_A == 0  # nothing changed, and nothing would in the next step
        if pursuit.stop_on_duplicate_support:
            done_A |= before_A != 0
        if pursuit.residual_threshold > 0:
            done_A |= left_AD.norm(dim=-1) < pursuit.residual_threshold
        if bool(done_A.any()):
            going_A = ~done_A
            at_A, left_AD = at_A[going_A], left_AD[going_A]
    return f_BF
