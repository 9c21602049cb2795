"""TopK: the k largest of ReLU(h) of each token (Gao et al., arXiv 2406.04093)."""

from __future__ import annotations

from typing import ClassVar

import torch

from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.selection import codes_from_top, top_k_per_row
from mistudio.ml.sae.sparse_step import Encoded, TopKFamily


class TopK(TopKFamily):
    """k latents per token; fewer where fewer are positive."""

    architecture: ClassVar[str] = "topk"

    def _select(self, x_BD: torch.Tensor, dead_N: torch.Tensor | None) -> Encoded:
        step = self._chunk_rows()
        values, ids, dead = [], [], []
        for x_CD in x_BD.split(step):
            h_CF = self._pre_activations(x_CD)
            values_CK, ids_CK = top_k_per_row(h_CF, self.k)
            values.append(values_CK)
            ids.append(ids_CK)
            if dead_N is not None:
                dead.append(h_CF.index_select(1, dead_N))
        codes = codes_from_top(torch.cat(values), torch.cat(ids))
        return Encoded(codes, torch.cat(dead) if dead_N is not None else None)

    def folded(self, scale: float, threshold: float | None = None) -> SparseAutoencoder:
        """A topk SAE with this k; a threshold has no meaning here and is ignored."""
        return self._inference("topk", scale, None)
