"""How well an SAE reconstructs activations: sums in float64 per group of documents.

Everything is pooled over tokens, so no figure depends on how tokens are cut into batches.
`definitions` tells what the sums are and which figures they give.
"""

from __future__ import annotations

import numpy as np
import torch

from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.selection import SparseCodes

LEGACY_BATCH = 2048  # tokens that share a mean in ev_legacy, which is defined by batch


class ReconstructionSums:
    """Running sums over batches of kept tokens; memory is that of groups × width."""

    _SCALARS = ("n", "error", "square", "recon_square", "dot", "l0", "l1")
    _DIRECTED = ("n_directed", "relative", "cosine", "lengths")

    def __init__(self, d_out: int, groups: int) -> None:
        self.tokens = 0
        self._sums = {
            name: torch.zeros(groups, dtype=torch.float64)
            for name in (*self._SCALARS, *self._DIRECTED)
        }
        for name in ("y", "e"):
            self._sums[name] = torch.zeros(groups, d_out, dtype=torch.float64)
        self._legacy = _LegacySums(groups)

    def add(
        self, y_TO: torch.Tensor, recon_TO: torch.Tensor, codes: SparseCodes, group_T: np.ndarray
    ) -> None:
        """Take in kept tokens: target, reconstruction, active latents, group of each token."""
        if y_TO.shape[0] == 0:
            return
        y, recon = y_TO.double().cpu(), recon_TO.double().cpu()
        e = y - recon
        error_T, y_T, recon_T = (t.square().sum(1) for t in (e, y, recon))
        dot_T = (y * recon).sum(1)
        active = codes.values != 0  # a selected zero is inactive
        rows = codes.rows[active].cpu()
        values = codes.values[active].double().abs().cpu()
        none_T = torch.zeros_like(y_T)
        per_token = {
            "n": torch.ones_like(y_T),
            "error": error_T,
            "square": y_T,
            "recon_square": recon_T,
            "dot": dot_T,
            "l0": none_T.index_add(0, rows, torch.ones_like(values)),
            "l1": none_T.index_add(0, rows, values),
            "y": y,
            "e": e,
        }
        group = torch.from_numpy(np.asarray(group_T, dtype=np.int64))
        self._add(group, per_token)
        has = y_T > 0  # a target of zero has neither a direction nor a relative error
        y_T, recon_T, dot_T = y_T[has], recon_T[has], dot_T[has]
        length_T = (y_T * recon_T).sqrt()
        directed = {
            "n_directed": torch.ones_like(y_T),
            "relative": error_T[has] / y_T,
            "cosine": torch.where(length_T > 0, dot_T / length_T, 0.0),
            "lengths": (recon_T / y_T).sqrt(),
        }
        self._add(group[has], directed)
        self._legacy.add(y, error_T, group)
        self.tokens += len(group)

    def _add(self, group: torch.Tensor, per_token: dict[str, torch.Tensor]) -> None:
        for name, values in per_token.items():
            self._sums[name].index_add_(0, group, values)

    def per_group(self) -> dict[str, np.ndarray]:
        """The sums by name: [G], of `y` and `e` [G, width]."""
        return {name: values.numpy() for name, values in (self._sums | self._legacy.sums()).items()}


class _LegacySums:
    """Σ ‖e‖²/‖y − ȳ_batch‖² over batches of 2,048 tokens in the order they come, however cut.

    A last batch of less than half that is left out unless it is the only one: the mean of a few
    tokens is too close to each of them.
    """

    def __init__(self, groups: int) -> None:
        self._sums = {
            name: torch.zeros(groups, dtype=torch.float64) for name in ("n_legacy", "legacy")
        }
        self._waiting: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self._count = self._batches = 0

    def add(self, y_TO: torch.Tensor, error_T: torch.Tensor, group_T: torch.Tensor) -> None:
        start = 0
        while start < len(y_TO):
            part = slice(start, start + LEGACY_BATCH - self._count)
            # what waits is a copy, so that it does not hold a larger batch
            self._waiting.append((y_TO[part].clone(), error_T[part].clone(), group_T[part].clone()))
            self._count += len(self._waiting[-1][0])
            start = part.stop
            if self._count == LEGACY_BATCH:
                self._take(self._sums)
                self._waiting, self._count = [], 0
                self._batches += 1

    def sums(self) -> dict[str, torch.Tensor]:
        found = {name: values.clone() for name, values in self._sums.items()}
        if self._count and (not self._batches or self._count >= LEGACY_BATCH // 2):
            self._take(found)
        return found

    def _take(self, into: dict[str, torch.Tensor]) -> None:
        y_TO, error_T, group_T = (torch.cat(parts) for parts in zip(*self._waiting, strict=True))
        spread_T = (y_TO - y_TO.mean(0)).square().sum(1)
        has = spread_T > 0
        into["n_legacy"].index_add_(0, group_T, has.double())
        into["legacy"].index_add_(0, group_T[has], error_T[has] / spread_T[has])


def encoder_decoder_cosine(sae: SparseAutoencoder) -> float | None:
    """Mean over latents of cos(encoder column, decoder row); None for a transcoder."""
    if sae.is_transcoder:
        return None
    cosine_F = torch.nn.functional.cosine_similarity(sae.W_enc_DF.T, sae.W_dec_FO, dim=1)
    return float(cosine_F.double().mean())
