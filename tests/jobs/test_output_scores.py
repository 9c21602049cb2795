"""What steering shows of a label is kept beside its other scores, and told."""

from __future__ import annotations

import pytest

from mistudio.core.label_methods import lines, output_cell, output_lines, score_lines
from mistudio.core.steering_study_configs import ClaimConfig
from mistudio.jobs import lookup
from mistudio.jobs.runner import Studio
from mistudio.store import feature_marks, labels
from tests.helpers.studio import run


def test_the_test_of_a_label_is_kept_with_it(trained: Studio) -> None:
    db, sae = trained.db(), lookup.sae(trained, "last")
    store_counts = db.execute(
        "SELECT feature_index FROM feature_statistics WHERE count > 20 ORDER BY count DESC"
    ).fetchall()
    feature, other = store_counts[0][0], store_counts[1][0]
    feature_marks.set_label(db, sae.id, feature, '"the", "a"', "user")
    feature_marks.set_label(db, sae.id, other, "about zzzzqq", "user")
    config = ClaimConfig(
        features=f"{feature},{other}",
        controls=3,
        control_texts=False,
        means=False,
        max_tokens=8,
        text_tokens=16,
        strengths=6,
        target_kl=0.05,
    )
    found = run(trained, "steer_claims", config)
    entry = found["features"][0]
    kept = next(one for one in labels.labels_of(db, sae.id, feature) if one.chosen)
    output = kept.scores["output"]
    assert output["outcome"] == entry["outcome"]
    if "standings" in entry:
        assert output["before"] == pytest.approx(entry["baseline"]["probability"])
        assert output["after"] == pytest.approx(entry["steered"]["probability"])
        assert (output["p"], output["controls"]) == (entry["standings"]["probability"]["p"], 3)
    nothing = next(one for one in labels.labels_of(db, sae.id, other) if one.chosen)
    assert nothing.scores["output"]["outcome"] == "the label names no token"
    # a label that was written since was not tested
    feature_marks.set_label(db, sae.id, feature, "another", "user")
    assert not labels.set_output(db, sae.id, feature, '"the", "a"', {"outcome": "yes"})
    fresh = next(one for one in labels.labels_of(db, sae.id, feature) if one.chosen)
    assert "output" not in fresh.scores


def test_it_is_told_in_words() -> None:
    output = {
        "outcome": "yes",
        "tokens": 6,
        "before": 0.001,
        "after": 0.004,
        "p": 0.05,
        "controls": 19,
        "kl": 0.501,
    }
    assert output_cell({"output": output}) == "rises × 4, p 0.05"
    assert output_cell({"output": {**output, "after": 0.0005}}) == "falls × 0.5, p 0.05"
    assert output_cell({}) == "—"
    assert output_cell({"output": {"outcome": "the target KL is not reached"}}) == (
        "the target KL is not reached"
    )
    told = output_lines({"output": output})[0]
    assert "goes from 0.001 to 0.004" in told
    assert "p 0.05 against 19" in told
    both = score_lines("token", {"positives": 50, "negatives": 60, "output": output}, 0.9, 110)
    assert both[-1] == told
    assert score_lines("", {"output": output}, None, None)[-1] == told
    one = {"source": "user", "method": None, "model": None, "score": None, "score_n": None}
    line = lines([{**one, "text": "x", "chosen": True, "scores": {"output": output}}])[1]
    assert line.endswith("; steering: rises × 4, p 0.05)")
