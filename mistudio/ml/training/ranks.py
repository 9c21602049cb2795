"""One step and one control over several processes: what one process does with the whole batch."""

from __future__ import annotations

import torch

from mistudio.core.control import ControlView, JobControl, Request
from mistudio.ml.collective import Collective
from mistudio.ml.sae.trainable import Auxiliary, Penalty, StepResult, TrainableSae

REQUESTS = tuple(Request)


def gradients_of_all(
    sae: TrainableSae,
    x_BD: torch.Tensor,
    variance: float,
    extra: Auxiliary | Penalty | None,
    target_BO: torch.Tensor | None = None,
) -> StepResult:
    """As `TrainableSae.gradients` of the whole batch, of which each process takes its share.

    All processes hold the same `x_BD` and get the same gradients and the same result.
    """
    together, rows = sae.collective, x_BD.shape[0]
    own = together.share(rows)
    sae.whole_rows = rows
    try:
        part = sae.gradients(
            x_BD[own], variance, extra, None if target_BO is None else target_BO[own]
        )
    finally:
        sae.whole_rows = 0
    for parameter in sae.parameters.values():
        if parameter.grad is not None:
            together.sum_(parameter.grad)
    sums = (part.reconstruction, part.auxiliary, part.sparsity, part.ghost, part.squared_error)
    active = torch.as_tensor(part.active, device=x_BD.device)
    totals = together.sum_(torch.stack([t.double() for t in (*sums, active)]))
    told = [total.to(x_BD.dtype) for total in totals[:-1]]
    smallest = together.lowest(part.smallest_kept if part.active else float("inf"))
    last_row_F = torch.where(part.counts_F > 0, part.last_row_F + own.start, 0)
    y_BO = x_BD if target_BO is None else target_BO
    return StepResult(
        reconstruction=told[0],
        auxiliary=told[1],
        sparsity=told[2],
        ghost=told[3],
        squared_error=told[4],
        squared_deviation=(y_BO - y_BO.mean(0)).square().sum(),
        active=int(totals[-1]),
        smallest_kept=0.0 if smallest == float("inf") else smallest,
        counts_F=together.sum_(part.counts_F.clone()),
        last_row_F=together.highest_(last_row_F),
    )


class SharedControl(ControlView):
    """What was asked of rank 0, read by all processes at the same places."""

    def __init__(self, inner: JobControl, collective: Collective) -> None:
        super().__init__(inner)
        self._collective = collective
        self._to_save = False

    def requested(self) -> Request:
        """Called by all; a checkpoint that was asked for is taken along."""
        told = torch.zeros(2, dtype=torch.int64)
        if self._collective.rank == 0:
            told[0] = REQUESTS.index(self._inner.requested())
            told[1] = int(self._inner.take_save())
        request, save = self._collective.sum_(told).tolist()
        self._to_save |= bool(save)
        return REQUESTS[request]

    def take_save(self) -> bool:
        asked, self._to_save = self._to_save, False
        return asked
