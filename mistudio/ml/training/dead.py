"""Which latents are dead: tokens since each last fired, counted exactly and per token."""

from __future__ import annotations

from collections.abc import Mapping

import torch


class DeadTracker:
    """Integer counters per latent; the flags do not depend on how tokens are cut into batches."""

    def __init__(self, n_latents: int, window: int, device: torch.device) -> None:
        """A latent is dead after `window` tokens without firing; at the start none is."""
        self.window = window
        self.tokens_since_F = torch.zeros(n_latents, dtype=torch.int64, device=device)
        self.firings_F = torch.zeros(n_latents, dtype=torch.int64, device=device)

    def update(self, counts_F: torch.Tensor, last_row_F: torch.Tensor, tokens: int) -> None:
        """Take in a batch: firings per latent and the row of each latent's last one."""
        self.firings_F += counts_F
        self.tokens_since_F = torch.where(
            counts_F > 0, tokens - 1 - last_row_F, self.tokens_since_F + tokens
        )

    def dead(self) -> torch.Tensor:
        """Ids of the dead latents, int64, ascending."""
        return (self.tokens_since_F >= self.window).nonzero().squeeze(1)

    def state(self) -> dict[str, torch.Tensor]:
        """The counters, by name."""
        return {"tokens_since_fired": self.tokens_since_F, "firings": self.firings_F}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take back what `state` gave."""
        device = self.tokens_since_F.device
        self.tokens_since_F = tensors["tokens_since_fired"].to(device, copy=True)
        self.firings_F = tensors["firings"].to(device, copy=True)
