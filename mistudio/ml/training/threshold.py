"""The threshold that makes a BatchTopK SAE work token by token (arXiv 2412.06410)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from mistudio.core.control import JobControl
from mistudio.ml.sae.base import SparseAutoencoder

DECAY = 0.999


class ThresholdAverage:
    """Average in float64 of the smallest kept value of each batch, seeded with its first value."""

    def __init__(self, start: int) -> None:
        """Until step `start` the latest value stands; from then on it is averaged."""
        self._start = start
        self._value = 0.0
        self._averaging = False

    @property
    def value(self) -> float:
        """θ in units of the scaled input; 0 before the first batch."""
        return self._value

    def update(self, smallest_kept: float, step: int) -> None:
        """Take in the smallest kept positive value of the batch of `step`."""
        if self._averaging:
            # a difference, so that the average of a constant is that constant to the bit
            self._value += (1 - DECAY) * (smallest_kept - self._value)
        else:
            self._value = smallest_kept
        self._averaging = step >= self._start

    def state(self) -> dict[str, float]:
        """JSON values."""
        return {"value": self._value, "averaging": float(self._averaging)}

    def restore(self, state: dict[str, float]) -> None:
        """Take back what `state` gave."""
        self._value, self._averaging = float(state["value"]), bool(state["averaging"])


def calibrate_threshold(
    sae: SparseAutoencoder,
    batches: Callable[[], Iterable[torch.Tensor]],
    k: int,
    max_tokens: int,
    control: JobControl | None = None,
) -> float:
    """The constant threshold at which `sae` (jumprelu) has mean L0 = k on the given batches.

    `batches()` yields unscaled x [B, d_in]; the result is in the same units. It is the exact
    quantile: k·N of the N·m values lie above it. Falls back to the SAE's own threshold if there
    are no tokens.
    """
    assert sae.threshold_F is not None
    present = float(sae.threshold_F.max())
    bound = 0.7 * present
    while True:
        tokens, kept = 0, []
        lowered = sae.with_threshold(bound)
        for x_BD in batches():
            if control is not None:
                control.check()
            x_BD = x_BD[: max_tokens - tokens]
            kept.append(lowered.encode_sparse(x_BD).values)
            tokens += x_BD.shape[0]
            if tokens >= max_tokens:
                break
        values = torch.cat(kept) if kept else torch.zeros(0)
        wanted = k * tokens
        if wanted == 0:
            return present
        if values.numel() > wanted:
            return float(torch.kthvalue(values, values.numel() - wanted).values)
        if bound == 0:
            return 0.0
        bound = 0.0 if bound < 1e-3 * present else bound / 2
