"""The checkpoint folders of a run: list, verify, keep, remove. Reads no tensors."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistudio.core.atomic import sha256_file, write_json
from mistudio.core.errors import Damaged, NotFound, StudioError, from_os_error
from mistudio.core.retention import DEFAULT_CAP, KEEP_ALL, Kept, surplus

FOLDER = "checkpoints"
KEEPING = "keep.json"
LOOK_EVERY = 10  # steps
MANIFEST = "manifest.json"
STATE = "state.json"
FILES = ("model.safetensors", "optimizer.safetensors", "state.safetensors", STATE)


@dataclass(frozen=True)
class Keeping:
    """What the user decided about the checkpoints of a run, in a file beside them."""

    cap: int = DEFAULT_CAP
    every: int | None = None
    """steps between checkpoints, None as the run's settings say, 0: only the last"""
    pinned: tuple[int, ...] = ()


def read_keeping(run_folder: Path) -> Keeping:
    """The decisions on a run; the defaults where there are none or the file is broken."""
    try:
        values = json.loads((run_folder / FOLDER / KEEPING).read_text(encoding="utf-8"))
        every = values.get("every")
        return Keeping(
            int(values.get("cap", DEFAULT_CAP)),
            None if every is None else int(every),
            tuple(int(step) for step in values.get("pinned", ())),
        )
    except (OSError, ValueError, TypeError, AttributeError):
        return Keeping()


def write_keeping(run_folder: Path, keeping: Keeping) -> None:
    """Store the decisions on a run; one that trains follows them from its next save on."""
    values = {"cap": keeping.cap, "every": keeping.every, "pinned": sorted(keeping.pinned)}
    try:
        write_json(run_folder / FOLDER / KEEPING, values)
    except OSError as error:
        raise from_os_error(error, "keep this decision") from error


def save_every(run_folder: Path, default: int) -> int:
    """Steps between the checkpoints of a run: what was decided since it began, else `default`."""
    every = read_keeping(run_folder).every
    return default if every is None else every


class AutoSave:
    """Tells when a checkpoint is due; what is decided while the run trains counts within 10 steps.

    When checkpoints are written changes nothing of what is learnt.
    """

    def __init__(self, run_folder: Path, default: int) -> None:
        """`default`: steps between checkpoints by the run's settings, 0: only the last."""
        self._folder, self._default = run_folder, default
        self._every = save_every(run_folder, default)

    def due(self, step: int) -> bool:
        """Whether one is to be written after this step."""
        if step % LOOK_EVERY == 0:
            self._every = save_every(self._folder, self._default)
        return self._every > 0 and step % self._every == 0


def list_checkpoints(run_folder: Path) -> list[Path]:
    """Checkpoint folders with a manifest, by step; their content is not verified."""
    return sorted(p.parent for p in (run_folder / FOLDER).glob(f"step_*/{MANIFEST}"))


def step_of(path: Path) -> int:
    """The step that a checkpoint folder was written after."""
    return int(path.name.removeprefix("step_"))


def read_values(path: Path) -> dict[str, Any]:
    """state.json of a checkpoint, without its tensors."""
    try:
        return json.loads((path / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Damaged(
            f"{STATE} of the checkpoint {path.name} is damaged.", details=str(error)
        ) from None


def known_values(path: Path) -> dict[str, Any]:
    """What a checkpoint tells of itself; nothing if it is damaged or has just gone."""
    try:
        return read_values(path)
    except StudioError:
        return {}


def verify_checkpoint(path: Path) -> None:
    """Raise `NotFound` without a manifest, `Damaged` if a file is missing or has other bytes."""
    if not (path / MANIFEST).is_file():
        raise NotFound(f"{path.name} has no manifest; it is no complete checkpoint.")
    try:
        hashes = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["sha256"]
        for name in FILES:
            if sha256_file(path / name) != hashes[name]:
                raise Damaged(f"{name} of the checkpoint {path.name} is damaged.")
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
        raise Damaged(f"The checkpoint {path.name} is damaged.", details=str(error)) from None
    except OSError as error:
        raise from_os_error(error, "read the checkpoint") from error


def surplus_checkpoints(
    run_folder: Path, cap: int | None = None, keep_all: int = KEEP_ALL
) -> list[Path]:
    """The checkpoint folders that the rule of `core.retention` does not keep, by step."""
    keeping = read_keeping(run_folder)
    found = {step_of(path): path for path in list_checkpoints(run_folder)}
    limit = cap or keeping.cap
    if len(found) <= min(limit, keep_all):
        return []
    known: list[Kept] = []
    for step, path in found.items():
        values = known_values(path)  # of a damaged one none, which is not the best
        held_out = values.get("held_out") or {}
        known.append(Kept(step, values.get("loss"), step in keeping.pinned, held_out.get("ev")))
    return [found[step] for step in surplus(known, limit, keep_all)]


def prune(run_folder: Path, keep_all: int = KEEP_ALL) -> list[Path]:
    """Delete surplus checkpoints; returns the deleted folders.

    Nothing goes unless the newest one verifies: an older one may be needed in its place.
    """
    going = surplus_checkpoints(run_folder, keep_all=keep_all)
    if not going:
        return []
    try:
        verify_checkpoint(list_checkpoints(run_folder)[-1])
    except StudioError:
        return []
    for path in going:
        remove_checkpoint(path)
    return going


def remove_checkpoint(path: Path) -> None:
    """Delete one checkpoint; from the first moment on it does not exist."""
    (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def remove_unfinished(run_folder: Path) -> None:
    """Delete what a killed process left of checkpoints that it was writing or removing."""
    folder = run_folder / FOLDER
    gone = [path for path in folder.glob("step_*") if not (path / MANIFEST).is_file()]
    for path in (*gone, *folder.glob(".*.tmp"), *folder.glob(".*.old")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
