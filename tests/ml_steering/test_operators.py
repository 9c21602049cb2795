"""What edits add, formula by formula and bit for bit, and what is refused."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from mistudio.core.errors import InvalidInput, Mismatch, StudioError
from mistudio.core.steering_positions import Positions, parse_positions
from mistudio.core.steering_spec import Condition, Direction, Edit, Feature, Source, Spec
from mistudio.ml.hooks import Place as ModelPlace
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.steering.delta import change
from mistudio.ml.steering.hook import Pass, SteeringHook
from mistudio.ml.steering.operators import Prepared, prepare
from mistudio.ml.steering.positions import Allowed, ranges_of, special_ids
from mistudio.ml.steering.prompts import Prompt
from mistudio.ml.steering.sources import Library, PlacedSae, Vector
from tests.helpers.tiny import tiny_tokenizer
from tests.ml_steering.conftest import LATENTS, LAYER, WIDTH, library, random_sae

CPU = torch.device("cpu")
LARGEST = {3: 2.5, 4: 8.0}


def edit(source: int | Source, value: float = 0.0, operator: str = "add", **more: Any) -> Edit:
    """An edit of a feature (by number) or of another source."""
    return Edit(Feature(source) if isinstance(source, int) else source, value, operator, **more)


def prepared(spec: Spec, sae: SparseAutoencoder, **known: Any) -> Prepared:
    vectors = known.pop("vectors", {})
    saes = library(sae, largest=LARGEST, **known).saes
    return prepare({"only": spec}, Library(saes, vectors), WIDTH, CPU)


def delta(
    edits: list[Edit],
    sae: SparseAutoencoder,
    x_TD: torch.Tensor,
    *,
    unit: str = "raw",
    **rules: Any,
) -> torch.Tensor:
    """What a specification adds to tokens."""
    known = {name: rules.pop(name) for name in ("vectors", "median_norm") if name in rules}
    ready = prepared(Spec(tuple(edits), unit=unit, **rules), sae, **known)
    return change(ready.sites[0], x_TD, None, torch.zeros(len(x_TD)).long(), {}).delta_TD


def expected_of(operator: str, x: torch.Tensor, own: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    """The formulas, written out for value 1.5 (range 0.2 to 1.5)."""
    unit = d / d.norm()
    along, product = (x @ unit)[:, None], (x @ d)[:, None]
    return {
        "add": 1.5 * d.expand_as(x),
        "clamp": (1.5 - own) * d,
        "scale": 0.5 * own * d,
        "ablate": -own * d,
        "floor": (own.clamp(min=1.5) - own) * d,
        "cap": (own.clamp(max=1.5) - own) * d,
        "set-if-on": torch.where(own > 0, 1.5 - own, 0.0) * d,
        "add-below": torch.where(product < 1.5, 1.5, 0.0) * d,
        "dir-ablate": (1.5 - along) * unit,
        "dir-scale": 0.5 * along * unit,
        "dir-clip": (along.clamp(0.2, 1.5) - along) * unit,
        "subspace": 1.5 * unit - along.relu() * unit,
    }[operator]


SINGLE = (
    "add", "clamp", "scale", "ablate", "floor", "cap", "set-if-on", "add-below",
    "dir-ablate", "dir-scale", "dir-clip", "subspace",
)  # fmt: skip


@pytest.mark.parametrize("architecture", ["topk", "standard"])
@pytest.mark.parametrize("operator", SINGLE)
def test_operators_by_their_formulas(operator: str, architecture: str) -> None:
    sae = random_sae(architecture)
    sae = replace(sae, W_dec_FO=sae.W_dec_FO * 1.7)  # a direction need not have unit length
    x = torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(3))
    own = sae.encode(x)[:, 3:4]
    clip = operator == "dir-clip"
    one = edit(3, 0.2 if clip else 1.5, operator, high=1.5 if clip else None)
    got = delta([one], sae, x)
    expected = expected_of(operator, x, own, sae.W_dec_FO[3])
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert float(got.abs().max()) > 0.1


def test_swap_moves_a_coordinate_to_another_direction(sae: SparseAutoencoder) -> None:
    x, s, t = torch.randn(6, WIDTH), sae.W_dec_FO[3], sae.W_dec_FO[9]
    got = delta([edit(3, 0.0, "swap", target=Feature(9))], sae, x)
    torch.testing.assert_close(got, (x @ s)[:, None] * (t - s))


def test_units(sae: SparseAutoencoder) -> None:
    x, d = torch.randn(4, WIDTH), sae.W_dec_FO
    wide = replace(sae, W_dec_FO=d * 2)
    torch.testing.assert_close(delta([edit(3, 2.0)], sae, x, unit="max")[0], 5.0 * d[3])
    clamped = delta([edit(4, 1.0, "clamp", unit="max")], sae, x)
    torch.testing.assert_close(clamped, (8.0 - sae.encode(x)[:, 4:5]) * d[4])
    share = delta([edit(3, 5.0)], wide, x, unit="percent", median_norm=40.0)
    assert float(share[0].norm()) == pytest.approx(2.0)  # 5 % of 40
    calibrated = delta([edit(3, 0.3, unit="kl", resolved=7.0)], sae, x)
    torch.testing.assert_close(calibrated[0], 7.0 * d[3])
    factor = delta([edit(4, 3.0, "scale")], sae, x, unit="max")  # a factor has no unit
    torch.testing.assert_close(factor, 2 * sae.encode(x)[:, 4:5] * d[4])


def test_vectors_add_and_project(sae: SparseAutoencoder) -> None:
    x, v = torch.randn(5, WIDTH), torch.randn(WIDTH) * 3
    given = {"v": Vector(v, LAYER), "w": Vector(torch.randn(WIDTH), LAYER)}
    added = delta([edit(Direction("v"), -2.0)], sae, x, vectors=given)
    torch.testing.assert_close(added, (-2.0 * v).expand_as(x))
    gone = delta([edit(Direction("v"), 0.0, "dir-ablate")], sae, x, vectors=given)
    torch.testing.assert_close((x + gone) @ v, torch.zeros(5), atol=1e-4, rtol=0)
    both = [edit(Direction(name), 0.0, "dir-ablate") for name in "vw"]
    left = x + delta(both, sae, x, vectors=given)
    for vector in given.values():
        torch.testing.assert_close(left @ vector.direction_D, torch.zeros(5), atol=1e-4, rtol=0)


def test_directions_that_are_not_orthogonal_get_their_own_coordinates(
    sae: SparseAutoencoder,
) -> None:
    x = torch.randn(6, WIDTH)
    edits = [edit(1, 2.0, "dir-scale"), edit(5, 3.0, "dir-ablate"), edit(8, 1.0, "add")]
    D = torch.stack([sae.W_dec_FO[1], sae.W_dec_FO[5]], 1)
    z = torch.linalg.inv(D.T @ D) @ D.T @ x.T
    moved = torch.stack([2 * z[0], torch.full_like(z[1], 3.0)])
    expected = (D @ (moved - z)).T + sae.W_dec_FO[8]
    torch.testing.assert_close(delta(edits, sae, x), expected, rtol=1e-4, atol=1e-4)


def test_directions_almost_the_same_are_refused(sae: SparseAutoencoder) -> None:
    v = torch.randn(WIDTH)
    given = {"v": Vector(v, LAYER), "w": Vector(v + 1e-4 * torch.randn(WIDTH), LAYER)}
    both = [edit(Direction(name), 0.0, "dir-ablate") for name in "vw"]
    with pytest.raises(InvalidInput, match="almost the same"):
        delta(both, sae, torch.randn(2, WIDTH), vectors=given)


NEUTRAL = [
    edit(3, 0.0, "add"),
    edit(3, 1.0, "scale"),
    edit(3, 1.0, "dir-scale"),
    edit(3, 0.0, "add-below"),
    edit(3, -1e6, "floor"),
    edit(3, 1e6, "cap"),
    edit(3, -1e6, "dir-clip", high=1e6),
]


@pytest.mark.parametrize("norm", ["", "keep", "cap"])
@pytest.mark.parametrize("one", NEUTRAL, ids=lambda e: e.operator)
def test_identities_add_exactly_nothing(sae: SparseAutoencoder, one: Edit, norm: str) -> None:
    x = torch.randn(30, WIDTH)
    others = [edit(11, 0.0), one]
    assert delta(others, sae, x, norm=norm).abs().max() == 0


def test_clamp_to_its_own_value_changes_nothing(sae: SparseAutoencoder) -> None:
    x = torch.randn(1, WIDTH)
    own = float(sae.encode(x)[0].max())
    feature = int(sae.encode(x)[0].argmax())
    assert delta([edit(feature, own, "clamp")], sae, x).abs().max() == 0


def test_ablate_is_clamp_to_0_is_multiply_by_0(sae: SparseAutoencoder) -> None:
    x = torch.randn(30, WIDTH)
    ways = [("ablate", 0.0), ("clamp", 0.0), ("scale", 0.0), ("cap", 0.0)]
    found = [delta([edit(4, value, name)], sae, x) for name, value in ways]
    assert float(found[0].abs().max()) > 0
    assert all(torch.equal(found[0], other) for other in found)


def test_order_of_edits_changes_no_bit(sae: SparseAutoencoder) -> None:
    x = torch.randn(5, WIDTH)
    v = {"v": Vector(torch.randn(WIDTH), LAYER)}
    edits = [
        edit(9, 0.1),
        edit(1, 1e4, "clamp"),
        edit(30, -7.7, "dir-scale"),
        edit(2, 3.3, "dir-ablate"),
        edit(Direction("v"), 0.7),
    ]
    outcomes = [delta(list(p), sae, x, vectors=v) for p in itertools.permutations(edits)]
    assert all(torch.equal(outcomes[0], other) for other in outcomes)


def test_activations_come_from_before_any_edit() -> None:
    sae = random_sae("standard")
    x = torch.randn(4, WIDTH)
    edits = [edit(1, 50.0), edit(2, 3.0, "clamp"), edit(5, 2.0, "dir-scale")]
    apart = sum(delta([one], sae, x) for one in edits)
    torch.testing.assert_close(delta(edits, sae, x), apart)


def test_norm_rules(sae: SparseAutoencoder) -> None:
    x = torch.randn(8, WIDTH)
    plain = delta([edit(3, 9.0)], sae, x)
    kept = delta([edit(3, 9.0)], sae, x, norm="keep")
    torch.testing.assert_close((x + kept).norm(dim=1), x.norm(dim=1))
    direction = torch.nn.functional.cosine_similarity(x + kept, x + plain)
    torch.testing.assert_close(direction, torch.ones(8))
    capped = delta([edit(3, 9.0)], sae, x, norm="cap", cap=0.5)
    torch.testing.assert_close(capped.norm(dim=1), 0.5 * x.norm(dim=1))
    assert torch.equal(delta([edit(3, 9.0)], sae, x, norm="cap", cap=50.0), plain)


def test_a_reconstruction_drops_the_error(sae: SparseAutoencoder) -> None:
    x = torch.randn(6, WIDTH)
    f = sae.encode(x)
    f[:, 4] = 2.0
    got = x + delta([edit(4, 2.0, "clamp")], sae, x, replace=("",))
    torch.testing.assert_close(got, sae.decode(f), rtol=1e-4, atol=1e-4)


def test_a_condition_holds_where_its_feature_is_above(sae: SparseAutoencoder) -> None:
    x = torch.randn(60, WIDTH)
    own = sae.encode(x)[:, 7]
    holds = own > 0.4
    one = edit(3, 2.0, condition=Condition(Feature(7), 0.4))
    got = delta([one], sae, x)
    assert 0 < int(holds.sum()) < 60
    assert torch.equal(got.abs().sum(1) > 0, holds)
    scaled = edit(3, 2.0, condition=Condition(Feature(4), 0.1, "max"))
    assert torch.equal(delta([scaled], sae, x).abs().sum(1) > 0, sae.encode(x)[:, 4] > 0.8)


def test_a_condition_of_a_later_place_is_refused(sae: SparseAutoencoder) -> None:
    saes = {"": PlacedSae(sae, 1, "resid_post"), "late": PlacedSae(sae, 2, "resid_post")}
    one = edit(3, 2.0, unit="raw", condition=Condition(Feature(7, "late"), 0.4))
    with pytest.raises(InvalidInput, match="read there or before"):
        prepare({"only": Spec((one,))}, Library(saes), WIDTH, CPU)


def test_what_cannot_be_is_a_sentence(sae: SparseAutoencoder) -> None:
    x = torch.randn(1, WIDTH)
    for edits, sentence in (
        ([edit(LATENTS, 1.0)], f"0 to {LATENTS - 1}"),
        ([edit(1, 1.0), edit(1, 2.0, "clamp")], "named twice"),
        ([edit(5, 1.0, unit="max")], "raw unit"),
        ([edit(5, 1.0, unit="percent")], "median norm"),
        ([edit(5, 1.0, unit="kl")], "must be calibrated"),
        ([edit(Direction("v"), 1.0, "clamp")], "has no activation"),
        ([edit(Direction("v"), 1.0)], "There is no vector 'v'"),
        ([edit(Feature(1, "other"), 1.0)], "not at hand"),
        ([edit(1, 1.0, "dir-clip")], "low and a high"),
        ([edit(1, 1.0, "swap")], "second source"),
    ):
        with pytest.raises(InvalidInput, match=sentence):
            delta(edits, sae, x)
    with pytest.raises(Mismatch, match="64 wide"):
        prepare({"only": Spec((edit(1, 1.0, unit="raw"),))}, library(sae), 64, CPU)


class _Block(nn.Module):
    """Returns its input alone, or in a tuple with something else."""

    def __init__(self, *, as_tuple: bool) -> None:
        super().__init__()
        self.as_tuple = as_tuple

    def forward(self, x: torch.Tensor) -> object:
        return (x, "cache") if self.as_tuple else x


def hook_of(block: nn.Module, value: float, sae: SparseAutoencoder, limit: float) -> SteeringHook:
    site = prepared(Spec((edit(3, value),), unit="raw"), sae).sites[0]
    site.norm_limit = limit
    return SteeringHook(ModelPlace("block", block, False), site)


def announced(allowed_BS: torch.Tensor, *, sinks: bool = False) -> Pass:
    rows = len(allowed_BS)
    return Pass(allowed_BS, torch.zeros(rows).long(), torch.full((rows,), sinks))


@pytest.mark.parametrize("as_tuple", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_hook_edits_allowed_tokens_only(
    sae: SparseAutoencoder, as_tuple: bool, dtype: torch.dtype
) -> None:
    block, x = _Block(as_tuple=as_tuple), torch.randn(2, 3, WIDTH).to(dtype)
    x[1, 2] *= 1000  # an attention sink
    may = torch.tensor([[False] * 3, [True, False, True]])
    before = x.clone()
    with hook_of(block, 4.0, sae, 100.0) as hook:
        hook.expect(announced(may))
        output = block(x)
        hook.confirm()
        acted, ratio = hook.acted_BS, hook.ratio_BS
        hook.expect(announced(may, sinks=True))
        block(x)
        with_sinks = hook.acted_BS
    assert isinstance(output, tuple) == as_tuple
    edited = output[0] if as_tuple else output
    assert edited.dtype == dtype
    assert torch.equal(x, before)
    changed = (edited != x).any(-1)
    assert changed.tolist() == [[False] * 3, [True, False, False]]
    expected = x[1, 0] + (4.0 * sae.W_dec_FO[3]).to(dtype)
    torch.testing.assert_close(edited[1, 0], expected)
    assert acted is not None
    assert acted.tolist() == changed.tolist()
    assert ratio is not None
    assert float(ratio[1, 0]) == pytest.approx(4.0 / float(x[1, 0].float().norm()), 1e-5)
    assert with_sinks is not None
    assert with_sinks.tolist() == may.tolist()
    assert not block._forward_hooks


def test_zero_strength_returns_the_very_tensor(sae: SparseAutoencoder) -> None:
    block, x = _Block(as_tuple=False), torch.full((1, 2, WIDTH), -0.0)
    with hook_of(block, 0.0, sae, math.inf) as hook:
        hook.expect(announced(torch.ones(1, 2, dtype=torch.bool)))
        assert block(x) is x
        hook.confirm()
    assert hook.acted_BS is not None
    assert not hook.acted_BS.any()


def test_a_hook_that_does_not_fire_is_an_error(sae: SparseAutoencoder) -> None:
    block = _Block(as_tuple=False)
    with hook_of(block, 1.0, sae, math.inf) as hook:
        hook.expect(announced(torch.ones(1, 2, dtype=torch.bool)))
        with pytest.raises(StudioError, match="0 times in 1 passes"):
            hook.confirm()
        with pytest.raises(StudioError, match="were expected"):
            block(torch.zeros(1, 5, WIDTH))
    assert not block._forward_hooks


def test_positions_are_absolute() -> None:
    prompt = Prompt((0, 5, 6))
    assert ranges_of(parse_positions("last"), prompt) == ((2, 3),)
    assert ranges_of(parse_positions("first:2"), prompt) == ((0, 2),)
    assert ranges_of(parse_positions("1,4-"), prompt) == ((1, 2), (4, None))
    ids = torch.tensor([[9, 0, 5, 6], [7, 0, 9, 9]])
    places = torch.arange(4).expand(2, 4) - torch.tensor([[1], [0]])  # row 0 is padded
    ranges = [ranges_of(parse_positions(rule), prompt) for rule in ("prompt", "generated")]
    plain = Allowed(ranges, [False, False], frozenset({0}), CPU)(ids, places)
    assert plain.tolist() == [[False, False, True, True], [False, False, False, True]]
    every = Allowed([((0, None),)] * 2, [True, False], frozenset({0}), CPU)(ids, places)
    assert every.tolist() == [[False, True, True, True], [True, False, True, True]]
    assert special_ids(tiny_tokenizer()) == {0, 1}


def test_a_text_that_is_not_in_the_prompt_is_a_sentence() -> None:
    prompt = Prompt((3, 4), "so it", ((0, 2), (2, 5)))
    assert ranges_of(parse_positions("text:it"), prompt) == ((1, 2),)
    assert ranges_of(parse_positions("regex:s|i"), prompt) == ((0, 2),)
    for rule in ("text:never", "role:user"):
        with pytest.raises(InvalidInput, match=r"not occur|Nobody speaks"):
            ranges_of(parse_positions(rule), prompt)
    assert Positions("role", role="assistant").problems() == []
