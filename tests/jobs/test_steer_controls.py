"""A kept run is tested against random features, and the result stays with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mistudio.core.configs import SteerConfig
from mistudio.core.control import JobControl
from mistudio.core.errors import Cancelled, InvalidInput, NotFound
from mistudio.core.events import RecordingReporter
from mistudio.core.steering_controls import control_rows, controls_summary, headline, verdict
from mistudio.core.steering_shown import read_run
from mistudio.core.steering_study_configs import ControlsConfig
from mistudio.jobs import feature_pages, lookup, steering_controls_report, steering_report
from mistudio.jobs.runner import Studio
from mistudio.store import feature_marks
from mistudio.store.features import FeatureFilter
from mistudio.store.tables import JOBS, STEERING_RUNS
from tests.helpers.studio import run


def _feature(studio: Studio) -> int:
    sae = lookup.sae(studio, "last")
    found = feature_pages.find(studio, sae, FeatureFilter(), sort="max")[0].index
    feature_marks.set_label(studio.db(), sae.id, found, 'token: "the", "was"')
    return found


def _steered(studio: Studio, *edits: str, **values: Any) -> str:
    config = SteerConfig(
        feature=edits, prompt="Once upon a time", max_tokens=8, temperature=0.0, **values
    )
    return str(run(studio, "steer", config)["run"])


def test_a_run_is_tested_and_keeps_what_was_found(trained: Studio, tmp_path: Path) -> None:
    own = _feature(trained)
    kept = _steered(
        trained,
        f"{own}=2:add",
        mode="operators",
        alternative=(f"{own}=1:clamp",),
        positions="first:6",
    )
    found = run(trained, "steer_controls", ControlsConfig(run=kept, max_tokens=8))
    assert (found["run"], found["variant"]) == (kept, f"{own}=2.0:add")
    assert (found["words"], found["words_from"]) == (["the", "was"], "label")
    chance = found["measures"]["probability"]
    assert len(chance["random"]) == chance["controls"] == found["controls"]
    assert all(own not in _indices(pair) for pair in found["features"])
    low, high = found["random_ratio"]
    assert low == pytest.approx(found["ratio"], rel=1e-3)
    assert high == pytest.approx(found["ratio"], rel=1e-3)
    assert found["means_ratio"] == pytest.approx(found["ratio"], rel=1e-3)
    assert found["texts"]["prompted"]["text"]
    second = run(
        trained,
        "steer_controls",
        ControlsConfig(run=kept, variant=f"{own}=1.0:clamp", words="and", max_tokens=8),
    )
    assert second["words_from"] == "given"
    row = STEERING_RUNS.get(trained.db(), kept)
    assert set((row.metrics or {})["controls"]) == {f"{own}=2.0:add", f"{own}=1.0:clamp"}
    assert (row.metrics or {})["kl"] > 0, "what was there before stays"
    (shown,) = read_run(row.prompt, row.outputs, row.metrics)
    assert shown.baseline is not None
    assert not shown.baseline.controls
    assert [v.controls["title"] for v in shown.steered] == [f"#{own} +2 × max", f"#{own} = 1 × max"]
    assert all("controls" not in v.metrics for v in shown.steered)
    for ending in ("json", "md", "html"):
        text = steering_report.write([row], tmp_path / f"r.{ending}").read_text("utf-8")
        assert "Probability of the words" in text or ending == "json"
        assert "random" in text
    told = json.loads((tmp_path / "r.json").read_text("utf-8"))["runs"][0]["metrics"]["controls"]
    assert told[f"{own}=2.0:add"]["measures"]["probability"] == chance
    table = steering_controls_report.lines(found)
    assert any(line.startswith("Probability of the words") for line in table)


def _indices(pair: list[str]) -> list[int]:
    return [int(name.rpartition("#")[2]) for name in pair]


def test_what_cannot_be_tested_is_refused_at_once(trained: Studio) -> None:
    with pytest.raises(NotFound, match="no steering run yet"):
        trained.submit("steer_controls", ControlsConfig())
    own = _feature(trained)
    kept = _steered(trained, f"{own}=2:add")
    with pytest.raises(NotFound, match="no variant 'x'"):
        trained.submit("steer_controls", ControlsConfig(variant="x"))
    with pytest.raises(InvalidInput, match="must lie between 19"):
        trained.submit("steer_controls", ControlsConfig(controls=18))
    STEERING_RUNS.update(trained.db(), kept, outputs={"baseline": "a", "steered": "b"})
    with pytest.raises(InvalidInput, match="earlier version"):
        trained.submit("steer_controls", ControlsConfig(run=kept))
    _steered(trained, f"{own}=0:add")
    with pytest.raises(InvalidInput, match="changes nothing"):
        trained.submit("steer_controls", ControlsConfig())
    STEERING_RUNS.update(trained.db(), kept, sae_id=None)
    with pytest.raises(NotFound, match="SAE of this run was deleted"):
        trained.submit("steer_controls", ControlsConfig(run=kept))


def test_a_cancelled_test_keeps_nothing(trained: Studio) -> None:
    kept = _steered(trained, f"{_feature(trained)}=2:add")
    control = JobControl()

    class Impatient(RecordingReporter):
        def progress(self, fraction: float, phase: str, **more: Any) -> None:
            if phase == "measuring the controls":
                control.cancel()
            super().progress(fraction, phase, **more)

    with pytest.raises(Cancelled):
        trained.run_now("steer_controls", ControlsConfig(run=kept), Impatient(), control)
    assert "controls" not in (STEERING_RUNS.get(trained.db(), kept).metrics or {})
    assert JOBS.select(trained.db(), limit=1)[0].status == "cancelled"


def _measure(p: float | None, controls: int, **values: Any) -> dict[str, Any]:
    plain = {"baseline": 0.1, "steered": 0.5, "means": None, "prompted": 0.2, "random": [0.1, 0.3]}
    told = {"lowers": False, "moves": True, "selective": p is not None and p <= 0.05}
    return {**plain, **told, "p": p, "controls": controls, **values}


def test_selective_is_said_only_where_p_allows_it() -> None:
    assert verdict(_measure(0.05, 19)) == "selective"
    assert verdict(_measure(0.1, 19)) == "not selective"
    assert verdict(_measure(0.5, 1)) == "too few controls"
    assert verdict(_measure(0.9, 19, moves=False)) == "not moved as meant"
    assert verdict(_measure(None, 0)) == "—"
    found = {
        "controls": 19,
        "words": ["sea"],
        "measures": {"probability": _measure(0.05, 19), "share": _measure(None, 0)},
    }
    assert (
        headline(found) == "Selective beside 19 random features: probability of the words (p 0.05)."
    )
    assert control_rows(found) == [
        (
            "Probability of the words",
            "0.1",
            "0.5",
            "0.2 (0.1 to 0.3)",
            "0.05",
            "selective",
            "—",
            "0.2",
        )
    ]
    found["measures"]["probability"] = _measure(0.1, 19)
    assert headline(found).startswith("Not selective")
    found |= {"controls": 3, "problems": ["Only 3."]}
    assert controls_summary(found)[0].startswith("Nothing can be called selective: 3 controls")
    assert controls_summary(found)[-1] == "Only 3."
