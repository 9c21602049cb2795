"""One training step of the TopK family over the active latents only, written by hand.

No matrix of tokens by latents is kept (TopK: Gao et al., arXiv 2406.04093).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch

from mistudio.ml.sae.auxiliary import auxiliary_gradient
from mistudio.ml.sae.selection import SparseCodes, picked, splits_of
from mistudio.ml.sae.sparse_gradient import (
    sort_by_latent,
    sum_by_latent,
    value_gradient,
    weight_gradient,
    weighted_rows,
)
from mistudio.ml.sae.trainable import Auxiliary, Penalty, StepResult, TrainableSae


class Encoded(NamedTuple):
    """Active latents of a batch and the pre-activations of its dead latents, if asked for."""

    codes: SparseCodes
    dead_h_BN: torch.Tensor | None


class Block(NamedTuple):
    """Latents `start` to `stop`; the latents up to `stop` are a dictionary of their own."""

    start: int
    stop: int


class TopKFamily(TrainableSae):
    """An SAE that keeps a given number of latents, and whose dead ones model what is left over."""

    @property
    def blocks(self) -> list[Block]:
        """Blocks whose prefixes each reconstruct the input by themselves; one holds all latents."""
        return [Block(0, self.n_latents)]

    @abstractmethod
    def _select(self, x_BD: torch.Tensor, dead_N: torch.Tensor | None) -> Encoded:
        """Encode centred inputs chunk by chunk and keep what the architecture keeps."""

    @torch.no_grad()
    def gradients(
        self,
        x_BD: torch.Tensor,
        variance: float,
        extra: Auxiliary | Penalty | None = None,
        target_BO: torch.Tensor | None = None,
    ) -> StepResult:
        """As in `TrainableSae`; `extra` is AuxK's part, None while no latent is dead."""
        auxiliary = extra if isinstance(extra, Auxiliary) else None
        self._begin_step()
        tokens, blocks = self.whole_rows or x_BD.shape[0], self.blocks
        x_BD, wanted_BO, target_BO = self._ends(x_BD, target_BO)
        dead_N = None if auxiliary is None else auxiliary.dead_N
        codes, dead_h_BN = self._select(x_BD, dead_N)
        parts = split_by_block(codes, blocks)

        # ŷ_g - y of each prefix: b_dec cancels, and so does a skip
        errors: list[torch.Tensor] = []
        for block, part in zip(blocks, parts, strict=True):
            told_BO = weighted_rows(self._decoder(block), part)
            errors.append(told_BO.sub_(wanted_BO) if not errors else told_BO.add_(errors[-1]))
        squared_G = torch.stack([error_BO.square().sum() for error_BO in errors])
        deviation = (target_BO - target_BO.mean(0)).square().sum()

        counted = []
        grad_BO = torch.zeros_like(wanted_BO) if len(blocks) > 1 else None
        for block, part, error_BO in reversed(list(zip(blocks, parts, errors, strict=True))):
            # a latent feels every prefix that holds it: those of its block and of later ones
            own_BO = error_BO * (2 / (len(blocks) * tokens * variance))
            grad_BO = own_BO if grad_BO is None else grad_BO.add_(own_BO)
            counted.append(self._block_gradients(block, part, x_BD, grad_BO))
        assert grad_BO is not None
        counts_F, last_row_F, grad_b_enc_F = map(torch.cat, zip(*reversed(counted), strict=True))
        grad_enc_FD, grad_dec_FO = self._gradient_buffers()

        loss_aux = torch.zeros_like(deviation)
        if auxiliary is not None and dead_h_BN is not None:
            dead_N, W_dead_NO = auxiliary.dead_N, self.parameters["W_dec_FO"][auxiliary.dead_N]
            revived = auxiliary_gradient(
                dead_h_BN,
                x_BD,
                -errors[-1],
                W_dead_NO,
                auxiliary.aux_k,
                auxiliary.weight,
                self.collective,
            )
            loss_aux = revived.loss
            grad_enc_FD.index_add_(0, dead_N, revived.grad_enc_ND)
            grad_b_enc_F.index_add_(0, dead_N, revived.grad_b_enc_N)
            along_N = self._along(revived.along_N, dead_N)
            across_NO = revived.grad_dec_NO - along_N[:, None] * W_dead_NO
            grad_dec_FO.index_add_(0, dead_N, across_NO)
        self.parameters["b_enc_F"].grad = grad_b_enc_F
        grad_b_dec_O = grad_BO.sum(0)
        if not self.is_transcoder:
            grad_b_dec_O -= grad_b_enc_F @ self.parameters["W_enc_FD"]
        self.parameters["b_dec_O"].grad = grad_b_dec_O
        if "W_skip_OD" in self.parameters:
            self.parameters["W_skip_OD"].grad = grad_BO.T @ x_BD

        return StepResult(
            reconstruction=squared_G.mean() / (tokens * variance),
            auxiliary=loss_aux,
            sparsity=torch.zeros_like(deviation),
            ghost=torch.zeros_like(deviation),
            squared_error=squared_G[-1],
            squared_deviation=deviation,
            active=codes.ids.numel(),
            smallest_kept=float(codes.values.min()) if codes.ids.numel() else 0.0,
            counts_F=counts_F,
            last_row_F=last_row_F,
        )

    def _decoder(self, block: Block) -> torch.Tensor:
        return self.parameters["W_dec_FO"][block.start : block.stop]

    def _block_gradients(
        self, block: Block, codes: SparseCodes, x_BD: torch.Tensor, grad_BO: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Fill a block's rows of the weight gradients; its firings, last rows and ∇b_enc."""
        W_dec_FO = self._decoder(block)
        grad_enc_FD, grad_dec_FO = (g[block.start : block.stop] for g in self._gradient_buffers())
        by_latent = sort_by_latent(codes, block.stop - block.start)
        values = by_latent.sorted(codes.values)
        grad = by_latent.sorted(value_gradient(codes, by_latent, grad_BO, W_dec_FO))
        weight_gradient(by_latent, grad, x_BD, grad_enc_FD)
        told_F = sum_by_latent(by_latent, values * grad)  # ⟨∇D_i, D_i⟩ = Σ v ⟨G, D_i⟩
        weight_gradient(
            by_latent,
            values,
            grad_BO,
            grad_dec_FO,
            along_F=self._along(told_F, slice(block.start, block.stop)),
            directions_FD=W_dec_FO,
        )
        return by_latent.counts, by_latent.last_rows, sum_by_latent(by_latent, grad)


def split_by_block(codes: SparseCodes, blocks: Sequence[Block]) -> list[SparseCodes]:
    """The active latents of each block, their ids counted from its start."""
    if len(blocks) == 1:
        return [codes]
    rows, parts = codes.rows, []
    for block in blocks:
        at = ((codes.ids >= block.start) & (codes.ids < block.stop)).nonzero().squeeze(1)
        splits = splits_of(picked(rows, at), codes.row_splits.numel() - 1)
        ids = picked(codes.ids, at).sub_(block.start)
        parts.append(SparseCodes(picked(codes.values, at), ids, splits))
    return parts
