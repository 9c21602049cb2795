"""Absorption as a job: what it tells is of the vectors at the hook, is kept, or is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mistudio.core.analysis_configs import AbsorptionConfig
from mistudio.core.config import violations
from mistudio.core.errors import NotFound
from mistudio.jobs import lookup, measure_absorption, sae_library
from mistudio.jobs.runner import Studio
from mistudio.ml.features.absorption_fraction import absorption
from mistudio.ml.steering.read_prompts import read_prompts
from tests.helpers.studio import run

POSITIVE = ("the old king", "my good king", "a young king", "one more king", "was he king")
NEGATIVE = ("the old man", "my good horse", "a young girl", "one more day", "was he there")
CONFIG = AbsorptionConfig(feature=3, positive=POSITIVE, negative=NEGATIVE)


def test_the_job_tells_what_the_vectors_say(trained: Studio) -> None:
    found: dict[str, Any] = run(trained, "absorption", CONFIG)
    row = lookup.sae(trained, "last")
    model = lookup.model_of(trained, row)
    loaded = trained.models.get(model, trained.paths.absolute(model.path))
    read = read_prompts(loaded, row.layer or 0, row.hook_in or "", [*POSITIVE, *NEGATIVE])
    sae = sae_library.read_sae(trained, row)
    wanted = absorption(sae, read.x_ND[:5], read.x_ND[5:], (3,))
    told = [line["fraction"] for line in found["lines"]]
    fractions = wanted.carried.fraction_N
    assert [value is None for value in told] == np.isnan(fractions).tolist()
    assert found["prompts"] == np.isfinite(fractions).sum() > 0
    assert found["fraction"] == pytest.approx(np.nanmean(fractions))
    assert found["auroc"] == wanted.auroc
    low, high = found["interval"]
    assert low <= found["fraction"] <= high
    assert [line["prompt"] for line in found["lines"]] == list(POSITIVE)
    listed = {line["feature"] for line in found["absorbers"]}
    named = {f for line in found["lines"] if line["fraction"] for f in line["absorbers"]}
    assert listed <= named
    assert "Mean absorption fraction" in measure_absorption.lines(found)[0]
    again: dict[str, Any] = run(trained, "absorption", CONFIG)
    assert {**again, "job": found["job"]} == found


def test_what_is_wrong_is_said(trained: Studio) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        run(
            trained,
            "absorption",
            AbsorptionConfig(feature=3, also=("99999",), positive=POSITIVE, negative=NEGATIVE),
        )
    few = AbsorptionConfig(positive=POSITIVE[:2], negative=NEGATIVE)
    assert [one.sentence for one in violations(few)] == ["Each list needs at least 4 prompts."]
    odd = AbsorptionConfig(positive=POSITIVE, negative=(*NEGATIVE, POSITIVE[0]), also=("x",))
    assert [one.field for one in violations(odd)] == ["also", "negative"]
    assert AbsorptionConfig(feature=3, also=("5", "3")).main == (3, 5)
