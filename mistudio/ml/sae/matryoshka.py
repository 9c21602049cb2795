"""Matryoshka BatchTopK: nested dictionaries in one selection (arXiv 2503.17547)."""

from __future__ import annotations

from typing import Any, ClassVar

from mistudio.core.errors import InvalidInput
from mistudio.core.training_configs import TrainConfig
from mistudio.core.training_rules import LEAST_NESTED
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.batch_topk import BatchTopK
from mistudio.ml.sae.sparse_step import Block

SHARES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32)
"""of the latents, block by block; a smaller first one would mix features (arXiv 2505.11756)"""


class MatryoshkaBatchTopK(BatchTopK):
    """BatchTopK whose first m_1 < m_2 < … < m latents each reconstruct the input on their own.

    R is the mean of the prefixes' errors, so that general features come first and are not split
    among later ones. It is used and exported as what BatchTopK is; the prefixes stand in the
    metadata as `matryoshka_widths`.
    """

    architecture: ClassVar[str] = "matryoshka_batch_topk"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        usual = self.n_latents >= LEAST_NESTED
        self._widths = prefix_widths(self.n_latents) if usual else (self.n_latents,)

    def configure(self, config: TrainConfig) -> None:
        """Take over the run's group sizes."""
        super().configure(config)
        self._widths = config.groups or prefix_widths(self.n_latents)

    @property
    def blocks(self) -> list[Block]:
        """From one prefix's end to the next one's."""
        return [Block(a, b) for a, b in zip((0, *self._widths), self._widths, strict=False)]

    def folded(self, scale: float, threshold: float | None = None) -> SparseAutoencoder:
        """A jumprelu SAE with the constant threshold θ, given in units of s·x."""
        return super().folded(scale, threshold).with_metadata(matryoshka_widths=list(self._widths))


def prefix_widths(n_latents: int) -> tuple[int, ...]:
    """Where the prefixes of a dictionary end, the last at `n_latents`.

    Raises `InvalidInput` for fewer than 32 latents, where the first would be empty.
    """
    if n_latents < LEAST_NESTED:
        raise InvalidInput(f"A Matryoshka SAE needs at least {LEAST_NESTED} latents.")
    ends, share = [], 0.0
    for part in SHARES[:-1]:
        share += part
        ends.append(round(share * n_latents))
    return (*ends, n_latents)
