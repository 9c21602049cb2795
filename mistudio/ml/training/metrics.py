"""What the last few steps measured, summed on the device and read once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from mistudio.ml.sae.trainable import StepResult

Row = dict[str, "float | int | None"]


def loss_of(result: StepResult, aux_weight: float) -> torch.Tensor:
    """The loss of a step: R/V + λP/V + λ_g G/V + λ_aux L_aux."""
    return result.reconstruction + result.sparsity + result.ghost + aux_weight * result.auxiliary


class MetricWindow:
    """Sums over the steps since the last report; `last` is the row reported last."""

    def __init__(self) -> None:
        self.last: Mapping[str, float | int | None] = {}
        self._sums: torch.Tensor | None = None
        self._steps = self._tokens = self._active = 0
        self._loss = self._norm = 0.0
        self._since = time.monotonic()

    def add(self, result: StepResult, loss: float, norm: float, tokens: int) -> None:
        """Take in one step."""
        parts = torch.stack(
            [
                result.reconstruction,
                result.auxiliary,
                result.sparsity,
                result.ghost,
                result.squared_error,
                result.squared_deviation,
            ]
        ).double()
        self._sums = parts if self._sums is None else self._sums + parts
        self._steps += 1
        self._tokens += tokens
        self._active += result.active
        self._loss += loss
        self._norm += norm

    def close(
        self,
        *,
        step: int,
        tokens: int,
        learning_rate: float,
        k: int | None,
        dead: int,
        width: int,
        threshold: float | None,
        aux_weight: float,
    ) -> Row:
        """The means over the window, and an empty window. Nothing usable gives None."""
        now = time.monotonic()
        seconds = max(now - self._since, 1e-9)
        row: Row = {
            "step": step,
            "tokens": tokens,
            "loss": None,
            "reconstruction": None,
            "sparsity": None,
            "auxiliary": None,
            "ghost": None,
            "l0": None,
            "dead": dead,
            "dead_fraction": dead / width,
            "explained_variance": None,
            "learning_rate": learning_rate,
            "grad_norm": None,
            "k": k,
            "threshold": threshold,
            "tokens_per_s": self._tokens / seconds,
            "seconds": seconds,
        }
        if self._sums is not None:
            reconstruction, auxiliary, sparsity, ghost, error, deviation = self._sums.tolist()
            row |= {
                "loss": self._loss / self._steps,
                "reconstruction": reconstruction / self._steps,
                "auxiliary": aux_weight * auxiliary / self._steps,
                "sparsity": sparsity / self._steps,
                "ghost": ghost / self._steps,
                "l0": self._active / self._tokens,
                "explained_variance": 1 - error / deviation if deviation > 0 else None,
                "grad_norm": self._norm / self._steps,
            }
        self.last = row
        self._sums = None
        self._steps = self._tokens = self._active = 0
        self._loss = self._norm = 0.0
        self._since = now
        return row

    def state(self) -> dict[str, Any]:
        """The sums so far as JSON values: a run that goes on reports what it would have."""
        return {
            "sums": None if self._sums is None else self._sums.tolist(),
            "steps": self._steps,
            "tokens": self._tokens,
            "active": self._active,
            "loss": self._loss,
            "norm": self._norm,
        }

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Take back what `state` gave."""
        sums = state["sums"]
        if sums is not None:
            self._sums = torch.tensor(sums, dtype=torch.float64, device=device)
        self._steps, self._tokens = int(state["steps"]), int(state["tokens"])
        self._active = int(state["active"])
        self._loss, self._norm = float(state["loss"]), float(state["norm"])
