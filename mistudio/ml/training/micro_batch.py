"""A step in smaller pieces, for batches that do not fit into memory as a whole."""

from __future__ import annotations

import torch

from mistudio.core.collecting import collect
from mistudio.core.errors import OutOfMemory, means_out_of_memory
from mistudio.core.training_rules import LEAST_MICRO_BATCH
from mistudio.ml.sae.trainable import Auxiliary, Penalty, StepResult, TrainableSae
from mistudio.ml.training.ranks import gradients_of_all


class MicroBatches:
    """Gradients of whole batches, `rows` tokens at a time; out of memory halves the rows.

    The gradients of the pieces are added up, so that the optimiser sees the same batch. What an
    architecture decides within a batch (the largest of BatchTopK, AuxK's normaliser) is decided
    within a piece. Several processes take their shares whole: one that runs out of memory cannot
    halve its share while the others wait for what it finds.
    """

    def __init__(self, rows: int = 0) -> None:
        """`rows` 0: batches are whole."""
        self.rows = rows

    def limit(self, rows: int) -> None:
        """Work on at most `rows` tokens at a time; 0 leaves it as it is."""
        if rows:
            self.rows = min(self.rows or rows, rows)

    def gradients(
        self,
        sae: TrainableSae,
        x_BD: torch.Tensor,
        variance: float,
        extra: Auxiliary | Penalty | None,
        target_BO: torch.Tensor | None = None,
    ) -> StepResult:
        """As `TrainableSae.gradients`. Raises `OutOfMemory` if not even 16 tokens fit."""
        while True:
            try:
                if sae.collective.size > 1:
                    return gradients_of_all(sae, x_BD, variance, extra, target_BO)
                if not self.rows or self.rows >= x_BD.shape[0]:
                    return sae.gradients(x_BD, variance, extra, target_BO)
                return self._pieces(sae, x_BD, variance, extra, target_BO)
            except (RuntimeError, MemoryError) as error:
                if not means_out_of_memory(error):
                    raise
                if sae.collective.size > 1:
                    raise OutOfMemory(
                        "A process's share of a training step does not fit into memory; use a "
                        "smaller batch, fewer latents, or more processes.",
                        details=str(error),
                    ) from error
                now = min(self.rows or x_BD.shape[0], x_BD.shape[0])
                if now <= LEAST_MICRO_BATCH:
                    raise OutOfMemory(
                        f"A training step does not fit into memory, even {now} tokens at a time; "
                        "use fewer latents, or free memory.",
                        details=str(error),
                    ) from error
                self.rows = max(LEAST_MICRO_BATCH, -(-now // 2))
            sae.free_workspace()
            collect()
            if x_BD.is_cuda:
                torch.cuda.empty_cache()

    def _pieces(
        self,
        sae: TrainableSae,
        x_BD: torch.Tensor,
        variance: float,
        extra: Auxiliary | Penalty | None,
        target_BO: torch.Tensor | None,
    ) -> StepResult:
        tokens, start = x_BD.shape[0], 0
        summed: dict[str, torch.Tensor] = {}
        whole: StepResult | None = None
        targets = [None] * tokens if target_BO is None else target_BO.split(self.rows)
        for piece_BD, wanted_BO in zip(x_BD.split(self.rows), targets, strict=False):
            share = piece_BD.shape[0] / tokens
            result = sae.gradients(piece_BD, variance, extra, wanted_BO)
            for name, parameter in sae.parameters.items():
                if parameter.grad is None:
                    continue
                if name in summed:
                    summed[name].add_(parameter.grad, alpha=share)
                else:
                    summed[name] = parameter.grad * share
            whole = _together(whole, result, share, start)
            start += piece_BD.shape[0]
        for name, total in summed.items():
            grad = sae.parameters[name].grad
            assert grad is not None
            grad.copy_(total)
        assert whole is not None
        # ȳ is the mean of the whole batch, not of a piece
        y_BO = x_BD if target_BO is None else target_BO
        deviation = (y_BO - y_BO.mean(0)).square().sum()
        return whole._replace(squared_deviation=deviation)


def _together(whole: StepResult | None, piece: StepResult, share: float, start: int) -> StepResult:
    """The result of the pieces so far and one more, which begins at row `start` of the batch."""
    piece = piece._replace(
        reconstruction=piece.reconstruction * share,
        auxiliary=piece.auxiliary * share,
        sparsity=piece.sparsity * share,
        ghost=piece.ghost * share,
        last_row_F=torch.where(piece.counts_F > 0, piece.last_row_F + start, 0),
        # the average of the pieces' thresholds is what θ follows
        smallest_kept=piece.smallest_kept * share,
    )
    if whole is None:
        return piece
    return StepResult(
        reconstruction=whole.reconstruction + piece.reconstruction,
        auxiliary=whole.auxiliary + piece.auxiliary,
        sparsity=whole.sparsity + piece.sparsity,
        ghost=whole.ghost + piece.ghost,
        squared_error=whole.squared_error + piece.squared_error,
        squared_deviation=whole.squared_deviation,
        active=whole.active + piece.active,
        smallest_kept=whole.smallest_kept + piece.smallest_kept,
        counts_F=whole.counts_F + piece.counts_F,
        last_row_F=torch.where(piece.counts_F > 0, piece.last_row_F, whole.last_row_F),
    )
