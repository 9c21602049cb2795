"""Own text as a job and a command."""

from __future__ import annotations

import json

import pytest

from mistudio.cli import main
from mistudio.core.analysis_configs import AttributeConfig, OwnTextConfig
from mistudio.core.errors import StudioError
from mistudio.jobs.runner import Studio
from tests.helpers.studio import run

TEXT = "Once upon a time there was a fox."


def test_the_job_tells_pieces_tokens_and_features(trained: Studio) -> None:
    whole = run(trained, "own_text", OwnTextConfig(text=TEXT, limit=1000))
    assert "".join(piece["text"] for piece in whole["pieces"]) == TEXT
    assert whole["pieces"][0]["masked"]
    assert whole["largest"] is None
    first = whole["features"][0]
    assert [f["max"] for f in whole["features"]] == sorted(
        (f["max"] for f in whole["features"]), reverse=True
    )
    assert len(whole["features"]) == whole["fired"]
    one = run(trained, "own_text", OwnTextConfig(text=TEXT, feature=first["feature"], limit=2))
    assert one["largest"] == pytest.approx(first["max"])
    assert len(one["features"]) == 2
    values = [piece["value"] for piece in one["pieces"]]
    assert max(values) == one["largest"]
    assert one["pieces"][values.index(max(values))]["text"] == first["at"]
    at = one["pieces"][values.index(max(values))]["tokens"][0]
    assert any(line[0] == first["feature"] for line in one["top"]["activation"][at])


def test_direct_effects_of_one_feature_and_of_every(trained: Studio) -> None:
    plain = run(trained, "own_text", OwnTextConfig(text=TEXT, limit=1000, effects="none"))
    assert "loss" not in plain["top"]
    assert not any(piece["effects"] for piece in plain["pieces"])
    most = max(plain["features"], key=lambda line: line["tokens"])["feature"]
    one = run(trained, "own_text", OwnTextConfig(text=TEXT, feature=most))
    every = run(trained, "own_text", OwnTextConfig(text=TEXT, feature=most, effects="every"))
    assert "loss" not in one["top"]
    told = {token: effect for p in one["pieces"] for token, _, effect in p["effects"]}
    assert told
    again = {token: effect for p in every["pieces"] for token, _, effect in p["effects"]}
    assert again == pytest.approx(told, rel=1e-4, abs=1e-6)
    for piece, after in zip(one["pieces"], one["pieces"][1:], strict=False):
        for _, following, _ in piece["effects"]:
            assert following == after["text"]
        assert bool(piece["effects"]) == bool(piece["value"])  # also the last, which none follows
    tops = every["top"]["loss"]
    assert tops[-1] == []
    assert tops[0] == []  # the start token does not count
    for lines in tops[1:-1]:
        sizes = [abs(line[3]) for line in lines]
        assert sizes == sorted(sizes, reverse=True)
    for token, effect in told.items():
        mine = [line[3] for line in tops[token] if line[0] == most]
        assert mine == [] or mine == [pytest.approx(effect, rel=1e-4, abs=1e-6)]
        assert mine or abs(tops[token][-1][3]) >= abs(effect) - 1e-6
    why = run(trained, "attribute", AttributeConfig(text=TEXT, feature=most, check_on=0))
    assert {t: e for p in why["pieces"] for t, _, e in p["effects"]} == pytest.approx(told)
    at_end = run(
        trained, "attribute", AttributeConfig(text=TEXT, position=min(told), token="", check_on=0)
    )
    assert at_end["feature"] == -1
    assert at_end["pieces"][0]["value"] is None


def test_what_cannot_be_read_is_a_sentence(trained: Studio) -> None:
    with pytest.raises(StudioError, match="does not exist"):
        trained.submit("own_text", OwnTextConfig(text=TEXT, feature=64))
    with pytest.raises(StudioError, match="least density is above"):
        trained.submit("own_text", OwnTextConfig(text=TEXT, least_density=0.5, most_density=0.1))


def test_the_command(trained: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--home", str(trained.paths.home), "--json", "features", "test", TEXT]
    assert main([*words, "--limit", "3", "--sort", "sum"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(last["features"]) == 3
    assert last["sort"] == "sum"
