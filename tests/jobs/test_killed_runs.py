"""Two disturbed trainings of `tests/heavy/test_killed_runs.py`; MISTUDIO_SEED draws others."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.helpers.doomed import Nursery
from tests.helpers.survivors import (
    ARCHITECTURES,
    copy_of,
    done,
    facts,
    survive,
    train_words,
)

SEED = os.environ.get("MISTUDIO_SEED", "1")


@pytest.mark.parametrize(
    ("sources", "kinds"),
    [(("live", "stored"), ("kill", "torn")), (("imported",), ("term", "raise"))],
)
def test_a_disturbed_run_ends_as_an_undisturbed_one(
    nursery: Nursery, base: Path, tmp_path: Path, sources: tuple[str, ...], kinds: tuple[str, ...]
) -> None:
    rng = random.Random(f"{SEED} {sources}")
    name = rng.choice(list(ARCHITECTURES))
    words = train_words(rng.choice(sources), *ARCHITECTURES[name])
    home = copy_of(base, tmp_path / "quiet")
    moments = done(nursery.run(home, *words)).moments
    wanted = facts(home)
    assert wanted.held_out == [7, 14, 21, 28, 35, 42, 47]
    assert wanted.best[0] in wanted.held_out
    found = survive(nursery, copy_of(base, tmp_path / "loud"), words, moments, rng, kinds)
    assert found.facts == wanted, f"{SEED} {' '.join(words)}: {found.struck}"
