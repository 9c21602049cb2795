"""The global generators of random numbers: begun from a seed, kept, and put back."""

from __future__ import annotations

import random
from collections.abc import Generator
from contextlib import contextmanager

import numpy
import torch

from mistudio.ml.training.checkpoint import Checkpoint


def seed_random_states(seed: int) -> None:
    """Start every global generator from the run's seed: whatever draws from one is repeatable."""
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def random_states_kept() -> Generator[None, None, None]:
    """Put every global generator back to where it was before the block."""
    python, of_numpy = random.getstate(), numpy.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        yield
    random.setstate(python)
    numpy.random.set_state(of_numpy)


def restore_random_states(checkpoint: Checkpoint) -> None:
    """Put every global generator where it was when the checkpoint was written."""
    version, state, gauss = checkpoint.values["rng_python"]
    random.setstate((version, tuple(state), gauss))
    kind, keys, position, has_gauss, cached = checkpoint.values["rng_numpy"]
    numpy.random.set_state(
        (kind, numpy.array(keys, dtype=numpy.uint32), position, has_gauss, cached)
    )
    torch.set_rng_state(checkpoint.state["rng_torch"])
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            if f"rng_cuda_{number}" in checkpoint.state:
                torch.cuda.set_rng_state(checkpoint.state[f"rng_cuda_{number}"], number)
