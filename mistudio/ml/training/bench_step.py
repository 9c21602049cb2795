"""How long a training step takes, as a multiple of one encoder product on the same machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from mistudio.core.errors import InvalidInput
from mistudio.core.training_configs import TrainConfig
from mistudio.core.training_rules import default_aux_k
from mistudio.ml.device import peak_memory, synchronize
from mistudio.ml.sae.registry import new_trainable
from mistudio.ml.sae.trainable import Auxiliary, Penalty, TrainableSae
from mistudio.ml.training.dead import DeadTracker
from mistudio.ml.training.optimizer import ClippedAdam
from mistudio.ml.training.sparsity import first_weight

WARM_UP = 3
POOL_BATCHES = 4
SAMPLE_ROWS = 256  # on which a density is set


def bench_train_step(
    d_in: int,
    width: int,
    k: int,
    batch: int,
    steps: int = 12,
    architecture: str = "topk",
    *,
    density: float | None = None,
    penalty: str = "tanh",
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Time whole steps and encoder products (x W_enc) in turn on synthetic activations.

    A whole step is what the training loop does with a batch: forward, backward, clip, Adam,
    renormalisation, dead tracking, AuxK where latents are dead. Inputs are sparse sums of random
    directions, scaled as in training. `density` is the share of latents that fire, for an
    architecture whose penalty decides that; None leaves it as it is at the start of a training.
    `penalty` is that of JumpReLU. Times in ms; `step_over_gemm` is the ratio of medians, and
    `step_over_gemm_best` that of minima, which other work on the machine disturbs less. `density`
    is what the last step had, and `peak_memory` in bytes is known on a GPU only.
    """
    if not 1 <= k <= width:
        raise InvalidInput(f"k is {k:,} but the SAE has {width:,} latents.")
    if min(d_in, batch, steps) < 1:
        raise InvalidInput("Width of the input, batch and steps must be at least 1.")
    if density is not None and not 0 < density < 1:
        raise InvalidInput("The density must lie between 0 and 1.")
    device = device or torch.device("cpu")
    config = TrainConfig(architecture=architecture, width=width, k=k, jumprelu_penalty=penalty)
    sae = new_trainable(architecture, d_in, width, k, seed=0)
    sae.configure(config)
    sae.to(device)
    pool_BD = _activations(d_in, width, POOL_BATCHES * batch).to(device)
    variance = float(pool_BD.var(0).sum())
    optimizer = ClippedAdam(sae.parameters, 1.0 / variance)
    tracker = DeadTracker(width, 10_000_000, device)
    if density is not None:
        _quieten(sae, pool_BD[:SAMPLE_ROWS], density)
    W_enc_DF = sae.parameters["W_enc_FD"].T.contiguous()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    active = 0

    def extra() -> Auxiliary | Penalty | None:
        if not sae.uses_k:
            return Penalty(first_weight(config))
        dead_N = tracker.dead()
        return Auxiliary(dead_N, default_aux_k(d_in), 1 / 32) if dead_N.numel() else None

    def step(x_BD: torch.Tensor) -> None:
        nonlocal active
        result = sae.gradients(x_BD, variance, extra())
        optimizer.step(1e-4)
        sae.normalise_decoder()
        tracker.update(result.counts_F, result.last_row_F, batch)
        active = result.active

    def product(x_BD: torch.Tensor) -> None:
        torch.matmul(x_BD, W_enc_DF)

    step_ms, gemm_ms = [], []
    for number in range(WARM_UP + steps):
        start = (number % POOL_BATCHES) * batch
        x_BD = pool_BD[start : start + batch]
        gemm = _timed(product, x_BD, device)
        whole = _timed(step, x_BD, device)
        if number >= WARM_UP:
            gemm_ms.append(gemm)
            step_ms.append(whole)
    step_median, gemm_median = statistics.median(step_ms), statistics.median(gemm_ms)
    return {
        "architecture": architecture,
        "penalty": penalty if architecture == "jumprelu" else "",
        "d_in": d_in,
        "width": width,
        "k": k,
        "batch": batch,
        "steps": steps,
        "density": active / (batch * width),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "gemm_ms": gemm_median,
        "step_ms": step_median,
        "step_over_gemm": step_median / gemm_median,
        "step_over_gemm_best": min(step_ms) / min(gemm_ms),
        "tokens_per_second": 1000 * batch / step_median,
        "peak_memory": peak_memory(device) if device.type == "cuda" else None,
    }


def _quieten(sae: TrainableSae, x_BD: torch.Tensor, density: float) -> None:
    """Shift biases or thresholds so that this share of the latents fires."""
    h = (x_BD @ sae.parameters["W_enc_FD"].T).view(-1)
    level = float(torch.kthvalue(h, max(1, round(h.numel() * (1 - density)))).values)
    if "threshold_F" in sae.parameters:
        sae.parameters["threshold_F"].fill_(level)
        return
    for name in ("b_enc_F", "b_gate_F", "b_mag_F"):
        if name in sae.parameters:
            sae.parameters[name].fill_(-level)


def _timed(work: Callable[[torch.Tensor], None], x_BD: torch.Tensor, device: torch.device) -> float:
    synchronize(device)
    started = time.perf_counter()
    work(x_BD)
    synchronize(device)
    return 1000 * (time.perf_counter() - started)


def _activations(d_in: int, n_features: int, tokens: int) -> torch.Tensor:
    """Sums of 16 random directions per token plus noise, scaled so that E‖x‖² = d_in."""
    generator = torch.Generator().manual_seed(0)
    directions_FD = torch.randn(n_features, d_in, generator=generator)
    ids_BK = torch.randint(0, n_features, (tokens, 16), generator=generator)
    x_BD = torch.nn.functional.embedding_bag(ids_BK, directions_FD, mode="sum")
    x_BD += torch.randn(tokens, d_in, generator=generator)
    return x_BD * (d_in / x_BD.square().sum(1).mean()).sqrt()
