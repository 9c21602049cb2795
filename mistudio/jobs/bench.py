"""Measurements that the command line offers."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from mistudio.core.config import validate
from mistudio.core.errors import InvalidInput
from mistudio.core.model_configs import ExtractConfig
from mistudio.core.training_rules import ARCHITECTURES, DENSE_FAMILY, JUMPRELU_PENALTIES
from mistudio.jobs import lookup

if TYPE_CHECKING:
    from mistudio.jobs.runner import Studio


SPARSE_DENSITY = 0.02  # below which few latents are said to fire


def bench_step(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Training steps against one encoder GEMM of the same size, in turn, in this process.

    An architecture with a penalty is measured as it starts, with 2 % of its latents firing, and
    with k of them; JumpReLU with each of its penalties.
    """
    import torch

    from mistudio.ml.device import available_cores, choose_device
    from mistudio.ml.training.bench_step import bench_train_step

    torch.set_num_threads(arguments.threads or available_cores())
    chosen = arguments.architecture
    rows: list[dict[str, Any]] = []
    for architecture in ARCHITECTURES if chosen == "all" else (chosen,):
        densities: tuple[float | None, ...] = (None,)
        if architecture in DENSE_FAMILY:
            aim = arguments.k / arguments.width
            densities = (None, *sorted({d for d in (SPARSE_DENSITY, aim) if d < 1}, reverse=True))
        penalties = JUMPRELU_PENALTIES if architecture == "jumprelu" else ("",)
        rows += [
            bench_train_step(
                arguments.d_in,
                arguments.width,
                arguments.k,
                arguments.batch,
                arguments.steps,
                architecture,
                density=density,
                penalty=penalty or "tanh",
                device=choose_device(),
            )
            for penalty in penalties
            for density in densities
        ]
    return rows


def bench_tokenize(studio: Studio, arguments: argparse.Namespace) -> dict[str, Any]:
    """Tokenising a dataset as a job does it against the bare tokenizer, in turn."""
    from mistudio.ml.data.bench_tokenize import bench_tokenize as measure
    from mistudio.ml.data.text import TextStore
    from mistudio.ml.loading import load_tokenizer

    model = lookup.model(studio, arguments.model)
    dataset = lookup.dataset(studio, arguments.dataset)
    return measure(
        TextStore(studio.paths.dataset(dataset.id)),
        load_tokenizer(studio.paths.absolute(model.path)),
        studio.paths.tmp,
        rounds=_rounds(arguments),
    )


def bench_extract(studio: Studio, arguments: argparse.Namespace) -> dict[str, Any]:
    """Extracting activations as a job does it against bare truncated forward passes, in turn."""
    import torch

    from mistudio.jobs.extract_activations import settings_of
    from mistudio.jobs.extraction_plan import plan_extraction
    from mistudio.ml.activations.bench_extract import bench_extract as measure
    from mistudio.ml.data.token_store import TokenStore

    config = ExtractConfig(
        model=arguments.model,
        dataset=arguments.dataset,
        layers=arguments.layers,
        hooks=tuple(arguments.hooks or ("resid_post",)),
        rows=arguments.rows,
    )
    validate(config)
    plan = plan_extraction(studio, config)
    if plan.tokenization is None:
        raise InvalidInput("This text is not tokenised for the model yet; do that first.")
    loaded = studio.models.get(plan.model, studio.paths.absolute(plan.model.path))
    figures = measure(
        loaded,
        TokenStore(studio.paths.absolute(plan.tokenization.path or "")),
        settings_of(plan, config),
        studio.paths.tmp,
        _rounds(arguments),
    )
    return {**figures, "threads": torch.get_num_threads()}


def _rounds(arguments: argparse.Namespace) -> int:
    if arguments.rounds < 1:
        raise InvalidInput("--rounds must be at least 1.", code="invalid_config")
    return int(arguments.rounds)
