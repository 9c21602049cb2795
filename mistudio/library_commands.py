"""The command line's verbs for datasets, models, activation sets, storage and templates."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mistudio.commands import finish_here, run_job, with_signals
from mistudio.console import Console
from mistudio.core import configs, dataset_configs, model_configs
from mistudio.core.config import Config, from_arguments
from mistudio.core.errors import InvalidInput
from mistudio.core.repositories import from_address, place_in_address, repository_problem
from mistudio.core.units import format_bytes
from mistudio.jobs import deletion, dependants, lookup
from mistudio.jobs.runner import Studio
from mistudio.store.records import Row
from mistudio.store.tables import (
    ACTIVATION_SETS,
    DATASETS,
    FEATURE_SETS,
    MODELS,
    SAES,
    TOKENIZATIONS,
)

Arguments = argparse.Namespace
_WEIGHTS = (".safetensors", ".npz", ".pt")  # files of SAEs: never the name of a repository


def is_repository(path: str) -> bool:
    """Whether an argument means a Hub repository: no such path exists, and it reads like an id."""
    given = Path(os.path.expanduser(path))
    # a path that is too long for the system is none, but no error either
    if os.path.exists(given) or given.suffix.lower() in (*dataset_configs.TEXT_ENDINGS, ".gguf"):
        return False
    return not repository_problem(from_address(path)[0])


def import_dataset(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Import a file or folder of this machine, or download a dataset of the Hub."""
    if not is_repository(arguments.path):
        config: Config = from_arguments(dataset_configs.ImportDatasetConfig, arguments)
        console.result(run_job(studio, console, "import_dataset", config))
        return
    _name_repository(arguments)
    config = from_arguments(dataset_configs.DownloadDatasetConfig, arguments)
    console.result(run_job(studio, console, "download_dataset", config))


