"""Previews, dose-response and claims as jobs on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mistudio.core.errors import InvalidInput
from mistudio.core.steering_study_configs import ClaimConfig, DoseConfig, PreviewConfig
from mistudio.jobs import claim_report, feature_pages, lookup, steer_studies
from mistudio.jobs.runner import Studio
from mistudio.jobs.steer_claims import label_words
from mistudio.store import feature_marks
from mistudio.store.features import FeatureFilter
from tests.helpers.studio import run


def _strongest(studio: Studio) -> int:
    return feature_pages.find(studio, lookup.sae(studio, "last"), FeatureFilter(), sort="max")[
        0
    ].index


def test_a_preview_tells_what_moved(trained: Studio) -> None:
    config = PreviewConfig(feature=(f"{_strongest(trained)}=4",), prompt="Once upon a time")
    found = run(trained, "steer_preview", config)
    assert found["kl"] > 0
    assert len(found["movers"]) == 10
    changes = [abs(m["change"]) for m in found["movers"]]
    assert changes == sorted(changes, reverse=True)
    assert "KL" in steer_studies.preview_lines(found)[0]
    nothing = run(
        trained, "steer_preview", PreviewConfig(feature=("1=0",), prompt="Once", unit="raw")
    )
    assert (nothing["kl"], nothing["movers"]) == (0.0, [])


def test_a_curve_rises_and_a_target_is_found(trained: Studio) -> None:
    feature = (f"{_strongest(trained)}=1",)
    config = DoseConfig(feature=feature, prompt="Once upon a time", text_tokens=24, target="the")
    found = run(trained, "steer_dose", config)
    assert [p["strength"] for p in found["points"]] == pytest.approx(config.factors())
    assert found["points"][-1]["kl"] > found["points"][0]["kl"] > 0
    assert 0 < found["points"][0]["target_probability"] < 1
    aim = DoseConfig(feature=feature, prompt="Once upon a time", text_tokens=24, target_kl=0.05)
    reached = run(trained, "steer_dose", aim)
    assert reached["within"]
    again = DoseConfig(
        feature=feature,
        prompt="Once upon a time",
        text_tokens=24,
        strengths=str(reached["factor"]),
    )
    point = run(trained, "steer_dose", again)["points"][0]
    assert point["kl"] == pytest.approx(0.05, rel=0.2)
    assert len(steer_studies.dose_lines(reached)) == 18


def test_strengths_are_a_range_or_a_list() -> None:
    base = {"feature": ("1=1",), "prompt": "x"}
    assert DoseConfig(**base, strengths="1-4").factors()[-1] == pytest.approx(4)
    assert DoseConfig(**base, strengths="0.5,-1").factors() == [0.5, -1.0]
    for wrong in ("4-1", "a", ""):
        with pytest.raises(InvalidInput):
            DoseConfig(**base, strengths=wrong).factors()


def test_claims_are_counted_and_written(trained: Studio, tmp_path: Path) -> None:
    sae = lookup.sae(trained, "last")
    feature_marks.set_label(trained.db(), sae.id, _strongest(trained), 'token: "the", "was"')
    path = tmp_path / "claims.md"
    number = _strongest(trained)
    config = ClaimConfig(
        features=f"{number},3",
        controls=4,
        text_tokens=24,
        strengths=8,
        max_tokens=8,
        output=str(path),
        target_kl=0.05,
    )
    found = run(trained, "steer_claims", config)
    assert found["counts"]["features"] == 2
    first = found["features"][0]
    assert (first["words"], first["feature"]) == (["the", "was"], number)
    assert first["standings"]["probability"]["controls"] <= 4
    assert not first["holds"]["probability"], "with fewer than 19 controls nothing is selective"
    assert first["means"]["ratio"] == pytest.approx(first["steered"]["ratio"], rel=1e-3)
    json.dumps(found)
    assert first["steered"]["text"].split("\n")[0] in path.read_text(encoding="utf-8")
    assert any(str(number) in line for line in claim_report.lines(found)[4:])


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ('"cat", "dog"', ["cat", "dog"]),
        ('after "per", "␣␣"', ["per", "  "]),
        ("about Duke, Henry, king", ["Duke", "Henry", "king"]),
        ("promotes years", ["years"]),
        ("", []),
    ],
)
def test_words_of_a_label(label: str, words: list[str]) -> None:
    assert label_words(label) == words
