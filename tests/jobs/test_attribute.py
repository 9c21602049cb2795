"""Attribution of a next token as a job and a command."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mistudio.cli import main
from mistudio.core.analysis_configs import AttributeConfig
from mistudio.core.errors import StudioError, Unsupported
from mistudio.jobs.runner import Studio
from mistudio.ml.features import attribution
from tests.helpers.studio import run

TEXT = "Once upon a time there was a fox."


def test_the_job_tells_every_value_and_how_well_they_agree(trained: Studio) -> None:
    found = run(trained, "attribute", AttributeConfig(text=TEXT, limit=1000, check_on=1000))
    assert found["position"] == found["tokens"] - 1
    assert found["likeliest"][0] == [found["token"], pytest.approx(found["probability"])]
    lines = found["features"]
    assert len(lines) == found["fired"] > 5
    sizes = [abs(line["first_order"]) for line in lines]
    assert sizes == sorted(sizes, reverse=True)
    assert all(line["exact"] is not None for line in lines)
    assert found["checked"] == len(lines)
    here = [line for line in lines if line["here"] is not None]
    assert 0 < len(here) < len(lines)
    assert all((line["direct"] is None) == (line["here"] is None) for line in lines)
    r = attribution.agreement(
        *(attribution.np.array([line[name] for line in lines]) for name in ("first_order", "exact"))
    )
    assert found["r"] == pytest.approx(r)
    other = run(trained, "attribute", AttributeConfig(text=TEXT, token="fox", position=3))
    assert (other["position"], other["token"]) == (3, other["token"])
    assert other["probability"] < found["probability"]


def test_without_a_backward_pass_the_rest_is_told(
    trained: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise Unsupported("No backward pass.")

    monkeypatch.setattr(attribution, "hook_gradient", refuse)
    found = run(trained, "attribute", AttributeConfig(text=TEXT, check_on=3))
    assert found["no_first_order"] == "No backward pass."
    assert found["r"] is None
    assert found["features"][0]["first_order"] is None
    direct = [abs(line["direct"] or 0) for line in found["features"]]
    assert direct == sorted(direct, reverse=True)
    assert direct[0] > 0


def test_a_position_that_does_not_exist_is_a_sentence(trained: Studio) -> None:
    with pytest.raises(StudioError, match="There is no token 500"):
        run(trained, "attribute", AttributeConfig(text=TEXT, position=500))


def test_the_command(trained: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--home", str(trained.paths.home), "features", "attribute", TEXT, "--check-on", "4"]
    assert main([*words, "--json"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["checked"] == 4
    assert main(words) == 0
    assert "direct path only" in capsys.readouterr().out
