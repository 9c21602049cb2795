"""What a training is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from mistudio.ml.collective import SINGLE, Collective
from mistudio.ml.evaluation.held_out import HeldRows
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.training.run_state import RunState, TargetStatistics
from mistudio.ml.whitening import Whitening

Batch = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
Calibration = Callable[[], Iterable[torch.Tensor]]
Evaluation = Callable[[SparseAutoencoder], Mapping[str, Any]]


class Stream(Protocol):
    """Endless batches of activations, float32 unscaled, whose position can be saved.

    A batch is x_BD, or (x_BD, y_BO) where a target is learnt.
    """

    def __iter__(self) -> Iterator[Batch]: ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: dict[str, Any]) -> None: ...


@runtime_checkable
class WindowedStream(Stream, Protocol):
    """A stream that shares its windows with others."""

    @property
    def wanted(self) -> tuple[int, int]:
        """Epoch and window that the next batch comes from."""
        ...


class InputStatistics(Protocol):
    """What calibration found: s, the mean x̄ of unscaled tokens [D], V of s·x."""

    @property
    def scale(self) -> float: ...

    @property
    def mean_D(self) -> Any: ...  # array or tensor

    @property
    def variance(self) -> float: ...

    @property
    def whitening(self) -> Whitening | None:
        """Read where the settings ask for it, and for the first directions of features."""
        ...


@dataclass(frozen=True)
class TrainResult:
    """How a training ended.

    `outcome` is "completed", "stopped", "cancelled" or "paused"; a paused one has no SAE. `sae` is
    folded: it reads unscaled activations. `checkpoint` is the newest, None if there never was room
    for one. `metrics` is what `evaluate` returned, empty if it did
    not run; `last` the last "training" row; `threshold` a BatchTopK's θ in residual units, the
    mean over its latents where these have several.
    """

    outcome: str
    sae: SparseAutoencoder | None
    step: int
    steps: int
    tokens: int
    seconds: float
    checkpoint: Path | None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    last: Mapping[str, Any] = field(default_factory=dict)
    threshold: float | None = None
    dead: int = 0
    skipped: int = 0


@dataclass
class LearnerOptions:
    """What a training may be given beside its data.

    `calibration()` yields unscaled x of calibration documents, for the final threshold of a
    BatchTopK; `held_out()` the tokens on which the SAE is followed while it is trained. `origin`
    holds fingerprints (JSON) that a resume must match, `metadata` what the SAE is to carry.
    `resume_from` is a checkpoint to go on from: the stream is moved there, and the final weights
    equal those of an undisturbed run. `start` begins with this state instead.
    `target` are the statistics of what a transcoder is to give. `before_save()` is called before a
    checkpoint is written: what it raises keeps the checkpoint from existing. The processes of
    `collective` read the same stream and share its batches; all but rank 0 write nothing and end
    without an SAE.
    """

    evaluate: Evaluation | None = None
    calibration: Calibration | None = None
    resume_from: Path | None = None
    start: RunState | None = None
    target: TargetStatistics | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    collective: Collective = SINGLE
    held_out: HeldRows | None = None
    before_save: Callable[[], object] | None = None
