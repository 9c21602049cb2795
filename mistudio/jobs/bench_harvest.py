"""The harvest's measurements, on a model and a text of the library."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from mistudio.core.errors import InvalidInput
from mistudio.jobs import lookup
from mistudio.jobs.bench_features import World
from mistudio.store.tables import TOKENIZATIONS


def measure(world: World) -> list[dict[str, Any]]:
    """One row for each layer and width; raises `InvalidInput` without tokenised text."""
    import torch

    from mistudio.ml.data.text import TextStore
    from mistudio.ml.data.token_store import TokenStore
    from mistudio.ml.features.bench_harvest import bench_harvest

    studio, wanted = world.studio, world.arguments
    model, dataset = lookup.model(studio, wanted.model), lookup.dataset(studio, wanted.dataset)
    found = TOKENIZATIONS.select(
        studio.db(), "dataset_id = ? AND model_id = ? AND path IS NOT NULL", [dataset.id, model.id]
    )
    if not found:
        raise InvalidInput("This text is not tokenised for the model yet; do that first.")
    loaded = studio.models.get(model, studio.paths.absolute(model.path))
    tokens = TokenStore(studio.paths.absolute(found[0].path or ""))
    text = TextStore(studio.paths.dataset(dataset.id))
    rows: list[dict[str, Any]] = []
    for layer in _numbers(wanted.layers):
        for width in _numbers(wanted.widths):
            with tempfile.TemporaryDirectory(prefix="mistudio-bench-") as folder:
                rows.append(
                    bench_harvest(
                        loaded,
                        layer,
                        "resid_post",
                        tokens,
                        text,
                        width,
                        Path(folder),
                        rows=wanted.rows,
                        rounds=wanted.rounds,
                    )
                    | {"threads": torch.get_num_threads()}
                )
    return rows


def measure_memory(world: World) -> list[dict[str, Any]]:
    """The memory of a harvest of 24,576 latents over as many tokens as the made-up set has."""
    from mistudio.ml.features.bench_harvest import bench_memory

    model = lookup.model(world.studio, world.arguments.model)
    loaded = world.studio.models.get(model, world.studio.paths.absolute(model.path))
    with tempfile.TemporaryDirectory(prefix="mistudio-bench-") as folder:
        return [bench_memory(loaded, Path(folder), tokens=world.arguments.tokens)]


def _numbers(written: str) -> list[int]:
    try:
        return [int(part) for part in written.split(",")]
    except ValueError:
        raise InvalidInput(f"{written!r} is no list of numbers such as 3,9.") from None
