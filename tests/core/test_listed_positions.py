"""Positions that are skipped: lists in words, SAELens's slices of what is kept, and the setting."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import replace
from typing import Any

import pytest

from mistudio.core.config import config_hash, from_dict, to_dict, violations
from mistudio.core.errors import InvalidInput
from mistudio.core.listed_positions import (
    check_positions,
    format_positions,
    kept_slice,
    left_out_by,
    read_positions,
    read_slice,
)
from mistudio.core.sweep_configs import SweepConfig
from mistudio.core.training_configs import TrainConfig

CONFIG = TrainConfig(model="m", dataset="d")


def test_positions_are_read_and_written() -> None:
    assert read_positions("") == ()
    assert read_positions("127, 0-3,2") == (0, 1, 2, 3, 127)
    assert format_positions((0, 1, 2, 3, 127)) == "0-3,127"


@pytest.mark.parametrize(
    ("text", "context", "sentence"),
    [
        ("first", 0, "'first' is no position number; write them as 3,17,40-60."),
        ("-1", 0, "'-1' is no position number; write them as 3,17,40-60."),
        ("0-999999", 0, "Position 999,999 does not exist; there are 131,072 (0 to 131,071)."),
        ("0,9,32", 32, "Position 32 cannot be skipped: a row has 32 tokens, at positions 0 to 31."),
        ("0-31", 32, "All 32 positions of a row are skipped, so that nothing is left to learn"),
    ],
)
def test_what_cannot_be_skipped_is_told_at_the_setting(
    text: str, context: int, sentence: str
) -> None:
    (found,) = violations(replace(CONFIG, skip_positions=text, context=context))
    assert found.field == "skip_positions"
    assert found.sentence.startswith(sentence)


def test_a_row_may_keep_a_single_position() -> None:
    check_positions(range(31), 32)
    assert violations(replace(CONFIG, skip_positions="0-30", context=32)) == []
    assert violations(replace(CONFIG, skip_positions="0-30,32")) == []  # the text decides


def test_a_slice_is_found_wherever_there_is_one() -> None:
    """Against every slice over seven positions."""
    context = 7
    ends = [None, *range(context + 1)]
    sayable = {
        tuple(range(context)[start:stop:step])
        for start, stop, step in itertools.product(ends, ends, (1, 2, 3, 4, 5, 6))
    } - {()}
    found = set()
    for kept in itertools.product((False, True), repeat=context):
        skipped = tuple(i for i, keep in enumerate(kept) if not keep)
        told = kept_slice(skipped, context)
        if told is None:
            continue
        assert left_out_by(told, context, context) == skipped
        found.add(tuple(i for i, keep in enumerate(kept) if keep))
    assert found == sayable
    assert kept_slice((), 7) == [None]
    assert kept_slice((0,), 7) == [1, None]
    assert kept_slice((0, 6), 7) == [1, 6]
    assert kept_slice((1, 3, 5), 7) == [0, None, 2]
    assert kept_slice((0, 3), 7) is None


@pytest.mark.parametrize(
    "told", [[None], [1, None], [1, -1], [-3, None], [5], [2, 30, 3], [0, -20]]
)
@pytest.mark.parametrize("size", [8, 16])
def test_a_slice_leaves_out_what_python_says(told: list[int | None], size: int) -> None:
    kept = set(range(size)[slice(*told)])
    assert left_out_by(told, size, size) == tuple(i for i in range(size) if i not in kept)


def test_rows_of_another_length_than_the_slice_was_meant_for() -> None:
    assert left_out_by([1, None], 8, 12) == (0,)
    assert left_out_by([2, -2], 8, 12) == (0, 1, 6, 7, 8, 9, 10, 11)
    assert left_out_by([2, -2], 8, 4) == (0, 1)
    assert left_out_by([2, -2], None, 5) == (0, 1, 3, 4)


@pytest.mark.parametrize("told", ["1:", [1.5, None], [1, 2, 3, 4], [], [0, None, -1], [True]])
def test_what_is_no_slice(told: Any) -> None:
    with pytest.raises(InvalidInput, match=r"is no slice of positions such as \[1, null\]"):
        read_slice(told)
    assert read_slice(None) == [None]


def test_a_config_without_the_newer_settings_has_the_hash_it_had() -> None:
    older = to_dict(CONFIG)
    for newer in ("skip_positions", "subspace_init", "held_out_share"):
        del older[newer]
    assert from_dict(TrainConfig, older) == CONFIG
    digest = hashlib.sha256(json.dumps(older, sort_keys=True).encode()).hexdigest()
    assert config_hash(CONFIG) == digest
    hashes = {config_hash(replace(CONFIG, skip_positions=text)) for text in ("", "0", "1")}
    assert len(hashes) == 3


def test_all_of_a_sweep_skip_the_same() -> None:
    sweep = SweepConfig(model="m", dataset="d", skip_positions="0-1,4", vary=("k=4,8",))
    assert [m.skip_positions for m in sweep.members(8)] == ["0-1,4"] * 2
    (found,) = violations(replace(sweep, vary=("skip_positions=0,1",)))
    assert "cannot be varied" in found.sentence
