"""Where the features of a new SAE begin: in the directions that activations keep to.

Attention writes into few directions: about three in five of them hold 99 % of the variance. A
feature that begins at random has most of its encoder where no activation varies, and may never
fire; drawn from the active directions it does (Wang et al., arXiv 2508.16929).
"""

from __future__ import annotations

import torch

from mistudio.core.events import Reporter
from mistudio.core.training_configs import TrainConfig
from mistudio.core.training_rules import begins_in_subspace, is_whitened
from mistudio.ml.whitening import Whitening

SHARE = 0.99  # of the variance, in the directions that features begin in


def first_directions(
    config: TrainConfig, found: Whitening | None, report: Reporter
) -> torch.Tensor | None:
    """Orthonormal columns [D, R], in coordinates of what the SAE trains on, that its first rows are
    to lie in; None: in no special ones.

    `found` are the principal directions of the activations, None where too few tokens were there to
    measure them. What is done is noted.
    """
    if not begins_in_subspace(config):
        return None
    if found is None:
        report.note(
            "The features begin in all directions: there are too few tokens to tell those that "
            "activations keep to.",
            level="warning",
        )
        return None
    basis_DR = found.whitened_subspace(SHARE) if is_whitened(config) else found.subspace(SHARE)
    report.note(
        f"The features begin in {basis_DR.shape[1]:,} of {basis_DR.shape[0]:,} directions, which "
        f"hold {SHARE:.0%} of the variance."
    )
    return basis_DR
