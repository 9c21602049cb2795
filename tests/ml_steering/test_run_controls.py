"""Controls of a run: the same change along other directions, and what is selective beside them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mistudio.core.control import JobControl
from mistudio.core.steering_positions import Positions
from mistudio.core.steering_spec import Condition, Direction, Edit, Feature, Spec
from mistudio.ml.steering.claims import Setting
from mistudio.ml.steering.run_controls import against_controls, moved, suppresses
from mistudio.ml.steering.sources import Library, Vector
from tests.ml_steering.test_claims import CONCEPT, LAST, PLANTED, PROMPT, setting  # noqa: F401

OWN = Feature(PLANTED)
CHANGES = {
    "add": Edit(OWN, 4.0),
    "clamp": Edit(OWN, 5.0, "clamp"),
    "scale": Edit(OWN, 3.0, "scale"),
    "floor": Edit(OWN, 2.0, "floor"),
    "dir-ablate": Edit(OWN, 0.0, "dir-ablate"),
    "dir-scale": Edit(OWN, 2.0, "dir-scale"),
    "swap": Edit(OWN, 0.0, "swap", target=Feature(30)),
    "add where": Edit(OWN, 4.0, condition=Condition(Feature(12), 0.5)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_goes_along_another_direction_with_its_length(
    name: str,
    setting: Setting,  # noqa: F811
) -> None:
    spec = Spec((CHANGES[name],), Positions("first", count=12), unit="raw")
    means_D = 7 * setting.placed.sae.W_dec_FO[33]
    library = Library({"": setting.placed}, {"m": Vector(means_D, LAST)})
    others = {
        "own": spec,
        "again": moved(spec, {OWN: OWN}),
        "other": moved(spec, {OWN: Feature(21)}),
        "means": moved(spec, {OWN: Direction("m")}),
    }
    told = dict(setting.replay.read(others, library))
    assert told["own"].acted > 0
    for other in ("other", "means"):
        torch.testing.assert_close(told[other].ratio_S, told["own"].ratio_S, rtol=1e-4, atol=1e-6)
        assert not torch.equal(told[other].logits_TV, told["own"].logits_TV)
    if name != "swap":  # of which both sources are written
        torch.testing.assert_close(told["again"].logits_TV, told["own"].logits_TV)


def test_the_change_is_the_other_direction(setting: Setting) -> None:  # noqa: F811
    """Adding along another feature is adding that feature, as all directions have length 1."""
    spec = Spec((CHANGES["add"],), unit="raw")
    plain = Spec((Edit(Feature(21), 4.0),), unit="raw")
    specs = {"along": moved(spec, {OWN: Feature(21)}), "plain": plain}
    told = dict(setting.replay.read(specs, Library({"": setting.placed})))
    torch.testing.assert_close(told["along"].logits_TV, told["plain"].logits_TV)


def test_a_planted_direction_is_selective_and_a_random_one_is_not(
    setting: Setting,  # noqa: F811
) -> None:
    library = Library({"": setting.placed})
    others = list(range(10, 29))
    found = {}
    for feature in (PLANTED, 45):
        spec = Spec((Edit(Feature(feature), 5.0),), unit="raw")
        controls = [{Feature(feature): Feature(n)} for n in others]
        found[feature] = against_controls(
            setting, spec, library, [feature], CONCEPT, controls, JobControl()
        )
    planted = found[PLANTED].measures["probability"]
    assert planted.selective
    assert planted.standing.p == pytest.approx(1 / 20)
    assert len(planted.random) == 19
    assert max(planted.random) < (planted.steered or 0)
    chance = found[45].measures["probability"]
    assert chance.standing.p is not None
    assert not chance.selective
    for shown in found[PLANTED].random:
        assert shown.ratio == pytest.approx(found[PLANTED].steered.ratio, rel=1e-3)


def test_what_is_meant_to_lower_is_tested_from_below(setting: Setting) -> None:  # noqa: F811
    spec = Spec((Edit(OWN, -5.0),), unit="raw")
    controls = [{OWN: Feature(n)} for n in range(10, 29)]
    library = Library({"": setting.placed})
    found = against_controls(setting, spec, library, [PLANTED], CONCEPT, controls, JobControl())
    lowered = found.measures["probability"]
    assert lowered.lowers
    assert lowered.moves
    assert lowered.selective == ((lowered.steered or 1) < min(lowered.random))
    assert not found.measures["kl"].lowers
    without = dataclasses.replace(setting, control_texts=False)
    found = against_controls(without, spec, library, [], (), controls, JobControl())
    for name in ("probability", "share", "reread"):
        assert found.measures[name].standing.p is None
    assert found.measures["kl"].standing.controls == 19


def test_more_controls_than_one_batch_of_texts_give_the_same(
    setting: Setting,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = Spec((Edit(OWN, 4.0),), unit="raw")
    controls = [{OWN: Feature(n)} for n in range(10, 20)]
    library = Library({"": setting.placed})
    told: list[float] = []
    args = (setting, spec, library, [PLANTED], CONCEPT, controls, JobControl())
    whole = against_controls(*args)
    monkeypatch.setattr("mistudio.ml.steering.claims.ROWS", 4)
    parts = against_controls(*args, told=told.append)
    assert [shown.text for shown in parts.random] == [shown.text for shown in whole.random]
    assert told == sorted(told)
    assert len(told) == len(controls) + 1 + 3


@pytest.mark.parametrize(
    ("edits", "lowers"),
    [
        ((Edit(OWN, -1.0),), True),
        ((Edit(OWN, 0.0, "ablate"),), True),
        ((Edit(OWN, 0.5, "scale"),), True),
        ((Edit(OWN, 0.0, "clamp"),), True),
        ((Edit(OWN, 2.0, "clamp"),), False),
        ((Edit(OWN, 2.0, "floor"),), False),
        ((Edit(OWN, -1.0), Edit(Feature(3), 1.0)), False),
    ],
)
def test_which_edits_lower(edits: tuple[Edit, ...], lowers: bool) -> None:
    assert suppresses(edits) == lowers
