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
# the process dies when the folder has its name and no row is written
DIES = (
    "import os, signal\nfrom mistudio.store import features\n"
    "features.add_statistics = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
)


@pytest.fixture
def homes(trained_home: Path, tmp_path: Path) -> list[Path]:
    """Copies of the trained data folder, one for the quiet run and one for the disturbed."""
    made = [tmp_path / "quiet", tmp_path / "struck"]
    for home in made:
        shutil.copytree(trained_home / "data", home)
    return made


def test_a_killed_harvest_goes_on_to_the_same_store(nursery: Nursery, homes: list[Path]) -> None:
    """Whatever the batch: that of the quiet run, of each killed one, and of the one that ends."""
    quiet, struck = homes
    hashes: list[str] = []
    left = 0
    for batch in ("8", "32", "128"):
        words = (*WORDS, "--batch-size", batch)
        ended = done(nursery.run(quiet, *words, fault=Fault(where="features"), patches=PATCHES))
        hashes.append(ended.result["store_hash"])
        if batch == "8":
            assert ended.moments > 24  # one checkpoint a tile and more
        at = random.Random(ended.moments).randint(1, ended.moments // (1 + len(hashes)))
        killed = nursery.run(struck, *words, fault=Fault("kill", at, "features"), patches=PATCHES)
        assert killed.status == -9, killed.out + killed.err
        left += any((struck / "features").glob(".*.partial/checkpoint.json"))
    assert left > 0
    again = done(nursery.run(struck, *WORDS, patches=PATCHES))
    assert {*hashes, again.result["store_hash"]} == {hashes[0]}
    assert not list((struck / "features").glob(".*"))
    sets = done(nursery.run(struck, "features", "sets", "last")).result["feature_sets"]
    assert len(sets) == 2  # the first one and this; nothing of the cut-off attempts


def test_a_kill_between_the_folder_and_its_rows_is_made_good(
    nursery: Nursery, homes: list[Path]
) -> None:
    quiet, struck = homes
    expected = done(nursery.run(quiet, *WORDS, patches=PATCHES)).result["store_hash"]
    killed = nursery.run(struck, *WORDS, patches=(*PATCHES, DIES))
    assert killed.status == -9, killed.out + killed.err
    assert len(list((struck / "features").iterdir())) == 2  # whole, and no row knows it
    sets = done(nursery.run(struck, "features", "sets", "last")).result["feature_sets"]
    assert len(sets) == 1
    unread = "import mistudio.ml.features.harvest as h\nh._read = None\n"
    again = done(nursery.run(struck, *WORDS, patches=(*PATCHES, unread)))
    assert again.result["store_hash"] == expected
    sets = done(nursery.run(struck, "features", "sets", "last")).result["feature_sets"]
    assert len(sets) == 2
    assert len(list((struck / "features").iterdir())) == 2
    shown = done(nursery.run(struck, "features", "list", "last")).result["features"]
    assert shown


def test_a_finished_store_of_other_settings_is_in_nobodys_way(
    nursery: Nursery, homes: list[Path]
) -> None:
    home = homes[1]
    assert nursery.run(home, *WORDS, patches=(*PATCHES, DIES)).status == -9
    manifests = (home / "features").glob("*/manifest.json")
    newest = max(manifests, key=lambda path: path.stat().st_mtime)
    newest.write_text(newest.read_text().replace('"key": "', '"key": "other'))
    done(nursery.run(home, *WORDS, patches=PATCHES))
    assert len(list((home / "features").iterdir())) == 2


def test_a_full_disk_leaves_nothing_of_a_harvest(nursery: Nursery, homes: list[Path]) -> None:
    home = homes[0]
    before = sorted(path.name for path in (home / "features").iterdir())
    full = Fault("full", 9, "features")
    ended = nursery.run(home, *WORDS, fault=full, patches=PATCHES)
    assert ended.status == 1
    assert "Free some space" in ended.result["message"]
    assert sorted(path.name for path in (home / "features").iterdir()) == before
