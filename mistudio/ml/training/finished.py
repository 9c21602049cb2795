"""The SAE of a run as everything but training uses it."""

from __future__ import annotations

from typing import Any

from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.training.run_state import RunState


def folded(run: RunState) -> SparseAutoencoder:
    """The SAE of a run as it stands; a BatchTopK's by its average θ."""
    return described(run, run.folded())


def described(run: RunState, sae: SparseAutoencoder) -> SparseAutoencoder:
    """What was folded, finished: with unit decoder rows and what is told of the run."""
    told: dict[str, Any] = {"trained_tokens": run.tokens}
    if run.sae.uses_k:
        told["k"] = run.sae.k
    if run.whitening is not None:
        told["input_norm"] = run.config.input_norm
    told |= {"input_scale": run.scale, "seed": run.config.seed}
    return run.with_unit_rows(sae).with_metadata(**told)
