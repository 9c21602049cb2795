"""Labels of another program's explanation files, beside the labels there are."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mistudio.core.errors import Damaged, InvalidInput, Mismatch, NotFound, from_os_error
from mistudio.core.feature_export_configs import ImportExplanationsConfig
from mistudio.jobs import lookup
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.row_files import read_lines
from mistudio.jobs.runner import Studio
from mistudio.store import feature_export
from mistudio.store.connection import Db
from mistudio.store.records import SaeRow

ENDINGS = (".jsonl", ".jsonl.gz")
MOST_TEXT = 512


class Found(NamedTuple):
    """What a file or folder of explanations holds for an SAE."""

    files: int
    rows: int
    features: int
    """features that get at least one label"""
    yours: int
    """features among them that keep the user's own label"""
    outside: int
    """rows of features that the SAE does not have"""
    empty: int
    """rows without a text"""
    sources: tuple[str, ...]
    """the sources (such as 6-res-jb) that the rows are of"""


def prepare(studio: Studio, config: ImportExplanationsConfig) -> None:
    """Refuse a place without explanation files, and an unknown SAE, before anything is queued."""
    lookup.sae(studio, config.sae)
    files_of(Path(config.path).expanduser())


def run(ctx: JobContext, config: ImportExplanationsConfig) -> Result:
    """Keep every explanation as a label with the source "imported"; a user's label stays shown."""
    sae = lookup.sae(ctx.studio, config.sae)
    found = preview(ctx.db, sae, config)
    labels: list[dict[str, Any]] = []
    for done, label in enumerate(_labels(sae, config)):
        ctx.control.check()
        if done % 1000 == 0:
            share = 0.9 * done / max(found.rows, 1)
            ctx.report.progress(share, "reading", rate=f"{done:,} of {found.rows:,} rows")
        labels.append(label)
    if not labels:
        raise InvalidInput("None of these explanations belongs to a feature of this SAE.")
    taken = feature_export.add_imported(ctx.db, sae.id, labels)
    return {"sae": sae.id, **found._asdict(), **taken._asdict()}


def preview(db: Db, sae: SaeRow, config: ImportExplanationsConfig) -> Found:
    """Count what an import would take; stores nothing.

    Raises `NotFound` or `InvalidInput` if there are no explanations, `Damaged` if a file is not
    whole, and `Mismatch` if rows of several sources are mixed and none is named.
    """
    path = Path(config.path).expanduser()
    rows = outside = empty = 0
    features: set[int] = set()
    sources: set[str] = set()
    for row in _rows(path):
        source = str(row.get("layer", ""))
        sources.add(source)
        if config.layer and source != config.layer:
            continue
        rows += 1
        index = _index(row)
        if index is None or index >= sae.n_latents:
            outside += 1
        elif not _text(row):
            empty += 1
        else:
            features.add(index)
    if config.layer and not rows:
        raise NotFound(f"There is nothing of {config.layer!r}; the files hold {_named(sources)}.")
    if not config.layer and len(sources) > 1:
        raise Mismatch(f"The files hold {_named(sources)}; name the source to take.")
    yours = len(features & feature_export.user_labelled(db, sae.id))
    files = len(files_of(path))
    return Found(files, rows, len(features), yours, outside, empty, tuple(sorted(sources)))


def _named(sources: set[str]) -> str:
    shown = sorted(sources)[:5]
    return ", ".join(shown) + (", …" if len(sources) > 5 else "")


def files_of(path: Path) -> list[Path]:
    """The explanation files at a place: the file itself, or those of a folder, in order.

    Of a whole bulk folder those below `explanations` are taken.
    """
    if path.is_file():
        if not path.name.endswith(ENDINGS):
            raise InvalidInput(f"{path.name} is no .jsonl or .jsonl.gz file.")
        return [path]
    if not path.is_dir():
        raise NotFound(f"{path} is not there.")
    every = [item for item in path.rglob("*") if item.is_file() and item.name.endswith(ENDINGS)]
    inside = [item for item in every if item.parent.name == "explanations"]
    found = inside or [item for item in every if item.parent == path]
    if not found:
        raise NotFound(f"There are no explanation files (.jsonl or .jsonl.gz) in {path}.")
    return sorted(found, key=lambda item: (len(item.name), str(item)))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    for file in files_of(path):
        try:
            for row in read_lines(file):
                if not isinstance(row, dict) or "index" not in row or "description" not in row:
                    raise InvalidInput(f"{file.name} holds no explanations of features.")
                yield row
        except (gzip.BadGzipFile, EOFError, zlib.error, ValueError) as error:
            raise Damaged(f"{file.name} is damaged or no such file.", details=str(error)) from error
        except OSError as error:
            raise from_os_error(error, f"read {file.name}") from error


def _labels(sae: SaeRow, config: ImportExplanationsConfig) -> Iterator[dict[str, Any]]:
    for row in _rows(Path(config.path).expanduser()):
        if config.layer and str(row.get("layer", "")) != config.layer:
            continue
        index, text = _index(row), _text(row)
        if index is not None and index < sae.n_latents and text:
            yield {
                "feature": index,
                "text": text,
                "method": _word(row.get("typeName")),
                "model": _word(row.get("explanationModelName")),
            }


def _index(row: dict[str, Any]) -> int | None:
    value = row["index"]
    if isinstance(value, int) and not isinstance(value, bool):
        return value if value >= 0 else None
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else None


def _text(row: dict[str, Any]) -> str:
    """The description in one line, as labels are kept."""
    value = row["description"]
    return " ".join(value.split())[:MOST_TEXT] if isinstance(value, str) else ""


def _word(value: Any) -> str | None:
    return value[:200] if isinstance(value, str) and value else None


def sentence(found: Found) -> str:
    """What an import would do, in words."""
    kept = f" {found.yours:,} of them keep your own label; the other is kept beside it."
    left = f" {found.outside + found.empty:,} rows are left out: no such feature, or no text."
    files = "file" if found.files == 1 else "files"
    return (
        f"{found.rows:,} explanations in {found.files:,} {files} label {found.features:,} features."
        + (kept if found.yours else "")
        + (left if found.outside + found.empty else "")
    )
