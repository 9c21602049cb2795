"""Measurements that the command line offers."""

from __future__ import annotations

import argparse
from typing import Any


def bench_step(arguments: argparse.Namespace) -> dict[str, Any]:
    """One training step against one encoder GEMM of the same size, in turn, in this process."""
    import torch

    from mistudio.ml.device import available_cores, choose_device
    from mistudio.ml.training.bench_step import bench_train_step

    torch.set_num_threads(arguments.threads or available_cores())
    figures = bench_train_step(
        arguments.d_in,
        arguments.width,
        arguments.k,
        arguments.batch,
        arguments.steps,
        arguments.architecture,
        device=choose_device(),
    )
    return {**figures, "threads": torch.get_num_threads()}
