"""Own text as a job and a command."""

from __future__ import annotations

import json

import pytest

from mistudio.cli import main
from mistudio.core.analysis_configs import OwnTextConfig
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
