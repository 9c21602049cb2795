"""What must not change does not: strength 0 and its kin, in every family, and in 4-bit weights."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from mistudio.core.control import JobControl
from mistudio.core.errors import Cancelled, StudioError
from mistudio.core.steering_positions import Positions
from mistudio.core.steering_spec import Condition, Edit, Feature, Spec
from mistudio.ml.hooks import first_tensor, hook_place
from mistudio.ml.loading import LoadedModel, load_model
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.steering.forward import FedRow, Stepper
from mistudio.ml.steering.operators import BASELINE
from mistudio.ml.steering.prompts import Prompt, read_prompt
from mistudio.ml.steering.sources import Library, Place, PlacedSae
from mistudio.ml.steering.steered_model import SteeredModel
from mistudio.ml.steering.teacher_forcing import predictions
from tests.helpers.tiny import save_tiny_llama, tiny_tokenizer
from tests.ml_steering.conftest import (
    FAMILIES,
    LAYER,
    MORE_FAMILIES,
    library,
    loaded_model,
    random_sae,
)

PROMPT = Prompt((0, 17, 260, 301, 44, 290, 275))
TEXT = [33, 290, 261, 70, 12]

IDENTITIES = {
    "add 0": Edit(Feature(3), 0.0, unit="raw"),
    "multiply by 1": Edit(Feature(3), 1.0, "scale"),
    "direction times 1": Edit(Feature(3), 1.0, "dir-scale"),
    "add below 0": Edit(Feature(3), 0.0, "add-below", "raw"),
}


def logits_of(model: SteeredModel, rows: list[str]) -> torch.Tensor:
    """Predictions for a fixed text, rows by variant."""
    fed = [FedRow(PROMPT, name) for name in rows]
    return torch.cat(
        [part for _, part in predictions(model, fed, [TEXT] * len(fed), JobControl())], 1
    )


def check_identities(loaded: LoadedModel, sae: SparseAutoencoder) -> None:
    specs = {name: Spec((edit, Edit(Feature(8), 0.0))) for name, edit in IDENTITIES.items()}
    specs = {name: dataclasses.replace(spec, unit="raw") for name, spec in specs.items()}
    off = {
        name: Spec((Edit(Feature(5), 0.0, name),), unit="raw")
        for name in ("ablate", "clamp", "scale")
    }
    with SteeredModel(loaded, {**specs, **off}, library(sae)) as model:
        found = logits_of(model, [BASELINE, *specs, *off])
    with SteeredModel(loaded, {}, Library()) as model:
        # the same number of rows, so that the kernels are the same
        plain = logits_of(model, [BASELINE] * len(found))
    assert torch.equal(found[: len(specs) + 1], plain[: len(specs) + 1])
    ablated = found[-3:]
    assert torch.equal(ablated[0], ablated[1])
    assert torch.equal(ablated[0], ablated[2])
    assert not torch.equal(ablated[0], plain[0])


@pytest.mark.parametrize("family", [*FAMILIES, *MORE_FAMILIES])
def test_identities_change_no_bit_of_any_logit(family: str) -> None:
    check_identities(loaded_model(family), random_sae("standard"))


@pytest.mark.parametrize("form", ["nf4", "int8"])
def test_identities_hold_in_quantised_models(form: str, tmp_path: Path) -> None:
    folder = save_tiny_llama(tmp_path / "m", hidden_size=32, num_hidden_layers=3)
    loaded = load_model(folder, torch.device("cpu"), form)
    assert loaded.format == form
    check_identities(loaded, random_sae("standard"))


@pytest.mark.parametrize("family", FAMILIES)
def test_clamp_to_the_value_it_has_changes_no_logit(family: str) -> None:
    loaded, sae = loaded_model(family), random_sae("topk")
    seen: list[torch.Tensor] = []
    module = hook_place(loaded, LAYER, "resid_post").module
    handle = module.register_forward_hook(lambda _m, _x, y: seen.append(first_tensor(y)))
    with SteeredModel(loaded, {}, Library()) as model:
        plain = Stepper(model, [FedRow(PROMPT)]).prompt()
    handle.remove()
    own_F = sae.encode(seen[-1].view(-1, seen[-1].shape[-1])[-1])  # of the prompt, read last
    feature = int(own_F.argmax())
    edits = (Edit(Feature(feature), float(own_F[feature]), "clamp", "raw"),)
    moved = (Edit(Feature(feature), float(own_F[feature]) + 3, "clamp", "raw"),)
    last = Positions("last")
    specs = {"own": Spec(edits, last), "moved": Spec(moved, last)}
    with SteeredModel(loaded, specs, library(sae)) as model:
        same = Stepper(model, [FedRow(PROMPT, "own")]).prompt()
        other = Stepper(model, [FedRow(PROMPT, "moved")]).prompt()
    assert float((same - plain).abs().max()) < 1e-4
    assert float((other - plain).abs().max()) > 1e-2


@pytest.mark.parametrize("family", ["llama", "gemma2", "neox"])
def test_several_saes_at_several_layers_act_in_turn(family: str) -> None:
    """Each layer reads its own, already steered input, whatever the order of the edits."""
    loaded, first, second = loaded_model(family), random_sae("standard"), random_sae("standard")
    second = dataclasses.replace(second, W_enc_DF=second.W_enc_DF.flip(1))
    saes = {
        "a": PlacedSae(first, 0, "resid_post"),
        "b": PlacedSae(second, 2, "resid_post"),
        "c": PlacedSae(first, 2, "mlp_out"),
    }
    edits = [
        Edit(Feature(4, "a"), 6.0),
        Edit(Feature(7, "b"), 2.0, "scale"),
        Edit(Feature(7, "c"), 5.0, "clamp", condition=Condition(Feature(9, "a"), 0.3)),
    ]
    specs = {"x": Spec(tuple(edits), unit="raw"), "y": Spec(tuple(reversed(edits)), unit="raw")}
    with SteeredModel(loaded, specs, Library(saes)) as model:
        assert [place.words for place in model.places] == [
            "0.resid_post",
            "2.mlp_out",
            "2.resid_post",
        ]
        found = logits_of(model, ["x", "y"])
        stepper = Stepper(model, [FedRow(PROMPT, "x"), FedRow(PROMPT)])
        stepper.prompt()
        traces = stepper.traces()
    assert torch.equal(found[0], found[1])
    assert traces[1].acted == 0
    assert traces[0].acted == traces[0].positions - 1  # all but BOS

    ids = torch.tensor([[*PROMPT.ids, *TEXT[:-1]]])
    gate: list[torch.Tensor] = []
    special = torch.isin(ids[0], torch.tensor([0, 1]))[:, None]

    def put(y: Any, delta: torch.Tensor) -> Any:
        delta = torch.where(special, 0.0, delta)
        return (y[0] + delta, *y[1:]) if isinstance(y, tuple) else y + delta

    def at_first(_m: Any, _x: Any, y: Any) -> Any:
        x = first_tensor(y)
        gate.append(first.encode(x)[0, :, 9:10] > 0.3)
        return put(y, 6.0 * first.W_dec_FO[4].expand(x.shape[1], -1))

    def at_mlp(_m: Any, _x: Any, y: Any) -> Any:
        own = first.encode(y)[0, :, 7:8]
        return put(y, torch.where(gate[0], (5.0 - own) * first.W_dec_FO[7], 0.0))

    def at_second(_m: Any, _x: Any, y: Any) -> Any:
        x = first_tensor(y)
        return put(y, second.encode(x)[0, :, 7:8] * second.W_dec_FO[7])

    handles = [
        hook_place(loaded, layer, hook).module.register_forward_hook(edit)
        for layer, hook, edit in (
            (0, "resid_post", at_first),
            (2, "mlp_out", at_mlp),
            (2, "resid_post", at_second),
        )
    ]
    with torch.inference_mode():
        logits = loaded.model(ids, use_cache=False).logits
    for handle in handles:
        handle.remove()
    assert bool(gate[0].any())
    torch.testing.assert_close(found[0], logits[0, len(PROMPT.ids) - 1 :], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", [*FAMILIES, *MORE_FAMILIES])
def test_an_addition_at_further_layers_is_the_same_vector_at_each(family: str) -> None:
    loaded, sae = loaded_model(family), random_sae("standard")
    edit = Edit(Feature(4), 3.0, layers=(0, 2))
    placed = {"": PlacedSae(sae, LAYER, "resid_post", largest={4: 2.0})}
    with SteeredModel(loaded, {"a": Spec((edit,))}, Library(placed)) as model:
        assert [place.words for place in model.places] == [
            "0.resid_post",
            "1.resid_post",
            "2.resid_post",
        ]
        found = logits_of(model, ["a"])
        stepper = Stepper(model, [FedRow(PROMPT, "a")])
        stepper.prompt()
        assert stepper.traces()[0].acted == len(PROMPT.ids) - 1  # all but BOS
    ids = torch.tensor([[*PROMPT.ids, *TEXT[:-1]]])
    special = torch.isin(ids[0], torch.tensor([0, 1]))[:, None]
    delta = torch.where(special, 0.0, 6.0 * sae.W_dec_FO[4].expand(ids.shape[1], -1))

    def put(_m: Any, _x: Any, y: Any) -> Any:
        return (y[0] + delta, *y[1:]) if isinstance(y, tuple) else y + delta

    handles = [
        hook_place(loaded, layer, "resid_post").module.register_forward_hook(put)
        for layer in (0, 1, 2)
    ]
    with torch.inference_mode():
        logits = loaded.model(ids, use_cache=False).logits
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(found[0], logits[0, len(PROMPT.ids) - 1 :], rtol=1e-3, atol=1e-3)


def test_further_layers_keep_to_their_sinks_conditions_and_numbers() -> None:
    loaded, sae = loaded_model("llama"), random_sae("standard")
    placed = PlacedSae(sae, LAYER, "resid_post")
    tiny = Library({"": placed}, norms={Place(2, "resid_post"): 1e-6})
    edit = Edit(Feature(4), 3.0, layers=(2,))
    with SteeredModel(loaded, {"a": Spec((edit,), unit="raw")}, tiny) as model:
        stepper = Stepper(model, [FedRow(PROMPT, "a")])
        stepper.prompt()
        trace = stepper.traces()[0]
        assert trace.ratio(Place(LAYER, "resid_post"))[0]
        assert trace.ratio(Place(2, "resid_post")) is None  # every token counts as a sink there
    early = dataclasses.replace(edit, layers=(0,), condition=Condition(Feature(9), 0.3))
    for wrong, words in (
        (early, "can only depend on a feature read"),
        (dataclasses.replace(edit, layers=(LAYER,)), "acts at layer 1 already"),
        (dataclasses.replace(edit, layers=(7,)), "layer"),
    ):
        with pytest.raises(StudioError, match=words):
            SteeredModel(loaded, {"a": Spec((wrong,), unit="raw")}, Library({"": placed}))


def test_nothing_is_left_after_success_error_or_cancel() -> None:
    loaded, sae = loaded_model("llama"), random_sae()
    specs = {"s": Spec((Edit(Feature(3), 4.0, "clamp", "raw"),))}
    saes = Library({"": PlacedSae(sae, LAYER, "resid_post")})
    modules = list(loaded.model.modules())

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)

    before = hooks()
    for failure in (None, StudioError("no"), Cancelled(), KeyboardInterrupt()):
        expected = pytest.raises(type(failure)) if failure is not None else nullcontext()
        with expected, SteeredModel(loaded, specs, saes):
            assert hooks() == before + 1
            if failure is not None:
                raise failure
        assert hooks() == before


def test_a_chat_template_is_used_only_where_there_is_one() -> None:
    tokenizer = tiny_tokenizer()
    with pytest.raises(StudioError, match="no chat template"):
        read_prompt(tokenizer, "hello", chat=True)
    tokenizer.chat_template = (
        "{{ bos_token }}Be kind.{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}"
        "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    prompt = read_prompt(tokenizer, "Once upon", chat=True)
    assert prompt.text == "<|bos|>Be kind.[user] Once upon[assistant]"
    assert prompt.ids.count(0) == 1
    role, low, high = prompt.turns[-1]
    assert (role, prompt.text[low:high]) == ("user", "Once upon")
