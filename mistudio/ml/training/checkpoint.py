"""Checkpoints of a run: one folder per step that exists whole or not at all.

`model.safetensors` holds the unfolded parameters, `optimizer.safetensors` the moments,
`state.safetensors` counters and random states, `state.json` everything else, and
`manifest.json`, written last, the SHA-256 of each. No pickle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mistudio.core.atomic import atomic_directory, sha256_file
from mistudio.core.errors import StudioError, from_os_error
from mistudio.ml.formats.tensors import load_tensors, save_tensors
from mistudio.ml.training.keeping import (
    FILES,
    FOLDER,
    MANIFEST,
    STATE,
    list_checkpoints,
    read_values,
    verify_checkpoint,
)
from mistudio.ml.training.keeping import prune as prune


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on exactly where it was after `step` steps."""

    step: int
    model: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, torch.Tensor]
    state: Mapping[str, torch.Tensor]
    values: Mapping[str, Any] = field(default_factory=dict)  # JSON


def checkpoint_path(run_folder: Path, step: int) -> Path:
    """The folder of the checkpoint after `step` steps."""
    return run_folder / FOLDER / f"step_{step:08d}"


def save_checkpoint(run_folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint; it appears under its name once all of it is on disk."""
    path = checkpoint_path(run_folder, checkpoint.step)
    try:
        with atomic_directory(path) as temporary:
            save_tensors(temporary / "model.safetensors", checkpoint.model)
            save_tensors(temporary / "optimizer.safetensors", checkpoint.optimizer)
            save_tensors(temporary / "state.safetensors", checkpoint.state)
            values = {"step": checkpoint.step, **checkpoint.values}
            _write(temporary / STATE, values)
            hashes = {name: sha256_file(temporary / name) for name in FILES}
            _write(temporary / MANIFEST, {"step": checkpoint.step, "sha256": hashes})
    except OSError as error:
        raise from_os_error(error, "write the checkpoint") from error
    return path


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; raises `Damaged` if any file differs from its manifest."""
    verify_checkpoint(path)
    values = read_values(path)
    return Checkpoint(
        step=int(values["step"]),
        model=load_tensors(path / "model.safetensors"),
        optimizer=load_tensors(path / "optimizer.safetensors"),
        state=load_tensors(path / "state.safetensors"),
        values=values,
    )


def newest_checkpoint(run_folder: Path, notes: list[str] | None = None) -> Path | None:
    """The newest checkpoint that verifies; sentences about damaged ones are added to `notes`."""
    for path in reversed(list_checkpoints(run_folder)):
        try:
            verify_checkpoint(path)
        except StudioError as error:
            if notes is not None:
                notes.append(f"{error.sentence} An older checkpoint is used.")
            continue
        return path
    return None


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, allow_nan=False) + "\n", encoding="utf-8")
