"""Steering where a module's input is edited equals the same change made by hand before it: at the
heads before the output projection, and before a block."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from mistudio.core.errors import InvalidInput, Mismatch, Unsupported
from mistudio.core.steering_spec import Direction, Edit, Feature, Spec
from mistudio.ml.activations.capture import Capture
from mistudio.ml.hooks import first_input, first_tensor, hook_place
from mistudio.ml.loading import LoadedModel
from mistudio.ml.steering.forward import FedRow, Stepper
from mistudio.ml.steering.prompts import Prompt
from mistudio.ml.steering.sources import Library, PlacedSae, Vector
from mistudio.ml.steering.steered_model import SteeredModel
from tests.ml_steering.conftest import LAYER, library, random_sae

# written out here, so that what is tested is not asked
PROJECTION = {"gpt2": "attn.c_proj", "neox": "attention.dense", "opt": "self_attn.out_proj"}
IDS = [17, 260, 301, 44, 290, 275, 33, 120]
PROMPT = Prompt(tuple(IDS))


def reader_of(loaded: LoadedModel, hook: str) -> Any:
    """The module that reads what is at a hook."""
    block: Any = loaded.blocks.modules[LAYER]
    if hook == "resid_pre":
        return block
    return block.get_submodule(PROJECTION.get(loaded.facts.name, "self_attn.o_proj"))


@pytest.mark.parametrize("hook", ["attn_z", "resid_pre"])
@pytest.mark.parametrize(("operator", "value"), [("add", 2.0), ("clamp", 3.0), ("scale", -1.0)])
def test_an_input_is_moved_by_what_it_holds(
    loaded: LoadedModel, operator: str, value: float, hook: str
) -> None:
    sae = random_sae("standard")
    own_BSF = sae.encode(Capture(loaded, LAYER, hook)(torch.tensor([IDS])))
    feature = int(own_BSF[0, -1].argmax())
    spec = Spec((Edit(Feature(feature), value, operator, "raw"),))
    with SteeredModel(loaded, {"x": spec}, library(sae, LAYER, hook)) as model:
        stepper = Stepper(model, [FedRow(PROMPT, "x"), FedRow(PROMPT)])
        steered_V, plain_V = stepper.prompt()
        trace, untouched = stepper.traces()
    assert untouched.acted == 0
    assert trace.acted > 0
    assert not reader_of(loaded, hook)._forward_pre_hooks

    def before(_module: Any, inputs: Any) -> Any:
        x = inputs[0]
        own = sae.encode(x.view(1, len(IDS), -1))[..., feature, None]
        strength = {"add": torch.full_like(own, value), "clamp": value - own}.get(
            operator, (value - 1) * own
        )
        moved = x.view(1, len(IDS), -1) + strength * sae.W_dec_FO[feature]
        return (moved.view_as(x), *inputs[1:])

    handle = reader_of(loaded, hook).register_forward_pre_hook(before)
    with torch.inference_mode():
        wanted_V = loaded.model(torch.tensor([IDS]), use_cache=False).logits[0, -1]
    handle.remove()
    torch.testing.assert_close(steered_V, wanted_V, rtol=1e-3, atol=1e-3)
    assert float((steered_V - plain_V).abs().max()) > 1e-2


@pytest.mark.parametrize(("operator", "value"), [("add", 2.0), ("clamp", 3.0)])
def test_the_stream_between_attention_and_mlp_is_moved(
    loaded: LoadedModel, operator: str, value: float
) -> None:
    sae = random_sae("standard")
    if loaded.facts.name == "neox":
        with pytest.raises(Unsupported, match="at once"):
            Capture(loaded, LAYER, "resid_mid")
        return
    own_BSF = sae.encode(Capture(loaded, LAYER, "resid_mid")(torch.tensor([IDS])))
    feature = int(own_BSF[0, -1].argmax())
    spec = Spec((Edit(Feature(feature), value, operator, "raw"),))
    with SteeredModel(loaded, {"x": spec}, library(sae, LAYER, "resid_mid")) as model:
        stepper = Stepper(model, [FedRow(PROMPT, "x")])
        steered_V = stepper.prompt()[0]
    block: Any = loaded.blocks.modules[LAYER]
    assert not block._forward_pre_hooks
    entered: list[torch.Tensor] = []

    def after(_module: Any, _inputs: Any, output: Any) -> Any:
        added = first_tensor(output)
        x = entered[-1].view_as(added) + added
        own = sae.encode(x)[..., feature, None]
        amount = torch.full_like(own, value) if operator == "add" else value - own
        moved = added + amount * sae.W_dec_FO[feature]
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    handles = [
        block.register_forward_pre_hook(
            lambda _module, inputs, named: entered.append(first_input(inputs, named)),
            with_kwargs=True,
        ),
        hook_place(loaded, LAYER, "attn_out").module.register_forward_hook(after),
    ]
    with torch.inference_mode():
        wanted_V = loaded.model(torch.tensor([IDS]), use_cache=False).logits[0, -1]
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(steered_V, wanted_V, rtol=1e-3, atol=1e-3)


def test_directions_of_heads_mean_nothing_elsewhere(llama: LoadedModel) -> None:
    sae = random_sae("standard")
    saes = {
        "heads": PlacedSae(sae, LAYER, "attn_z"),
        "later": PlacedSae(sae, LAYER + 1, "attn_z"),
        "stream": PlacedSae(sae, LAYER, "resid_post"),
    }

    def prepare(edit: Edit) -> None:
        SteeredModel(llama, {"x": Spec((edit,), unit="raw")}, Library(saes))

    prepare(Edit(Feature(4, "heads"), 1.0, "swap", target=Feature(5, "heads")))
    for other in ("stream", "later"):
        with pytest.raises(InvalidInput, match="only go with others of the same layer"):
            prepare(Edit(Feature(4, "heads"), 1.0, "swap", target=Feature(5, other)))
    with pytest.raises(InvalidInput, match="only go with others of the same layer"):
        prepare(Edit(Feature(4, "stream"), 1.0, along=Feature(5, "heads")))
    with pytest.raises(InvalidInput, match="means nothing in the stream of further layers"):
        prepare(Edit(Feature(4, "heads"), 1.0, layers=(2,)))
    saes["input"] = PlacedSae(sae, LAYER, "resid_pre")  # a direction of the stream
    prepare(Edit(Feature(4, "input"), 1.0, "swap", target=Feature(5, "stream")))
    prepare(Edit(Feature(4, "input"), 1.0, layers=(2,)))
    narrow = dataclasses.replace(
        sae, W_enc_DF=sae.W_enc_DF[:16], W_dec_FO=sae.W_dec_FO[:, :16], b_dec_O=sae.b_dec_O[:16]
    )
    saes["heads"] = PlacedSae(narrow, LAYER, "attn_z")
    with pytest.raises(Mismatch, match="width 16, the heads of layer 1 are 32 wide"):
        prepare(Edit(Feature(4, "heads"), 1.0))


def test_vectors_of_heads_stay_where_they_were_read(llama: LoadedModel) -> None:
    """Even where the heads are as wide as the stream."""
    vectors = {
        "heads": Vector(random_sae().W_dec_FO[3], LAYER, "attn_z"),
        "stream": Vector(random_sae().W_dec_FO[3], LAYER, "attn_out"),
    }

    def prepare(source: Direction) -> list[str]:
        spec = Spec((Edit(source, 1.0),), unit="raw")
        model = SteeredModel(llama, {"x": spec}, Library(vectors=vectors))
        return [hook.site.place.words for hook in model.hooks]

    assert prepare(Direction("heads")) == ["1.attn_z"]
    assert prepare(Direction("heads", LAYER, "attn_z")) == ["1.attn_z"]
    assert prepare(Direction("stream", 2, "resid_post")) == ["2.resid_post"]
    moves = [("heads", 1, "resid_post"), ("heads", 2, "attn_z"), ("stream", 1, "attn_z")]
    for name, layer, hook in moves:
        with pytest.raises(InvalidInput, match="only directions of the stream can be moved"):
            prepare(Direction(name, layer, hook))
