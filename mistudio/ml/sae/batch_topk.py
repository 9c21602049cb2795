"""BatchTopK: the k·N largest of ReLU(h) of a batch; JumpReLU at inference (arXiv 2412.06410)."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch

from mistudio.core.errors import InvalidInput
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.selection import SparseCodes, above, splits_of
from mistudio.ml.sae.sparse_step import Encoded, TopKFamily

SLACK = 1.5  # candidates looked for, as a multiple of the entries wanted


class _Candidates(NamedTuple):
    rows: torch.Tensor
    values: torch.Tensor
    ids: torch.Tensor
    dead_h_BN: torch.Tensor | None


class BatchTopK(TopKFamily):
    """k latents per token on average over a batch, found by a threshold search that is exact.

    Only entries above a lower bound are looked at. The bound comes from the step before; when it
    turns out too high, the batch is encoded again with a safe one. `_bound` steers speed alone,
    never the result, so it is no part of the state.
    """

    architecture: ClassVar[str] = "batch_topk"
    needs_threshold: ClassVar[bool] = True

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._bound = 0.0

    def _select(self, x_BD: torch.Tensor, dead_N: torch.Tensor | None) -> Encoded:
        tokens = x_BD.shape[0]
        wanted = self.k * (self.whole_rows or tokens)
        found, values_of = self._offer(x_BD, self._bound or self._estimate(x_BD), dead_N)
        if _count(values_of) < wanted and self._bound > 0:
            found, values_of = self._offer(x_BD, self._estimate(x_BD), dead_N)
        if _count(values_of) < wanted:
            found, values_of = self._offer(x_BD, 0.0, dead_N)
        rows, values, ids = found.rows, found.values, found.ids
        everyones = values if len(values_of) == 1 else torch.cat(values_of)
        self._bound = self._next_bound(everyones, wanted)
        if everyones.numel() > wanted:
            kept = largest(everyones, wanted)
            if len(values_of) > 1:
                before = _count(values_of[: self.collective.rank])
                kept = kept[(kept >= before) & (kept < before + values.numel())] - before
            rows, values, ids = rows[kept], values[kept], ids[kept]
        return Encoded(SparseCodes(values, ids, splits_of(rows, tokens)), found.dead_h_BN)

    def _offer(
        self, x_BD: torch.Tensor, bound: float, dead_N: torch.Tensor | None
    ) -> tuple[_Candidates, list[torch.Tensor]]:
        """This process's entries above the bound, and the values of every process."""
        found = self._collect(x_BD, bound, dead_N)
        return found, self.collective.gather(found.values)

    def _collect(
        self, x_BD: torch.Tensor, bound: float, dead_N: torch.Tensor | None
    ) -> _Candidates:
        """Every entry above the bound, rows ascending."""
        rows, values, ids, dead = [], [], [], []
        start = 0
        for x_CD in x_BD.split(self._chunk_rows()):
            h_CF = self._pre_activations(x_CD)
            row, value, latent = above(h_CF, bound)
            rows.append(row + start)
            values.append(value)
            ids.append(latent)
            if dead_N is not None:
                dead.append(h_CF.index_select(1, dead_N))
            start += x_CD.shape[0]
        dead_h_BN = torch.cat(dead) if dead_N is not None else None
        return _Candidates(torch.cat(rows), torch.cat(values), torch.cat(ids), dead_h_BN)

    def _estimate(self, x_BD: torch.Tensor) -> float:
        """A bound that a sample of rows says will leave twice the wanted entries."""
        sample = x_BD[:: max(1, x_BD.shape[0] // 64)][:128]
        h = self._pre_activations(sample).view(-1)
        count = min(h.numel(), 2 * self.k * sample.shape[0])
        lowest = float(torch.topk(h, count, sorted=False).values.min())
        return max(0.0, self.collective.lowest(lowest))

    def _next_bound(self, values: torch.Tensor, wanted: int) -> float:
        """The value that would have left `SLACK` times the wanted entries, or somewhat less."""
        count = values.numel()
        if count < wanted:
            return 0.0
        rank = min(count, int(SLACK * wanted))
        value = float(torch.kthvalue(values, count - rank + 1).values)
        return value if rank < count else 0.9 * value

    def folded(self, scale: float, threshold: float | None = None) -> SparseAutoencoder:
        """A jumprelu SAE with the constant threshold θ, given in units of s·x."""
        if threshold is None:
            raise InvalidInput("A BatchTopK SAE needs its threshold to be used.")
        return self._inference("jumprelu", scale, threshold)


def _count(parts: list[torch.Tensor]) -> int:
    return sum(part.numel() for part in parts)


def largest(values: torch.Tensor, count: int) -> torch.Tensor:
    """Positions, ascending, of exactly the `count` largest; of equal values the first ones."""
    limit = torch.kthvalue(values, values.numel() - count + 1).values
    kept = values > limit
    equal = (values == limit).nonzero().squeeze(1)
    kept[equal[: count - int(kept.sum())]] = True
    return kept.nonzero().squeeze(1)
