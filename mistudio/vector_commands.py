"""The command line's verbs for raw directions: make, import, export, list, show, delete."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from mistudio.commands import run_job
from mistudio.console import Console
from mistudio.core.config import from_arguments
from mistudio.core.errors import InvalidInput
from mistudio.core.vector_configs import (
    ContrastConfig,
    ExportVectorsConfig,
    FeatureMeanConfig,
    ImportVectorsConfig,
)
from mistudio.jobs import vector_library
from mistudio.jobs.runner import Studio
from mistudio.store.tables import STEERING_VECTORS

Arguments = argparse.Namespace


def lines_of(path: str) -> tuple[str, ...]:
    """The lines of a text file that are not blank; raises `InvalidInput`."""
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise InvalidInput(f"{path} is no text in UTF-8.", details=str(error)) from error
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def vectors_contrast(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Make a vector from two files of prompts."""
    arguments.positive = list(lines_of(arguments.positive))
    arguments.negative = list(lines_of(arguments.negative))
    config = from_arguments(ContrastConfig, arguments)
    console.result(run_job(studio, console, "contrast_vector", config))


def vectors_feature(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Make the difference of means of a feature."""
    config = from_arguments(FeatureMeanConfig, arguments)
    console.result(run_job(studio, console, "feature_mean", config))


def vectors_import(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Add the vectors of a file."""
    config = from_arguments(ImportVectorsConfig, arguments)
    console.result(run_job(studio, console, "import_vectors", config))


def vectors_export(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Write vectors or a blend of features for another program."""
    config = from_arguments(ExportVectorsConfig, arguments)
    console.result(run_job(studio, console, "export_vectors", config))


def list_vectors(studio: Studio, console: Console, arguments: Arguments) -> None:
    """All vectors, newest first."""
    rows = [dataclasses.asdict(row) for row in STEERING_VECTORS.select(studio.db())]
    shown = [{**row, "model": row["model_name"]} for row in rows]
    columns = ("id", "name", "model", "layer", "hook", "method", "width", "norm", "notes")
    console.table("vectors", shown, columns)


def show_vector(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Everything known of one vector."""
    console.result(dataclasses.asdict(vector_library.find_one(studio, arguments.vector)))


def rename_vector(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Give a vector, or every layer of an imported one, another name."""
    found = vector_library.find(studio, arguments.vector)
    for row in found:
        vector_library.change(studio, row.id, name=arguments.name)
    console.result({"vectors": [row.id for row in found], "name": arguments.name})


def note_vector(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Write a note beside a vector."""
    found = vector_library.find(studio, arguments.vector)
    for row in found:
        vector_library.change(studio, row.id, notes=arguments.text)
    console.result({"vectors": [row.id for row in found], "notes": arguments.text})


def remove_vectors(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Delete vectors by id or name."""
    found = [row for name in arguments.vector for row in vector_library.find(studio, name)]
    ids = list(dict.fromkeys(row.id for row in found))
    if not arguments.yes:
        raise InvalidInput(
            f"This would delete {len(ids):,} vectors for good. Say --yes to do it.",
            code="invalid_config",
        )
    for vector_id in ids:
        vector_library.delete(studio, vector_id)
    console.result({"deleted": ids})
