"""A checkpoint exists whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mistudio.core.errors import Damaged, NotFound
from mistudio.core.retention import Kept, surplus
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
from mistudio.ml.training.keeping import AutoSave, Keeping, read_keeping, step_of, write_keeping


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


def steps_in(folder: Path) -> list[int]:
    return [step_of(path) for path in list_checkpoints(folder)]


def test_retention_keeps_first_last_thousands_and_best(tmp_path: Path) -> None:
    for step in (100, 200, 300, 1000, 1100):
        write(tmp_path, step, loss=0.1 if step == 300 else 1.0)
    assert prune(tmp_path, keep_all=5) == []
    write(tmp_path, 1200)
    gone = prune(tmp_path, keep_all=5)
    assert [step_of(path) for path in gone] == [200, 1100]
    assert steps_in(tmp_path) == [100, 300, 1000, 1200]


def test_pinned_ones_stay_and_the_cap_is_the_users(tmp_path: Path) -> None:
    for step in range(1000, 9000, 1000):
        write(tmp_path, step)
    write_keeping(tmp_path, Keeping(cap=4, pinned=(3000,)))
    prune(tmp_path)
    assert steps_in(tmp_path) == [1000, 3000, 7000, 8000]
    assert read_keeping(tmp_path) == Keeping(cap=4, pinned=(3000,))


def test_nothing_goes_while_the_newest_is_damaged(tmp_path: Path) -> None:
    for step in range(1, 13):
        newest = write(tmp_path, step)
    (newest / "model.safetensors").write_bytes(b"torn")
    assert prune(tmp_path) == []
    assert steps_in(tmp_path) == list(range(1, 13))


def test_a_broken_file_of_decisions_means_the_defaults(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / "checkpoints" / "keep.json").write_text("[1]")
    assert read_keeping(tmp_path) == Keeping()


def test_the_interval_may_change_while_a_run_trains(tmp_path: Path) -> None:
    saves = AutoSave(tmp_path, 50)
    due = [step for step in range(1, 101) if saves.due(step)]
    write_keeping(tmp_path, Keeping(every=30))
    due += [step for step in range(101, 201) if saves.due(step)]
    write_keeping(tmp_path, Keeping(every=0))
    due += [step for step in range(201, 400) if saves.due(step)]
    assert due == [50, 100, 120, 150, 180]


def test_ten_thousand_saves_leave_at_most_the_cap() -> None:
    kept: list[Kept] = []
    for save in range(1, 10_001):
        step = 100 * save
        kept.append(Kept(step, 1.0 / save, is_pinned=step == 700))
        gone = set(surplus(kept, cap=20))
        kept = [one for one in kept if one.step not in gone]
        assert len(kept) <= 20
        assert kept[-1].step == step, "an unfinished run keeps its newest"
    steps = [one.step for one in kept]
    assert steps[0] == 100
    assert 700 in steps
    # the oldest thousandths went first
    assert steps[2:] == list(range(1_000_000 - 1000 * (len(steps) - 3), 1_000_001, 1000))
