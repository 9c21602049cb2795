"""Two processes over gloo train what one process trains with the same batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mistudio.ml.training.checkpoint import list_checkpoints
from tests.helpers.processes import finish, start_ranks
from tests.ml_training.shared_runs import CONFIGS, PAUSED_AT, SPOILT_AT, STEPS, Ran

MODULE = "tests.ml_training.shared_runs"
UNLIKE = {"seconds", "tokens_per_s"}  # of a row


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have left their runs."""
    place = tmp_path_factory.mktemp("ranks")
    for status, _, err in finish(start_ranks(["-m", MODULE, "compare", str(place)])):
        assert status == 0, err
    return place


def found(folder: Path, rank: int) -> dict[str, Any]:
    return torch.load(folder / f"found-{rank}.pt", weights_only=True)


def _no_look(note: str) -> str:
    return note.partition(": held-out")[0]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_curves_and_weights_are_those_of_one_process(
    folder: Path, tmp_path: Path, name: str
) -> None:
    alone = Ran(CONFIGS[name], tmp_path)
    rows, notes, parameters, looks = found(folder, 0)[name]
    assert len(alone.rows) == len(rows) == STEPS
    for one, two in zip(alone.rows, rows, strict=True):
        assert one.keys() == two.keys()
        for key in one.keys() - UNLIKE:
            wanted = one[key]  # the explained variance crosses 0, where a ratio says nothing
            if isinstance(wanted, float):
                wanted = pytest.approx(wanted, rel=1e-5, abs=1e-5 * (key == "explained_variance"))
            assert two[key] == wanted, (one["step"], key)
    if "topk" in name:  # what is compared includes AuxK at work
        assert max(row["auxiliary"] or 0 for row in rows) > 0
    for key, tensor in alone.parameters.items():
        torch.testing.assert_close(parameters[key], tensor, rtol=1e-4, atol=1e-5)
    # the digits of a look are compared below, with a tolerance
    assert [_no_look(note) for note in notes] == [_no_look(note) for note in alone.notes]
    assert (
        [look["step"] for look in looks] == [look["step"] for look in alone.looks] == [10, 20, 30]
    )
    for one, two in zip(alone.looks, looks, strict=True):
        assert two["heldout_ev"] == pytest.approx(one["heldout_ev"], rel=1e-3, abs=1e-4)
        assert two["heldout_n"] == 200
    assert found(folder, 1)[name][3] == [], "one looks"
    assert any(f"Step {SPOILT_AT + 1} " in note for note in notes)


@pytest.mark.parametrize("name", CONFIGS)
def test_all_processes_hold_the_same_weights_and_one_writes(folder: Path, name: str) -> None:
    first, second = found(folder, 0)[name][2], found(folder, 1)[name][2]
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert list_checkpoints(folder / f"{name}-0")
    assert not (folder / f"{name}-1").exists()


def test_one_process_goes_on_from_where_two_paused(folder: Path, tmp_path: Path) -> None:
    (checkpoint,) = list_checkpoints(folder / "paused-0")
    assert checkpoint.name.endswith(f"{PAUSED_AT:08d}")
    assert not (folder / "paused-1").exists()
    config = CONFIGS["batch_topk"]
    rest = Ran(config, tmp_path / "rest", resume_from=checkpoint)
    whole = Ran(config, tmp_path / "whole")
    assert [row["step"] for row in rest.rows] == list(range(PAUSED_AT + 1, STEPS + 1))
    assert rest.rows[-1]["loss"] == pytest.approx(whole.rows[-1]["loss"], rel=1e-5)
    for key, tensor in whole.parameters.items():
        torch.testing.assert_close(rest.parameters[key], tensor, rtol=1e-4, atol=1e-5)


def test_a_process_that_is_lost_ends_the_others_with_a_sentence(tmp_path: Path) -> None:
    first, second = finish(start_ranks(["-m", MODULE, "lose", str(tmp_path)]))
    assert second[0] == 9
    assert first[0] == 0, first[2]
    assert first[1].startswith("process_lost: Another process of this training has ended")
