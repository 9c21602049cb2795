"""Reference statistics on the disk: numbers as JSON, the matrix of a whitening beside them."""

from __future__ import annotations

import json
from pathlib import Path

from mistudio.core.atomic import atomic_file, write_json
from mistudio.core.errors import Damaged, NotFound
from mistudio.ml.activations.statistics import StreamStatistics
from mistudio.ml.formats.tensors import load_tensors, save_tensors
from mistudio.ml.whitening import Whitening

WHITENED = "whitened"  # a key of the JSON: whether there is a second file


def save_statistics(path: Path, statistics: StreamStatistics) -> None:
    """Write `path` (.json), and a whitening to its sibling .safetensors; both to the bit.

    The JSON comes last, so that it never tells of a file that is not there.
    """
    values = statistics.to_dict()
    if statistics.whitening is not None:
        with atomic_file(path.with_suffix(".safetensors")) as temporary:
            save_tensors(temporary, statistics.whitening.tensors())
        values[WHITENED] = True
    write_json(path, values)


def load_statistics(path: Path) -> StreamStatistics:
    """What `save_statistics` wrote; raises `NotFound` or `Damaged`."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        whitened = values.pop(WHITENED, False)
        found = StreamStatistics.from_dict(values)
    except FileNotFoundError as error:
        raise NotFound(f"There is no {path.name} in {path.parent}.") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Damaged(f"{path.name} in {path.parent} is damaged.", details=str(error)) from error
    if not whitened:
        return found
    matrix = path.with_suffix(".safetensors")
    try:
        return found.with_whitening(Whitening.from_tensors(load_tensors(matrix)))
    except KeyError as error:
        raise Damaged(f"{matrix.name} in {path.parent} is damaged.", details=str(error)) from error
