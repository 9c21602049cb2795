"""How often each latent fired in a mask, and in which row last: exact, in one cheap pass."""

from __future__ import annotations

import torch

LANES = 8  # booleans in one int64, added up at once
ROWS = 32  # rows added up at a time: fewer than 256, so that no lane overflows


class FiringMask:
    """A buffer of booleans [C, T], padded so that it can be read a word at a time."""

    def __init__(self) -> None:
        self._padded = torch.zeros(0, 0, dtype=torch.bool)
        self._shape = (0, 0)

    def fill(self, f_CT: torch.Tensor) -> None:
        """Note where f is not 0."""
        rows, columns = f_CT.shape
        if self._shape != (rows, columns) or self._padded.device != f_CT.device:
            size = (-(-rows // ROWS) * ROWS, -(-columns // LANES) * LANES)
            self._padded = torch.zeros(size, dtype=torch.bool, device=f_CT.device)
            self._shape = (rows, columns)
        self._padded[:rows, :columns].copy_(f_CT)

    def count(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Firings of each latent, and 1 + the row of its last one (0 without any): int64 [T]."""
        rows, columns = self._padded.shape
        groups, device = rows // ROWS, self._padded.device
        words_GRL = self._padded.view(torch.int64).view(groups, ROWS, columns // LANES)
        counts_GT = words_GRL.sum(1).view(torch.uint8)
        group_G1 = torch.arange(1, groups + 1, device=device)[:, None]
        last_group_T = ((counts_GT > 0) * group_G1).amax(0)
        at_T = torch.arange(columns, device=device)
        start_T = (last_group_T - 1).clamp_min(0)
        fired_TR = self._padded.view(groups, ROWS, columns)[start_T, :, at_T]
        within_T = (fired_TR * torch.arange(1, ROWS + 1, device=device)).amax(1)
        last_T = torch.where(last_group_T > 0, start_T * ROWS + within_T, 0)
        wanted = self._shape[1]
        return counts_GT.sum(0, dtype=torch.int64)[:wanted], last_T[:wanted]
