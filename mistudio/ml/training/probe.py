"""Measures what a formula can only guess: seconds of a training step, and of the model's pass."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mistudio.core.control import JobControl
from mistudio.core.training_configs import TrainConfig
from mistudio.core.training_rules import DENSE_FAMILY, is_whitened
from mistudio.ml.activations.capture import Capture
from mistudio.ml.activations.masking import default_forward_batch
from mistudio.ml.device import synchronize
from mistudio.ml.evaluation.held_out import HeldBatch, measure_held
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.training.run_state import RunState, TargetStatistics
from mistudio.ml.whitening import Whitening

STEPS = 20
PASSES = 3
MEASURED = 2048  # tokens at a time, of the size of a training's batch
THRESHOLD_ROWS = 64


def probe_steps(
    config: TrainConfig, d: int, device: torch.device, control: JobControl, steps: int = STEPS
) -> float:
    """Median seconds of a whole step on random activations [batch, d], the first ones left out."""
    generator = torch.Generator().manual_seed(0)
    given = None if config.encoder == "sae" else TargetStatistics(torch.zeros(d), 1.0, float(d))
    whitening = Whitening.none(d) if is_whitened(config) else None
    run = RunState(config, torch.zeros(d), 1.0, float(d), device, target=given, whitening=whitening)
    run.sae.k = run.schedule.k_at(0)
    x_BD = torch.randn(config.batch, d, generator=generator).to(device)
    target_BO = x_BD if given else None
    taken: list[float] = []
    for _ in range(steps):
        control.check()

        def step() -> None:
            z_BD = run.normalised(x_BD)
            result = run.micro.gradients(run.sae, z_BD, run.variance, run.extra(), target_BO)
            run.optimizer.step(1e-6)
            run.sae.normalise_decoder()
            run.take_in(result, float(result.reconstruction), config.batch)
            run.step += 1

        taken.append(_seconds(step, device))
    return statistics.median(taken[min(3, steps - 1) :])


def probe_measuring(
    config: TrainConfig, d: int, device: torch.device, control: JobControl, tokens: int = MEASURED
) -> float:
    """Tokens per second of measuring an SAE of this size on activations [tokens, d] that are there.

    As many of its latents fire as are aimed at; which SAE it is makes no difference.
    """
    generator = torch.Generator().manual_seed(0)
    W_dec_FO = torch.randn(config.width, d, generator=generator)
    W_dec_FO = torch.nn.functional.normalize(W_dec_FO, dim=1)
    x_BD = torch.randn(tokens, d, generator=generator)
    aim = config.target_l0 if config.architecture in DENSE_FAMILY else 0
    k = min(config.width, max(1, round(aim or config.k)))
    h_BF = x_BD[:THRESHOLD_ROWS] @ W_dec_FO.T
    level = float(h_BF.topk(k, dim=1).values[:, -1].mean())
    sae = SparseAutoencoder(
        W_dec_FO.T.contiguous(),
        torch.zeros(config.width),
        W_dec_FO,
        torch.zeros(d),
        "topk" if config.architecture == "topk" else "jumprelu",
        k=k,
        threshold_F=torch.full((config.width,), level),
    ).to(device)
    x_BD = x_BD.to(device)
    none_T = np.zeros(tokens, dtype=np.int64)  # one document: drawing them is not by the token
    batch = HeldBatch(x_BD, x_BD, none_T, none_T)
    taken = [
        _seconds(lambda: measure_held(sae, [batch], control.check), device) for _ in range(PASSES)
    ]
    return tokens / statistics.median(taken)


def probe_forward_bytes(capture: Capture, context: int) -> int:
    """The bytes that a truncated pass works with; 0 where the system does not tell a peak.

    To be asked for before anything else is measured: what an earlier one gave back is used again.
    """
    ids_BS = _random_ids(capture, context)
    before = begin_peak(capture.device)
    capture(ids_BS)
    return max(0, peak_since(capture.device) - before) if before else 0


def probe_forward(capture: Capture, context: int, control: JobControl) -> float:
    """Tokens per second of truncated passes over random ids.

    To be asked for after training steps: in a fresh process a pass takes a fifth longer, until
    larger pieces of memory have been given back once.
    """
    ids_BS = _random_ids(capture, context)
    seconds: list[float] = []
    for _ in range(PASSES):
        control.check()
        seconds.append(_seconds(lambda: capture(ids_BS), capture.device))
    return ids_BS.numel() / min(seconds)


def _random_ids(capture: Capture, context: int) -> torch.Tensor:
    """Ids [rows, context] of the rows that a training reads at a time."""
    generator = torch.Generator().manual_seed(0)
    shape = (default_forward_batch(context), context)
    return torch.randint(0, capture.loaded.facts.vocab_size, shape, generator=generator)


def probe(
    members: Sequence[TrainConfig], capture: Capture, context: int, control: JobControl
) -> dict[str, Any]:
    """The numbers of `plan.Rates` as JSON values, by name."""
    forward_bytes = probe_forward_bytes(capture, context)
    known: dict[TrainConfig, tuple[float, float]] = {}
    for member in members:
        if member not in known:
            where = (member, capture.d, capture.device, control)
            known[member] = (probe_steps(*where), probe_measuring(*where))
    steps, measuring = zip(*(known[member] for member in members), strict=True)
    return {
        "forward_tokens_per_s": probe_forward(capture, context, control),
        "forward_bytes": forward_bytes,
        "step_s": list(steps),
        "measured_tokens_per_s": list(measuring),
    }


def begin_peak(device: torch.device) -> int:
    """Start to watch the peak; returns the bytes held now, 0 where that cannot be done."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return int(torch.cuda.memory_allocated(device))
    try:
        Path("/proc/self/clear_refs").write_text("5")  # of Linux: the peak begins anew
        return _status("VmRSS")
    except OSError:
        return 0


def peak_since(device: torch.device) -> int:
    """The peak since `begin_peak`, in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    synchronize(device)
    started = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - started
