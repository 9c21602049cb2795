"""Trainings whose data, memory and disk fail on the way, by hand: `pytest -m heavy -s` tells each.

What goes on explains at most 1 % less of the variance than a clean run, and where a fault only
delays, the SAE is the same to the byte.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tests.helpers.doomed import Fault, Nursery
from tests.helpers.survivors import (
    ARCHITECTURES,
    Facts,
    copy_of,
    done,
    facts,
    make_base,
    train_words,
    vectors,
)

pytestmark = pytest.mark.heavy

WITHIN = 0.01
LONGER = ("--tokens", "25600", "--checkpoint-every", "50")
# one token in a hundred, in training and calibration alike, is no number
BROKEN_TOKENS = """
import torch
from mistudio.ml.activations.readers import LiveReader
read = LiveReader.read
generator = torch.Generator().manual_seed(1)
def broken(self, table, rows, take):
    def spoil(i, x_BSD):
        x_BSD = x_BSD.clone()
        bad_BS = torch.rand(x_BSD.shape[:2], generator=generator) < 0.01
        x_BSD[bad_BS, 0] = float("nan")
        x_BSD[0, 1] = float("inf")
        take(i, x_BSD)
    read(self, table, rows, spoil)
LiveReader.read = broken
"""
# three batches, two in a row, a thousand times too large
SPIKES = """
from mistudio.ml.activations.stream import ActivationStream
following = ActivationStream.__next__
count = 0
def spiked(self):
    global count
    count += 1
    batch = following(self)
    return batch * 1000.0 if count in (120, 121, 200) else batch
ActivationStream.__next__ = spiked
"""
# a step of more than 40 tokens does not fit from the 100th on, a forward pass of 9 rows never
NO_MEMORY = """
import mistudio.ml.training.micro_batch as micro
from mistudio.core.errors import OutOfMemory
from mistudio.ml.activations.readers import LiveReader
read, gradients, count = LiveReader.read, micro.MicroBatches.gradients, 0
def small_read(self, table, rows, take):
    if len(rows) > 8:
        raise OutOfMemory("The forward pass does not fit.")
    read(self, table, rows, take)
def limited(self, sae, *rest):
    global count
    count += 1
    if count == 100:
        whole = sae.gradients
        def too_large(x_BD, *more):
            if len(x_BD) > 40:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")
            return whole(x_BD, *more)
        sae.gradients = too_large
    return gradients(self, sae, *rest)
LiveReader.read, micro.MicroBatches.gradients = small_read, limited
"""
# the database finds no room for metric rows, for a while
FULL_ROWS = """
import sqlite3
from mistudio.store import trainings
add, count = trainings.add_metrics, 0
def full(*what):
    global count
    count += 1
    if 1 < count < 5:
        raise sqlite3.OperationalError("database or disk is full")
    add(*what)
trainings.add_metrics = full
"""


class World(NamedTuple):
    """A data folder to copy, and the process that forks commands."""

    nursery: Nursery
    base: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("base") / "home"
    home.mkdir()
    with Nursery(tmp_path_factory.mktemp("nursery")) as nursery:
        make_base(nursery, home, ("live",))
        yield World(nursery, home)


@pytest.fixture(scope="module")
def clean(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Facts]:
    """Clean runs of the architectures, made when first wanted."""
    folder = tmp_path_factory.mktemp("clean")

    class Clean(dict[str, Facts]):
        def __missing__(self, name: str) -> Facts:
            home = copy_of(world.base, folder / name)
            done(world.nursery.run(home, *words_of(name)))
            self[name] = facts(home)
            return self[name]

    return Clean()


def words_of(name: str) -> tuple[str, ...]:
    return train_words("live", *ARCHITECTURES[name], *LONGER)


def notes_of(home: Path) -> str:
    return "".join(path.read_text() for path in home.glob("runs/*/log.jsonl"))


def check_close(name: str, what: str, found: Facts, clean: Facts) -> None:
    one, other = found.evaluation["ev"], clean.evaluation["ev"]
    sys.stdout.write(f"{name:18} {what:14} EV {one:.4f}, clean {other:.4f}\n")
    sys.stdout.flush()
    assert found.status == "completed"
    assert one >= (1 - WITHIN) * other


@pytest.mark.parametrize(
    ("what", "patches", "said"),
    [
        ("numbers", [BROKEN_TOKENS], "tokens whose activations were not finite"),
        ("spikes", [SPIKES], "its batch was skipped"),
        ("memory", [NO_MEMORY], "batches go on in pieces of 32 tokens"),
        ("all", [BROKEN_TOKENS, SPIKES, NO_MEMORY, FULL_ROWS], "its batch was skipped"),
    ],
)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_run_that_goes_on_explains_as_much(
    world: World, clean: dict[str, Facts], tmp_path: Path, name: str, what: str,
    patches: list[str], said: str,
) -> None:  # fmt: skip
    if what not in ("all", "numbers") and name not in ("batch_topk", "jumprelu-tanh"):
        pytest.skip("alone with two architectures only")
    home = copy_of(world.base, tmp_path / "home")
    done(world.nursery.run(home, *words_of(name), patches=patches))
    assert said in notes_of(home)
    check_close(name, what, facts(home), clean[name])


@pytest.mark.parametrize(
    ("what", "fault", "patches"),
    [
        ("checkpoints", Fault("full", 20, "checkpoints", 8), []),
        ("rows", Fault(), [FULL_ROWS]),
        ("log", Fault("full", 1, "log.jsonl"), []),
    ],
)
def test_a_disk_that_is_full_for_a_while_changes_nothing(
    world: World,
    clean: dict[str, Facts],
    tmp_path: Path,
    what: str,
    fault: Fault,
    patches: list[str],
) -> None:
    home = copy_of(world.base, tmp_path / "home")
    done(world.nursery.run(home, *words_of("batch_topk"), fault=fault, patches=patches))
    if what != "log":
        assert "The disk is full" in notes_of(home)
    assert facts(home) == clean["batch_topk"]


@pytest.mark.parametrize("where", ["saes", "sae_", "evaluation.json"])
def test_a_disk_without_room_for_the_sae_leaves_a_run_that_goes_on(
    world: World, clean: dict[str, Facts], tmp_path: Path, where: str
) -> None:
    home = copy_of(world.base, tmp_path / "home")
    fault = Fault("full", 1, where)
    ended = world.nursery.run(home, *words_of("batch_topk"), fault=fault)
    assert ended.status == 1
    assert ended.result["code"] == "disk_full"
    with closing(sqlite3.connect(home / "mistudio.db")) as db:
        assert db.execute("SELECT status FROM trainings").fetchall() == [("failed",)]
        assert db.execute("SELECT count(*) FROM saes").fetchone()[0] == (where[0] == "e")
    done(world.nursery.run(home, "train", "resume", "last"))
    assert facts(home) == clean["batch_topk"]


def test_vectors_that_are_no_numbers_are_left_out(world: World, tmp_path: Path) -> None:
    found: list[Facts] = []
    for broken in (False, True):
        home = copy_of(world.base, tmp_path / "home")
        path = vectors(tmp_path)
        if broken:
            x = np.load(path)
            x[::100, 3], x[1::100], x[2::100] = np.nan, np.inf, x[2::100] * 1e4
            np.save(path, x)
        done(world.nursery.run(home, "activations", "import", str(path), "--name", "imported"))
        done(world.nursery.run(home, *train_words("imported", *LONGER)))
        if broken:
            assert "not finite" in notes_of(home)
            assert "far larger than usual" in notes_of(home)
        found.append(facts(home))
    check_close("batch_topk", "vectors", found[1], found[0])