def import_model(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Register a folder or GGUF file of this machine, or download a model of the Hub."""
    if not is_repository(arguments.path):
        config: Config = from_arguments(model_configs.ImportModelConfig, arguments)
        console.result(run_job(studio, console, "import_model", config))
        return
    _name_repository(arguments)
    config = from_arguments(model_configs.DownloadModelConfig, arguments)
    job = studio.submit("download_model", config)
    console.result(with_signals(lambda c: finish_here(studio, console, job, c), hold=False))


def sae_import(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Add an SAE of this machine's files, or of a repository of the Hub."""
    if Path(arguments.path).suffix in _WEIGHTS or not is_repository(arguments.path):
        config: Config = from_arguments(configs.ImportSaeConfig, arguments)
        console.result(_import_sae(studio, console, "import_sae", config))
        return
    arguments.folder = getattr(arguments, "folder", None) or place_in_address(arguments.path)
    _name_repository(arguments)
    config = from_arguments(configs.DownloadSaeConfig, arguments)
    console.result(_import_sae(studio, console, "download_sae", config))


def _import_sae(studio: Studio, console: Console, kind: str, config: Config) -> dict[str, Any]:
    """Import an SAE and measure it; figures of the measurement stand with what was imported."""
    added = run_job(studio, console, kind, config)
    if "next" not in added:
        return added
    following = added.pop("next")
    told = with_signals(lambda c: studio.finish_now(following, console, c), hold=False)
    return {**added, **{key: told[key] for key in ("ev", "l0", "n", "doubt")}}


def _name_repository(arguments: Arguments) -> None:
    """A pasted address becomes an id and, unless one is given, its revision."""
    arguments.repo, revision = from_address(arguments.path)
    arguments.revision = getattr(arguments, "revision", None) or revision or None


def preview_dataset(studio: Studio, console: Console, arguments: Arguments) -> None:
    """What a file or Hub dataset holds, before anything is stored."""
    if is_repository(arguments.path):
        from mistudio.jobs import dataset_preview

        _name_repository(arguments)
        config = from_arguments(dataset_configs.DownloadDatasetConfig, arguments)
        found = dataclasses.asdict(
            dataset_preview.preview(
                studio, config.repo, config.config, config.split, config.revision
            )
        )
    else:
        from mistudio.jobs import import_preview

        local = from_arguments(dataset_configs.ImportDatasetConfig, arguments)
        found = dataclasses.asdict(import_preview.preview_file(local))
    console.result(found)


def search_samples(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Samples of a dataset that hold every word; the last one may be unfinished."""
    from mistudio.jobs import dataset_pages

    if not arguments.text.strip():
        raise InvalidInput("Write the words to search for.")
    if not 1 <= arguments.limit <= 1000:
        raise InvalidInput("--limit must lie between 1 and 1,000.", code="invalid_config")
    row = lookup.dataset(studio, arguments.dataset)
    page = dataset_pages.sample_page(studio, row, words=arguments.text, limit=arguments.limit)
    shown = [
        {"index": s.index, "split": s.split, "text": s.text, "metadata": dict(s.metadata)}
        for s in page.samples
    ]
    if console.as_json:
        console.result({"samples": shown, "total": page.total, "seconds": page.seconds})
        return
    short = [{**s, "text": " ".join(s["text"].split())[:160]} for s in shown]
    console.table("samples", short, ("index", "split", "text"))


def show_dataset(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Everything known of one dataset and its tokenisations."""
    row = DATASETS.named(studio.db(), arguments.dataset)
    made = TOKENIZATIONS.select(studio.db(), "dataset_id = ?", [row.id])
    console.result(
        {
            **dataclasses.asdict(row),
            "tokenizations": [
                {
                    "id": t.id,
                    "status": t.status,
                    "settings": t.settings,
                    "rows": t.rows,
                    "tokens": t.tokens,
                    "bytes": t.size_bytes,
                }
                for t in made
            ],
        }
    )


def search_hub(kind: str) -> Callable[[Studio, Console, Arguments], None]:
    """A verb that searches the Hub for "model" or "dataset" repositories."""

    def verb(studio: Studio, console: Console, arguments: Arguments) -> None:
        from mistudio.jobs import hub_pages

        found = hub_pages.search(studio, kind, arguments.words, limit=arguments.limit)
        rows = [dataclasses.asdict(repo) for repo in found]
        columns = ("id", "size_bytes", "licence", "downloads", "gated", "cached")
        console.table("repositories", rows, columns)

    return verb


def change_format(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Load a model in another precision, check it, and keep that."""
    config = from_arguments(model_configs.CheckModelConfig, arguments)
    console.result(run_job(studio, console, "check_model", config))


def list_activations(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Activation sets, newest first."""
    rows = [
        {
            "id": row.id,
            "name": row.name,
            "layers": row.layers,
            "hooks": row.hooks,
            "tokens": row.n_tokens,
            "dtype": row.dtype,
            "bytes": row.size_bytes,
            "status": row.status,
        }
        for row in ACTIVATION_SETS.select(studio.db())
    ]
    columns = ("id", "name", "layers", "hooks", "tokens", "dtype", "bytes", "status")
    console.table("activations", rows, columns)


def show_activations(studio: Studio, console: Console, arguments: Arguments) -> None:
    """One activation set with the statistics of every layer and hook."""
    from mistudio.jobs import activation_pages

    row = ACTIVATION_SETS.named(studio.db(), arguments.activations)
    page = activation_pages.set_page(studio, row.id)
    shown = dataclasses.asdict(row)
    shown["statistics"] = [
        {
            "layer": found.layer,
            "hook": found.hook,
            "tokens": found.tokens,
            "norm_mean": found.norm_mean,
            "norm_median": found.norm_median,
            "norm_max": found.norm_max,
            "near_zero_share": found.near_zero_share,
            "outlier_dimensions": [o.dimension for o in found.outliers],
            "sink_positions": [s.position for s in found.sinks],
        }
        for found in page.hooks
    ]
    lines = [f"{key}: {value}" for key, value in shown.items() if key != "statistics"]
    lines += [
        f"  L{s['layer']} {s['hook']}: mean norm {s['norm_mean']:.4g}, "
        f"largest {s['norm_max']:.4g}, near zero {100 * s['near_zero_share']:.2f} %, "
        f"outlier dimensions {s['outlier_dimensions'] or 'none'}"
        for s in shown["statistics"]
    ]
    console.result(shown, lines)


def plan_extraction(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Tokens and bytes of an extraction, without making it."""
    from mistudio.jobs import activation_pages

    config = from_arguments(model_configs.ExtractConfig, arguments)
    console.result(dataclasses.asdict(activation_pages.estimate(studio, config)))


def extract(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Store activations; with --plan only say what that would take."""
    if arguments.plan:
        plan_extraction(studio, console, arguments)
        return
    config = from_arguments(model_configs.ExtractConfig, arguments)
    console.result(run_job(studio, console, "extract_activations", config))


def show_storage(studio: Studio, console: Console, arguments: Arguments) -> None:
    """What takes room on the disk, largest first."""
    from mistudio.jobs import storage

    found = storage.usage(studio)
    rows = [
        {
            "kind": i.kind,
            "id": i.object_id,
            "name": i.name,
            "bytes": i.size_bytes,
            "used_by": i.used_by,
        }
        for i in found.items
    ]
    if console.as_json:
        console.result(
            {
                "disk_total": found.disk_total,
                "disk_free": found.disk_free,
                "by_kind": found.by_kind,
                "items": rows,
            }
        )
        return
    for row in rows:
        row["size"] = format_bytes(float(str(row["bytes"])))
    console.table("items", rows, ("size", "kind", "name", "used_by", "id"))


def delete(kind: str) -> Callable[[Studio, Console, Arguments], None]:
    """A verb that deletes an object of a kind, with --yes; without, it says what that means."""

    def verb(studio: Studio, console: Console, arguments: Arguments) -> None:
        table, of, remove = {
            "dataset": (DATASETS, dependants.of_dataset, deletion.delete_dataset),
            "tokenization": (
                TOKENIZATIONS,
                dependants.of_tokenization,
                deletion.delete_tokenization,
            ),
            "model": (MODELS, dependants.of_model, deletion.delete_model),
            "activations": (
                ACTIVATION_SETS,
                dependants.of_activation_set,
                deletion.delete_activation_set,
            ),
            "sae": (SAES, dependants.of_sae, deletion.delete_sae),
            "feature_set": (
                FEATURE_SETS,
                dependants.of_feature_set,
                deletion.delete_feature_set,
            ),
        }[kind]
        row: Row = table.only(studio.db(), getattr(arguments, kind))
        found = of(studio, row.id)
        if found.refusal:
            remove(studio, row.id)  # raises with the users named
        told = {
            "id": row.id,
            "name": found.name,
            "bytes": found.size_bytes,
            "removed": found.removed,
            "kept": found.kept,
        }
        if not arguments.yes:
            raise InvalidInput(
                f"This deletes the {found.noun} {found.name!r} and frees "
                f"{format_bytes(found.size_bytes)}"
                + (f"; with it go {', '.join(found.removed)}" if found.removed else "")
                + ". Say --yes to do it."
            )
        remove(studio, row.id)
        console.result({"deleted": told})

    return verb


def list_templates(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Templates of every kind."""
    from mistudio.jobs import templates

    rows = [dataclasses.asdict(row) for row in templates.templates(studio)]
    console.table("templates", rows, ("id", "kind", "name", "description", "is_favorite"))


def export_templates(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Write all templates to one JSON file."""
    from mistudio.jobs import templates

    out = Path(arguments.out or templates.export_name()).expanduser()
    console.result({"templates": templates.export(studio, out), "path": str(out)})


def import_templates(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Add the templates of a JSON file; invalid ones are skipped and named."""
    from mistudio.jobs import templates

    found = templates.import_file(studio, Path(arguments.path).expanduser())
    console.result(dataclasses.asdict(found))


def bench_tokenize(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Tokenising as a job does it against the bare tokenizer, interleaved."""
    from mistudio.jobs.bench import bench_tokenize as measure

    console.result(measure(studio, arguments))


def bench_extract(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Extracting activations against a bare truncated forward loop, interleaved."""
    from mistudio.jobs.bench import bench_extract as measure

    console.result(measure(studio, arguments))


def bench_window(studio: Studio, console: Console, arguments: Arguments) -> None:
    """The real window on a virtual screen: its start, tabs, gaps, repaints and memory."""
    from mistudio.jobs.bench_window import PARTS, goals
    from mistudio.jobs.bench_window import bench_window as measure

    parts = tuple(arguments.only or PARTS)
    found = measure(parts, arguments.rounds, arguments.idle, arguments.tokens)
    reached = goals(found)
    rows = [{**goal._asdict(), "is_met": goal.is_met} for goal in reached]
    console.result({**found, "goals": rows}, [goal.line() for goal in reached])


def bench_search(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Word search and paging over a synthetic text of many samples."""
    from mistudio.jobs.bench_search import bench_search as measure

    if arguments.samples < 1000:
        raise InvalidInput("--samples must be at least 1,000.", code="invalid_config")
    console.result(measure(arguments.samples))
