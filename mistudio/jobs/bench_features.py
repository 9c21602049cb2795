"""Measurements of finding and reading features: which there are, and the made-up set they read."""

from __future__ import annotations

import argparse
import importlib
import os
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mistudio.core.errors import InvalidInput
from mistudio.core.paths import Paths
from mistudio.jobs.runner import Studio
from mistudio.jobs.synthetic_set import add_synthetic
from mistudio.store.records import FeatureSetRow, SaeRow

Rows = list[dict[str, Any]]


class World(NamedTuple):
    """What a measurement is given: the user's library, and one with a made-up feature set."""

    studio: Studio
    made_up: Callable[[], tuple[Studio, SaeRow, FeatureSetRow]]
    arguments: argparse.Namespace


# name: module and function (World -> rows); found when asked for, as the window comes after jobs
BENCHES = {
    "harvest": "mistudio.jobs.bench_harvest:measure",
    "memory": "mistudio.jobs.bench_harvest:measure_memory",
    "page": "mistudio.gui.tabs.features.bench_page:measure",
    "partners": "mistudio.jobs.bench_feature_parts:partners",
    "neighbours": "mistudio.jobs.bench_feature_parts:neighbours",
    "table": "mistudio.jobs.bench_feature_parts:table",
    "scroll": "mistudio.gui.tabs.features.bench_scroll:measure",
    "phrases": "mistudio.jobs.bench_feature_parts:phrases",
    "labels": "mistudio.jobs.bench_feature_parts:labels",
    "exports": "mistudio.jobs.bench_feature_parts:exports",
    "ablation": "mistudio.jobs.bench_ablation:measure",
}


def bench_features(studio: Studio, arguments: argparse.Namespace) -> Iterator[Rows]:
    """The rows of each measurement, as it ends; the made-up set is written once, when needed."""
    chosen: Sequence[str] = arguments.only or list(BENCHES)
    for name in chosen:
        if name not in BENCHES:
            raise InvalidInput(
                f"There is no measurement {name!r}; there are {', '.join(BENCHES)}.",
                code="invalid_config",
            )
    for name in ("features", "tokens", "pages", "rounds", "rows"):
        if getattr(arguments, name) < 1:
            raise InvalidInput(f"--{name} must be at least 1.", code="invalid_config")
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    with _made_up(arguments) as made_up:
        world = World(studio, made_up, arguments)
        for name in chosen:
            module, _, function = BENCHES[name].partition(":")
            yield getattr(importlib.import_module(module), function)(world)


@contextmanager
def _made_up(
    arguments: argparse.Namespace,
) -> Generator[Callable[[], tuple[Studio, SaeRow, FeatureSetRow]]]:
    """Gives the library with the made-up set, which is written at the first call."""
    found: list[tuple[Studio, SaeRow, FeatureSetRow]] = []
    with tempfile.TemporaryDirectory(prefix="mistudio-bench-") as home:

        def made_up() -> tuple[Studio, SaeRow, FeatureSetRow]:
            if not found:
                studio = Studio(Paths.at(Path(home)))
                try:
                    rows = add_synthetic(studio, arguments.features, arguments.tokens, arguments.l0)
                except BaseException:
                    studio.close()
                    raise
                found.append((studio, *rows))
            return found[0]

        try:
            yield made_up
        finally:
            for studio, _, _ in found:
                studio.close()
