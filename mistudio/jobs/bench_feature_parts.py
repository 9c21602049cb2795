"""The measurements of the feature browser's parts, as `mistudio bench features` asks for them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from mistudio.core.paths import Paths
from mistudio.jobs import feature_pages, sae_library
from mistudio.jobs.bench_features import World
from mistudio.jobs.runner import Studio

TABLE_ROWS = 131_072
QUERIES = 1000


def partners(world: World) -> list[dict[str, Any]]:
    """Partners of features of median density and of a dense one, in the made-up set."""
    from mistudio.ml.features.bench_coactivation import bench_coactivation

    studio, _, found = world.made_up()
    return bench_coactivation(feature_pages.open_store(studio, found))


def neighbours(world: World) -> list[dict[str, Any]]:
    """Nearest decoder rows of one feature among 131k, and of every feature among 32k."""
    from mistudio.ml.device import choose_device
    from mistudio.ml.features.bench_coactivation import bench_all_pairs, bench_neighbours

    with tempfile.TemporaryDirectory(prefix="mistudio-bench-") as folder:
        rows = bench_neighbours(Path(folder))
    return [*rows, *bench_all_pairs(device=choose_device())]


def table(world: World) -> list[dict[str, Any]]:
    """Sorting, narrowing and searching a table of 131k rows."""
    from mistudio.jobs.bench_feature_table import bench_table, made_up_table

    with tempfile.TemporaryDirectory(prefix="mistudio-bench-") as folder:
        made = made_up_table(Path(folder), TABLE_ROWS)
        try:
            return bench_table(made)
        finally:
            made.store.close()


def phrases(world: World) -> list[dict[str, Any]]:
    """Phrases looked up in the text of the made-up set."""
    from mistudio.jobs.bench_feature_table import bench_phrases
    from mistudio.ml.features import context_words

    studio, _, found = world.made_up()
    store = feature_pages.open_store(studio, found)
    context_words.build(store, lambda: None, lambda done: None)
    return bench_phrases(store, queries=QUERIES)


def labels(world: World) -> list[dict[str, Any]]:
    """Labels by rules and their held-out scores, written into a database."""
    from mistudio.ml.features.bench_harvest import random_sae
    from mistudio.ml.features.bench_labels import FEATURES, bench_labels
    from mistudio.store.labels import replace_auto

    with tempfile.TemporaryDirectory(prefix="mistudio-bench-") as folder:
        studio = Studio(Paths.at(Path(folder)))
        try:
            sae = sae_library.add_sae(
                studio,
                random_sae(16, FEATURES, 1, 0),
                {"model_name": "synthetic"},
                name="synthetic",
                origin="import",
                model=None,
                layer=0,
                hook="resid_post",
            )
            return bench_labels(
                write=lambda made: replace_auto(
                    studio.db(), sae.id, [label._asdict() for label in made]
                )
            )
        finally:
            studio.close()


def exports(world: World) -> list[dict[str, Any]]:
    """The HTML report and Neuronpedia's layout."""
    from mistudio.jobs.bench_feature_exports import bench_feature_exports

    with tempfile.TemporaryDirectory(prefix="mistudio-bench-") as folder:
        return bench_feature_exports(Path(folder))
