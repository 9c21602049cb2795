"""Which latents fire and how often: integer counts, never weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mistudio.core.sae_figures import DENSITY_EDGES
from mistudio.ml.sae.selection import SparseCodes

HISTOGRAM = np.array(DENSITY_EDGES)
PERCENTILES = (5, 50, 95)


class FiringSums:
    """Running counts over batches of kept tokens; memory is that of the latents."""

    def __init__(self, n_latents: int) -> None:
        self.tokens = 0
        self.firings_F = torch.zeros(n_latents, dtype=torch.int64)
        self._prompts_F = torch.zeros(n_latents, dtype=torch.int64)
        self._l0_counts = np.zeros(1, dtype=np.int64)
        self._open_row = -1
        self._open_F = torch.zeros(n_latents, dtype=torch.bool)

    def add(self, codes: SparseCodes, row_T: np.ndarray) -> None:
        """Take in the latents of tokens and the number of the row (the prompt) of each token.

        Tokens of a row come one after another; a row may be cut between two calls.
        """
        if len(row_T) == 0:
            return
        active = codes.values != 0  # a selected zero is inactive
        token, ids = codes.rows[active].cpu(), codes.ids[active].cpu()
        self.tokens += len(row_T)
        self.firings_F += torch.bincount(ids, minlength=len(self.firings_F))
        l0_T = torch.bincount(token, minlength=len(row_T)).numpy()
        counts = np.bincount(l0_T, minlength=len(self._l0_counts))
        counts[: len(self._l0_counts)] += self._l0_counts
        self._l0_counts = counts
        self._count_prompts(torch.from_numpy(np.asarray(row_T, dtype=np.int64))[token], ids, row_T)

    def _count_prompts(self, row: torch.Tensor, ids: torch.Tensor, row_T: np.ndarray) -> None:
        width = len(self._open_F)
        if int(row_T[0]) != self._open_row:
            self._open_F.zero_()
        pair = torch.unique(row * width + ids)
        fired_row, fired = pair // width, pair % width
        again = (fired_row == self._open_row) & self._open_F[fired]
        self._prompts_F += torch.bincount(fired[~again], minlength=width)
        last = int(row_T[-1])
        if last != self._open_row:
            self._open_F.zero_()
        self._open_F[fired[fired_row == last]] = True
        self._open_row = last

    def metrics(self) -> dict[str, Any]:
        """l0 percentiles, dead, densities and the consistent activation heuristic.

        `dead` is the share of latents that never fired in these `n` tokens, `dead_bound` = 3/n the
        rate that they do not exceed, with 95 % confidence. `consistent_activation_heuristic` is
        the mean, over latents that fired, of firings per row in which the latent fires.
        """
        density_F = self.firings_F.double().numpy() / self.tokens
        fired = density_F > 0
        inside = np.clip(np.log10(density_F[fired]), HISTOGRAM[0], HISTOGRAM[-1])
        never = int((~fired).sum())
        per_prompt = self.firings_F.numpy()[fired] / np.maximum(self._prompts_F.numpy()[fired], 1)
        return {
            **self._l0_percentiles(),
            "never_fired": never,
            "dead": never / len(density_F),
            "dead_bound": 3 / self.tokens,
            "density_histogram": np.histogram(inside, HISTOGRAM)[0].tolist(),
            "density_histogram_edges": HISTOGRAM.tolist(),
            "density_below_1e-6": float((density_F < 1e-6).mean()),
            "density_below_1e-5": float((density_F < 1e-5).mean()),
            "density_above_1e-2": float((density_F > 1e-2).mean()),
            "density_above_1e-1": float((density_F > 1e-1).mean()),
            "consistent_activation_heuristic": float(per_prompt.mean()) if fired.any() else None,
        }

    def _l0_percentiles(self) -> dict[str, int]:
        reached = np.cumsum(self._l0_counts) / self.tokens
        return {f"l0_p{p}": int(np.searchsorted(reached, p / 100 - 1e-12)) for p in PERCENTILES}
