"""A harvest that is killed with SIGKILL and begun again ends with the same store, to the bit."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from tests.helpers.doomed import Fault, Nursery
from tests.helpers.survivors import done

WORDS = ("features", "extract", "last", "--rows", "96", "--context", "32", "--seed", "5")
# a checkpoint after each tile of eight rows
PATCHES = (
    "import mistudio.ml.features.harvest as h\n"
    "made = h.HarvestSettings\n"
    "h.HarvestSettings = lambda **values: made(**values, checkpoint_s=0.0)\n"
    "h.TILE_TOKENS['cpu'] = 256\n",
)


@pytest.fixture
def homes(trained_home: Path, tmp_path: Path) -> list[Path]:
    """Copies of the trained data folder, one for the quiet run and one for the disturbed."""
    made = [tmp_path / "quiet", tmp_path / "struck"]
    for home in made:
        shutil.copytree(trained_home / "data", home)
    return made


def test_a_killed_harvest_goes_on_to_the_same_store(nursery: Nursery, homes: list[Path]) -> None:
    quiet, struck = homes
    ended = done(nursery.run(quiet, *WORDS, fault=Fault(where="features"), patches=PATCHES))
    moments, expected = ended.moments, ended.result["store_hash"]
    assert moments > 24  # one checkpoint a tile and more
    rng = random.Random(moments)
    left = 0
    for third in range(3):
        at = rng.randint(1, moments // (1 + third))
        killed = nursery.run(struck, *WORDS, fault=Fault("kill", at, "features"), patches=PATCHES)
        assert killed.status == -9, killed.out + killed.err
        left += any((struck / "features").glob(".*.partial/checkpoint.json"))
    assert left > 0
    again = done(nursery.run(struck, *WORDS, patches=PATCHES))
    assert again.result["store_hash"] == expected
    assert not list((struck / "features").glob(".*"))
    sets = done(nursery.run(struck, "features", "sets", "last")).result["feature_sets"]
    assert len(sets) == 2  # the first one and this; nothing of the cut-off attempts


def test_a_full_disk_leaves_nothing_of_a_harvest(nursery: Nursery, homes: list[Path]) -> None:
    home = homes[0]
    before = sorted(path.name for path in (home / "features").iterdir())
    full = Fault("full", 9, "features")
    ended = nursery.run(home, *WORDS, fault=full, patches=PATCHES)
    assert ended.status == 1
    assert "Free some space" in ended.result["message"]
    assert sorted(path.name for path in (home / "features").iterdir()) == before
