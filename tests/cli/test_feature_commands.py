"""Listing features by any column and condition, and the user's lists, from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mistudio import cli
from mistudio.core.paths import Paths
from mistudio.jobs.runner import Studio
from mistudio.store import feature_marks
from tests.gui import feature_world


class Shell:
    """Runs commands on one data folder that holds a synthetic feature set."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._home, self._capsys = home, capsys
        self.err = ""

    def __call__(self, *words: str, status: int = 0) -> Any:
        found = cli.main(["features", *words, "--json", "--home", str(self._home)])
        out, self.err = self._capsys.readouterr()
        assert found == status, out + self.err
        return json.loads(out.splitlines()[-1])


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    studio = Studio(Paths.at(tmp_path / "home"))
    world = feature_world.add_world(studio.db())
    feature_marks.set_label(studio.db(), world.sae.id, 3, "winter")
    studio.close()
    return Shell(tmp_path / "home", capsys)


def indices(answer: dict[str, Any]) -> list[int]:
    return [row["index"] for row in answer["features"]]


def test_conditions_and_order(shell: Shell) -> None:
    live = [i for i in range(64) if i % 8 != 7]
    assert indices(shell("list", "--sort", "index", "--ascending", "--limit", "99")) == live
    strong = shell("list", "--where", "max>=8", "--sort", "index", "--ascending", "--limit", "99")
    assert indices(strong) == [i for i in live if i % 5 == 4]
    dead = shell("list", "--all", "--where", "flag=dead", "--limit", "99")
    assert sorted(indices(dead)) == [i for i in range(64) if i % 8 == 7]
    both = ("--where", "label=user", "--where", "tokens~^WHALE", "--sort", "index", "--ascending")
    assert indices(shell("list", *both)) == []
    whales = [i for i in live if i % 10 == 1]
    assert indices(shell("list", *both, "--any")) == sorted([3, *whales])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--where", "max"], "is no condition"),
        (["--where", "max>=x"], "is no number"),
        (["--where", "max>2"], "bounds are included"),
        (["--where", "taste>=2"], "no column of numbers 'taste'"),
        (["--where", "colour=pink"], "no colour 'pink'"),
        (["--where", "flag=red"], "no flag 'red'"),
        (["--where", "tokens~("], "no regular expression"),
        (["--sort", "taste"], "no column 'taste'"),
    ],
)
def test_what_makes_no_sense_is_a_sentence(shell: Shell, words: list[str], said: str) -> None:
    answer = shell("list", *words, status=1 if "~" in words[1] else 2)
    assert said in answer["message"]


def test_marks_from_the_command_line(shell: Shell) -> None:
    told = shell("mark", "last", "3", "5", "--colour", "red", "--star", "--note", "cold")
    assert told["features"] == [3, 5]
    assert sorted(indices(shell("list", "--where", "colour=red"))) == [3, 5]
    assert indices(shell("list", "--where", "colour=any", "--where", "note~COLD"))
    shell("mark", "last", "5", "--colour", "blue", "--no-star")
    rows = {row["index"]: row for row in shell("list", "--where", "colour=any")["features"]}
    assert {i: (r["colour"], r["is_favorite"], r["notes"]) for i, r in rows.items()} == {
        3: ("red", True, "cold"),
        5: ("blue", False, "cold"),
    }
    assert 3 not in indices(shell("list", "--where", "colour!=red", "--limit", "99"))
    shell("mark", "last", "3", "--colour", "none", "--note", "", "--hidden")
    assert indices(shell("list", "--where", "colour=any")) == [5]
    assert 3 not in indices(shell("list", "--limit", "99"))
    assert "Say what to set" in shell("mark", "last", "3", status=2)["message"]
    assert "does not exist" in shell("mark", "last", "64", "--star", status=1)["message"]


def test_views_from_the_command_line(shell: Shell) -> None:
    shell("lists", "create", "places")
    shell("lists", "add", "places", "last", "3", "5")
    shell("views", "save", "map", "--where", "list=places", "--sort", "index", "--ascending")
    assert indices(shell("list", "--view", "map")) == [3, 5]
    assert indices(shell("list", "--view", "map", "--where", "label=user")) == [3]
    (view,) = shell("views", "list")["views"]
    assert (view["name"], view["sort"], view["filters"], view["gone"]) == ("map", "index", 1, "")
    assert shell("lists", "delete", "places")["views"] == ["map"]
    live = [i for i in range(64) if i % 8 != 7]
    assert indices(shell("list", "--view", "map", "--limit", "99")) == live
    (view,) = shell("views", "list")["views"]
    assert (view["filters"], view["gone"]) == (0, "places")
    assert shell("views", "delete", "map")["name"] == "map"
    assert "There is no view" in shell("list", "--view", "map", status=1)["message"]


def test_lists_from_the_command_line(shell: Shell) -> None:
    shell("lists", "create", "places", "--description", "of the map")
    assert shell("lists", "add", "places", "last", "3", "5", "3")["count"] == 2
    shell("lists", "note", "places", "last", "5", "the coldest")
    held = shell("lists", "show", "places")["features"]
    assert [(row["feature"], row["label"], row["note"]) for row in held] == [
        (3, "winter", ""),
        (5, None, "the coldest"),
    ]
    assert indices(shell("list", "--where", "list=places")) == [3, 5]
    assert "does not exist" in shell("lists", "add", "places", "last", "99", status=1)["message"]
    shell("lists", "rename", "places", "spots")
    assert shell("lists", "remove", "spots", "last", "3")["count"] == 1
    assert (
        "not in the list" in shell("lists", "note", "spots", "last", "3", "x", status=1)["message"]
    )
    assert shell("lists", "list")["lists"][0]["name"] == "spots"
    shell("lists", "delete", "spots")
    assert shell("lists", "list")["lists"] == []
