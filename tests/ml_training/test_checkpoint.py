"""A checkpoint exists whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mistudio.core.errors import Damaged, NotFound
from mistudio.ml.training.checkpoint import (
    FILES,
    Checkpoint,
    checkpoint_path,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    prune,
    save_checkpoint,
)


def write(folder: Path, step: int, loss: float = 1.0) -> Path:
    checkpoint = Checkpoint(
        step,
        {"W": torch.arange(6.0).view(2, 3)},
        {"W.exp_avg": torch.ones(2, 3)},
        {"since": torch.tensor([2**40, 1])},
        {"loss": loss, "third": 1 / 3},
    )
    return save_checkpoint(folder, checkpoint)


def test_round_trip_keeps_every_bit(tmp_path: Path) -> None:
    loaded = load_checkpoint(write(tmp_path, 7))
    assert loaded.step == 7
    assert torch.equal(loaded.model["W"], torch.arange(6.0).view(2, 3))
    assert loaded.state["since"].tolist() == [2**40, 1]
    assert loaded.values["third"] == 1 / 3
    assert sorted(p.name for p in checkpoint_path(tmp_path, 7).iterdir()) == sorted(
        [*FILES, "manifest.json"]
    )


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_noticed_and_an_older_one_taken(tmp_path: Path, name: str) -> None:
    older, newer = write(tmp_path, 1), write(tmp_path, 2)
    content = bytearray((newer / name).read_bytes())
    content[-3] ^= 1
    (newer / name).write_bytes(content)
    with pytest.raises(Damaged, match="step_00000002"):
        load_checkpoint(newer)
    notes: list[str] = []
    assert newest_checkpoint(tmp_path, notes) == older
    assert len(notes) == 1


def test_without_a_manifest_it_does_not_exist(tmp_path: Path) -> None:
    path = write(tmp_path, 3)
    (path / "manifest.json").unlink()
    assert newest_checkpoint(tmp_path) is None
    with pytest.raises(NotFound):
        load_checkpoint(path)


@pytest.mark.parametrize("content", ["", "[]", '{"sha256": {}}', '{"sha256": null}'])
def test_broken_manifests_are_damage(tmp_path: Path, content: str) -> None:
    path = write(tmp_path, 3)
    (path / "manifest.json").write_text(content)
    with pytest.raises(Damaged):
        load_checkpoint(path)
    (path / "model.safetensors").unlink()
    assert newest_checkpoint(tmp_path) is None


def test_retention_keeps_first_newest_thousands_and_best(tmp_path: Path) -> None:
    for step in (100, 200, 300, 1000, 1100):
        write(tmp_path, step, loss=0.1 if step == 300 else 1.0)
    assert prune(tmp_path, keep_all=5) == []
    write(tmp_path, 1200)
    prune(tmp_path, keep_all=5)
    kept = [
        json.loads((p / "manifest.json").read_text())["step"] for p in list_checkpoints(tmp_path)
    ]
    assert kept == [100, 300, 1000, 1100, 1200]
