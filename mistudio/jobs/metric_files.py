"""The metric rows of runs as a CSV file with exactly the stored numbers."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from mistudio.core.atomic import atomic_file
from mistudio.core.errors import InvalidInput, from_os_error
from mistudio.jobs.runner import Studio
from mistudio.store import trainings
from mistudio.store.tables import TRAININGS

NAMES = ("step", "layer", "hook", *trainings.METRIC_COLUMNS)


def write_csv(studio: Studio, training_ids: Sequence[str], path: Path) -> int:
    """Write the rows of runs, one after the other; returns how many.

    Numbers are written with the fewest digits that give the same number back; what was not
    measured is empty. Raises `NotFound`, `InvalidInput` without any row, or what the disk says.
    """
    runs = [TRAININGS.get(studio.db(), training_id) for training_id in training_ids]
    written = 0
    try:
        with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as f:
            out = csv.writer(f)
            out.writerow(("run", "name", *NAMES))
            for run in runs:
                for rows in trainings.metric_chunks(studio.db(), run.id, NAMES):
                    out.writerows((run.id, run.name, *row) for row in rows)
                    written += len(rows)
            if not written:
                raise InvalidInput("No step has been measured yet; there is nothing to write.")
    except OSError as error:
        raise from_os_error(error, f"write {path.name}") from error
    return written


def file_name(name: str, what: str, ending: str) -> str:
    """The name a file dialog proposes for something of a run."""
    words = re.sub(r"[^\w.-]+", "_", f"{name}_{what}").strip("_.")
    return f"{words or what}.{ending}"
