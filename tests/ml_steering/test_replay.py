"""A text read again behind a hook, against passes of the whole steered model, row by row."""

from __future__ import annotations

import pytest
import torch

from mistudio.core.steering_positions import Positions
from mistudio.core.steering_spec import Direction, Edit, Feature, Spec
from mistudio.ml.loading import LoadedModel
from mistudio.ml.steering.forward import FedRow, Stepper
from mistudio.ml.steering.prompts import Prompt
from mistudio.ml.steering.replay import Replay
from mistudio.ml.steering.sources import Library, PlacedSae, Vector
from mistudio.ml.steering.steered_model import SteeredModel
from tests.ml_steering.conftest import LAYER, WIDTH, random_sae

PROMPT, FOLLOWING = Prompt((5, 6, 7, 8, 9)), (20, 21, 22, 23)
LIBRARY = Library(
    {"": PlacedSae(random_sae(), LAYER, "resid_post", largest={3: 4.0, 8: 2.0})},
    {
        "mlp": Vector(torch.arange(WIDTH) % 3 - 1.0, 2, "mlp_out"),
        "early": Vector(torch.linspace(-1, 1, WIDTH), 0, "attn_out"),
        "late": Vector(torch.linspace(1, -1, WIDTH), 2, "resid_post"),
    },
)


def add(value: float, feature: int = 3, rule: str = "all") -> Spec:
    return Spec((Edit(Feature(feature), value),), Positions(rule))


VARIANTS = {
    "weak": add(0.3),
    "strong": add(2.0),
    "clamp": Spec((Edit(Feature(8), 1.0, "clamp"),)),
    "generated": add(2.0, rule="generated"),
    "two places": Spec((Edit(Feature(3), 1.0), Edit(Direction("late"), 2.0, unit="raw"))),
    "inside": Spec((Edit(Direction("mlp"), 1.0, unit="raw"),)),
    "neutral": add(0.0),
    "empty": Spec(),
}


def whole_pass(loaded: LoadedModel, spec: Spec) -> torch.Tensor:
    with SteeredModel(loaded, {"one": spec}, LIBRARY) as model:
        stepper = Stepper(model, [FedRow(PROMPT, "one")], cached=False)
        ids_1S = torch.tensor([[*PROMPT.ids, *FOLLOWING]])
        return stepper(ids_1S, all_logits=True)[0]


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


def test_every_variant_is_as_in_a_pass_of_its_own(loaded: LoadedModel) -> None:
    replay = Replay(loaded, PROMPT, FOLLOWING)
    base_SV = whole_pass(loaded, Spec())
    found = dict(replay.read(VARIANTS, LIBRARY))
    assert list(found) == list(VARIANTS)
    for name, told in found.items():
        expected_SV = whole_pass(loaded, VARIANTS[name])
        assert close(told.base_TV, base_SV), name
        assert close(told.logits_TV, expected_SV), name
        if name not in ("neutral", "empty"):
            assert not close(told.logits_TV, base_SV), name


def test_last_tokens_only_and_a_later_beginning(loaded: LoadedModel) -> None:
    replay = Replay(loaded, PROMPT, FOLLOWING)
    variants = {"generated": VARIANTS["generated"], "late": add(-1.0, rule="generated")}
    for name, told in replay.read(variants, LIBRARY, last=1):
        assert told.logits_TV.shape == told.base_TV.shape == (1, told.logits_TV.shape[1])
        assert close(told.logits_TV, whole_pass(loaded, variants[name])[-1:])
        assert told.acted == len(FOLLOWING)
    for name, told in replay.read(variants, LIBRARY, last=6):  # begins before what is steered
        assert close(told.logits_TV, whole_pass(loaded, variants[name])[-6:])


def test_a_place_in_the_first_block_needs_whole_passes(llama: LoadedModel) -> None:
    spec = Spec((Edit(Direction("early"), 3.0, unit="raw"),))
    told = dict(Replay(llama, PROMPT, FOLLOWING).read({"early": spec}, LIBRARY))["early"]
    assert close(told.logits_TV, whole_pass(llama, spec))
    assert told.delta_norm == pytest.approx(3 * float(LIBRARY.vectors["early"].direction_D.norm()))


def test_nothing_changed_is_the_baseline_bit_for_bit(llama: LoadedModel) -> None:
    for told in dict(Replay(llama, PROMPT).read({"0": add(0.0), "": Spec()}, LIBRARY)).values():
        assert torch.equal(told.logits_TV, told.base_TV)
        assert told.delta_norm is None
        assert not told.acted


def test_the_size_of_the_change_is_measured(llama: LoadedModel) -> None:
    told = dict(Replay(llama, PROMPT).read({"a": add(0.5)}, LIBRARY))["a"]
    assert told.delta_norm == pytest.approx(0.5 * 4.0, rel=1e-4)  # unit decoder rows
    assert told.acted == len(PROMPT.ids)


def test_no_hook_is_left(llama: LoadedModel) -> None:
    counts = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in llama.model.modules()]
    reading = Replay(llama, PROMPT).read(VARIANTS, LIBRARY)
    next(reading)  # and none between variants either
    after = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in llama.model.modules()]
    assert counts == after
