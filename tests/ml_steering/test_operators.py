"""What edits add, bit for bit, and what the hook refuses."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from mistudio.core.errors import InvalidInput, Mismatch, StudioError
from mistudio.core.steering_spec import Edit
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.steering.hook import SteeringHook
from mistudio.ml.steering.operators import Steering, prepare
from mistudio.ml.steering.positions import allowed, special_ids
from tests.helpers.tiny import tiny_tokenizer
from tests.ml_steering.conftest import LATENTS, WIDTH, random_sae

CPU = torch.device("cpu")


def _steering(edits: list[Edit], sae: SparseAutoencoder, unit: str = "raw") -> Steering:
    return prepare(edits, sae, unit, {3: 2.5, 4: 8.0}, WIDTH, CPU)


def test_add_and_clamp_by_their_formulas(sae: SparseAutoencoder) -> None:
    x = torch.randn(6, WIDTH)
    own = sae.encode(x)
    added = _steering([Edit(3, 2.0)], sae).delta(x)
    torch.testing.assert_close(added, (2.0 * sae.W_dec_FO[3]).expand(6, -1))
    scaled = _steering([Edit(3, 2.0)], sae, "max").delta(x)
    torch.testing.assert_close(scaled, (5.0 * sae.W_dec_FO[3]).expand(6, -1))
    clamped = _steering([Edit(4, 1.0, "clamp")], sae, "max").delta(x)
    torch.testing.assert_close(clamped, (8.0 - own[:, 4:5]) * sae.W_dec_FO[4])
    ablated = _steering([Edit(4, 0.0, "clamp")], sae).delta(x)
    torch.testing.assert_close(ablated, -own[:, 4:5] * sae.W_dec_FO[4])


def test_clamp_to_its_own_value_changes_nothing(sae: SparseAutoencoder) -> None:
    x = torch.randn(1, WIDTH)
    own = float(sae.encode(x)[0].max())
    feature = int(sae.encode(x)[0].argmax())
    assert _steering([Edit(feature, own, "clamp")], sae).delta(x).abs().max() == 0


def test_order_of_edits_changes_no_bit(sae: SparseAutoencoder) -> None:
    x = torch.randn(5, WIDTH)
    edits = [Edit(9, 0.1), Edit(1, 1e4, "clamp"), Edit(30, -7.7), Edit(2, 3.3, "clamp")]
    outcomes = [_steering(list(p), sae).delta(x) for p in itertools.permutations(edits)]
    assert all(torch.equal(outcomes[0], other) for other in outcomes)


def test_activations_come_from_before_any_edit() -> None:
    sae = random_sae("standard")
    x = torch.randn(4, WIDTH)
    edits = [Edit(1, 50.0), Edit(2, 3.0, "clamp")]
    apart = sum(_steering([edit], sae).delta(x) for edit in edits)
    torch.testing.assert_close(_steering(edits, sae).delta(x), apart)


def test_bad_edits_are_sentences(sae: SparseAutoencoder) -> None:
    with pytest.raises(InvalidInput, match=f"0 to {LATENTS - 1}"):
        _steering([Edit(LATENTS, 1.0)], sae)
    with pytest.raises(InvalidInput, match="named twice"):
        _steering([Edit(1, 1.0), Edit(1, 2.0, "clamp")], sae)
    with pytest.raises(InvalidInput, match="raw unit"):
        _steering([Edit(5, 1.0)], sae, "max")
    with pytest.raises(Mismatch, match="64 wide"):
        prepare([Edit(1, 1.0)], sae, "raw", {}, 64, CPU)


class _Block(nn.Module):
    """Returns its input alone, or in a tuple with something else."""

    def __init__(self, *, as_tuple: bool) -> None:
        super().__init__()
        self.as_tuple = as_tuple

    def forward(self, x: torch.Tensor) -> object:
        return (x, "cache") if self.as_tuple else x


@pytest.mark.parametrize("as_tuple", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_hook_edits_allowed_tokens_only(
    sae: SparseAutoencoder, as_tuple: bool, dtype: torch.dtype
) -> None:
    block, x = _Block(as_tuple=as_tuple), torch.randn(2, 3, WIDTH).to(dtype)
    x[1, 2] *= 1000  # an attention sink
    may = torch.tensor([[False] * 3, [True, False, True]])
    before = x.clone()
    with SteeringHook(block, _steering([Edit(3, 4.0)], sae), 100.0) as hook:
        hook.expect(may)
        output = block(x)
        hook.confirm()
    assert isinstance(output, tuple) == as_tuple
    edited = output[0] if as_tuple else output
    assert edited.dtype == dtype
    assert torch.equal(x, before)
    changed = (edited != x).any(-1)
    assert changed.tolist() == [[False] * 3, [True, False, False]]
    expected = x[1, 0] + (4.0 * sae.W_dec_FO[3]).to(dtype)
    torch.testing.assert_close(edited[1, 0], expected)
    assert hook.acted_BS is not None
    assert hook.acted_BS.tolist() == changed.tolist()
    assert hook.ratio_BS is not None
    assert float(hook.ratio_BS[1, 0]) == pytest.approx(4.0 / float(x[1, 0].float().norm()), 1e-5)
    assert not block._forward_hooks


def test_zero_strength_returns_the_very_tensor(sae: SparseAutoencoder) -> None:
    block, x = _Block(as_tuple=False), torch.full((1, 2, WIDTH), -0.0)
    with SteeringHook(block, _steering([Edit(3, 0.0)], sae), float("inf")) as hook:
        hook.expect(torch.ones(1, 2, dtype=torch.bool))
        assert block(x) is x
        hook.confirm()
    assert hook.acted_BS is not None
    assert not hook.acted_BS.any()


def test_a_hook_that_does_not_fire_is_an_error(sae: SparseAutoencoder) -> None:
    block = _Block(as_tuple=False)
    with SteeringHook(block, _steering([Edit(3, 1.0)], sae), float("inf")) as hook:
        hook.expect(torch.ones(1, 2, dtype=torch.bool))
        with pytest.raises(StudioError, match="0 times in 1 passes"):
            hook.confirm()
        with pytest.raises(StudioError, match="were expected"):
            block(torch.zeros(1, 5, WIDTH))
    assert not block._forward_hooks


def test_positions_are_absolute() -> None:
    ids = torch.tensor([[0, 5, 6], [7, 0, 9]])
    special = frozenset({0})
    assert allowed(ids, 0, 3, "all", special).tolist() == [[False, True, True], [True, False, True]]
    assert allowed(ids, 2, 3, "prompt", special).tolist() == [[False] * 3, [True, False, False]]
    assert allowed(ids, 2, 3, "generated", special).tolist() == [
        [False, True, True],
        [False, False, True],
    ]
    assert special_ids(tiny_tokenizer()) == {0, 1}
