"""Trainings that are killed, paused, broken and torn, by hand: `pytest -m heavy -s` tells each.

Every architecture on every kind of source: whatever happens on the way, the SAE, the metric rows
and the figures are those of a run that nothing disturbed, and nothing else is left.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest

from tests.helpers.doomed import Fault, Nursery
from tests.helpers.survivors import (
    ARCHITECTURES,
    SOURCES,
    TRANSCODERS,
    Facts,
    copy_of,
    done,
    facts,
    survive,
    train_words,
)

pytestmark = pytest.mark.heavy

CASES = [(name, source) for source in SOURCES for name in ARCHITECTURES]
CASES += [(name, source) for source in ("live", "stored") for name in TRANSCODERS]
EVERY = pytest.mark.parametrize(("name", "source"), CASES)
SEED = os.environ.get("MISTUDIO_SEED", "1")
LOOKS = sorted({*range(5, 47, 5), *range(7, 47, 7), 47})  # between checkpoints, at them, at the end


def words_of(name: str, source: str) -> tuple[str, ...]:
    return train_words(source, *{**ARCHITECTURES, **TRANSCODERS}[name], "--eval-every", "5")


class Quiet:
    """The undisturbed runs, each made once."""

    def __init__(self, nursery: Nursery, base: Path) -> None:
        self._nursery, self._base = nursery, base
        self._known: dict[tuple[str, str], tuple[Facts, int]] = {}

    def of(self, name: str, source: str, home: Path) -> tuple[Facts, int]:
        """What it left and how many moments it had."""
        if (name, source) not in self._known:
            copy_of(self._base, home)
            ended = done(self._nursery.run(home, *words_of(name, source)))
            self._known[name, source] = (facts(home), ended.moments)
        return self._known[name, source]


@pytest.fixture(scope="module")
def quiet(nursery: Nursery, base: Path) -> Quiet:
    return Quiet(nursery, base)


def told(*parts: object) -> None:
    sys.stdout.write(" ".join(str(part) for part in parts) + "\n")
    sys.stdout.flush()


@EVERY
@pytest.mark.parametrize("kinds", ["kill kill kill kill", "term raise torn full"])
def test_a_disturbed_run_ends_as_an_undisturbed_one(
    nursery: Nursery, base: Path, quiet: Quiet, tmp_path: Path, name: str, source: str, kinds: str
) -> None:
    wanted, moments = quiet.of(name, source, tmp_path / "quiet")
    assert wanted.status == "completed"
    assert wanted.evaluation["ev"] is not None
    assert wanted.held_out == LOOKS
    home = copy_of(base, tmp_path / "loud")
    rng = random.Random(f"{SEED} {name} {source} {kinds}")
    found = survive(nursery, home, words_of(name, source), moments, rng, tuple(kinds.split()))
    told(f"{name:18} {source:8} {moments:4} moments, struck {', '.join(found.struck)}")
    assert found.facts == wanted


@pytest.mark.parametrize("name", [*ARCHITECTURES, *TRANSCODERS])
def test_a_stop_leaves_an_sae_that_can_be_used(
    nursery: Nursery, base: Path, quiet: Quiet, tmp_path: Path, name: str
) -> None:
    _, moments = quiet.of(name, "live", tmp_path / "quiet")
    home = copy_of(base, tmp_path / "loud")
    at = random.Random(f"{SEED} {name}").randint(moments // 3, moments // 2)
    done(nursery.run(home, *words_of(name, "live"), fault=Fault("stop", at)))
    found = facts(home)
    assert found.status == "stopped"
    assert 0 < found.training["current_step"] < 47
    figures = done(nursery.run(home, "sae", "eval", "last")).result
    told(f"{name:18} stopped after {found.training['current_step']} steps, EV {figures['ev']:.3f}")
    assert figures["ev"] is not None
    assert figures["l0"] > 0
    facts(home)
