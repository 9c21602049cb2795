"""Every hook of every family equals what the whole model computes there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import AutoConfig

from mistudio.core.errors import Cancelled, InvalidInput, OutOfMemory, StudioError, Unsupported
from mistudio.core.model_configs import EXTRACTION_HOOKS
from mistudio.ml.activations.capture import Capture
from mistudio.ml.activations.multi_capture import HookPoint, MultiCapture
from mistudio.ml.loading import LoadedModel
from tests.helpers.families import FAMILIES, SIZES, family_model, loaded_from
from tests.helpers.tiny import tiny_llama

IDS = torch.arange(2, 38).view(3, 12)
TOLERANCE = 1e-5

# written out here, so that the finder under test is not asked where things are
BLOCKS = {"gpt2": "transformer.h", "gpt_neox": "gpt_neox.layers", "opt": "model.decoder.layers"}
ATTENTION = {
    "gpt2": "attn", "gpt_neox": "attention", "gemma2": "post_attention_layernorm",
    "gemma3_text": "post_attention_layernorm", "olmo2": "post_attention_layernorm",
}  # fmt: skip
MLP_OUT = {
    "opt": "fc2", "gemma2": "post_feedforward_layernorm",
    "gemma3_text": "post_feedforward_layernorm", "olmo2": "post_feedforward_layernorm",
}  # fmt: skip
MLP_IN = {"opt": "fc1"}
BETWEEN = {  # what reads the stream behind attention
    "gpt2": "ln_2", "opt": "final_layer_norm", "gemma2": "pre_feedforward_layernorm",
    "gemma3_text": "pre_feedforward_layernorm", "olmo2": "mlp",
}  # fmt: skip
PROJECTION = {
    "gpt2": "attn.c_proj", "gpt_neox": "attention.dense", "opt": "self_attn.out_proj",
}  # fmt: skip


@pytest.fixture(scope="module", params=list(FAMILIES))
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return family_model(request.param)


def at_once(loaded: LoadedModel) -> bool:
    """Whether attention and MLP read the same stream, so that nothing is between them."""
    return bool(getattr(loaded.model.config, "use_parallel_residual", False))


def every_point(loaded: LoadedModel) -> list[HookPoint]:
    """Every hook of three blocks."""
    hooks = [hook for hook in EXTRACTION_HOOKS if hook != "resid_mid" or not at_once(loaded)]
    return [HookPoint(layer, hook) for layer in range(3) for hook in hooks]


def whole_model(loaded: LoadedModel) -> dict[HookPoint, torch.Tensor]:
    """Every hook by this test's own listeners in a pass of the full model."""
    family = loaded.facts.name
    found: dict[HookPoint, torch.Tensor] = {}
    blocks = loaded.model.get_submodule(BLOCKS.get(family, "model.layers"))

    def output(point: HookPoint) -> Any:
        def listen(_module: nn.Module, _inputs: Any, out: Any) -> None:
            found[point] = (out[0] if isinstance(out, tuple) else out).clone()

        return listen

    def given(point: HookPoint) -> Any:
        def listen(_module: nn.Module, inputs: Any, named: Any) -> None:
            found[point] = (inputs[0] if inputs else named["hidden_states"]).clone()

        return listen

    handles = []
    for i, block in enumerate(blocks):
        attention = block.get_submodule(ATTENTION.get(family, "self_attn"))
        handles.append(attention.register_forward_hook(output(HookPoint(i, "attn_out"))))
        mlp = block.get_submodule(MLP_OUT.get(family, "mlp"))
        handles.append(mlp.register_forward_hook(output(HookPoint(i, "mlp_out"))))
        reader = block.get_submodule(MLP_IN.get(family, "mlp"))
        point = HookPoint(i, "mlp_in")
        handles.append(reader.register_forward_pre_hook(given(point), with_kwargs=True))
        if not at_once(loaded):
            between = block.get_submodule(BETWEEN.get(family, "post_attention_layernorm"))
            point = HookPoint(i, "resid_mid")
            handles.append(between.register_forward_pre_hook(given(point), with_kwargs=True))
        projection = block.get_submodule(PROJECTION.get(family, "self_attn.o_proj"))
        point = HookPoint(i, "attn_z")
        handles.append(projection.register_forward_pre_hook(given(point), with_kwargs=True))
        if i == len(blocks) - 1:  # the last hidden state has gone through the final norm
            handles.append(block.register_forward_hook(output(HookPoint(i, "resid_post"))))
    with torch.no_grad():
        states = loaded.model(IDS, use_cache=False, output_hidden_states=True).hidden_states
    for handle in handles:
        handle.remove()
    for i in range(len(blocks)):
        found[HookPoint(i, "resid_pre")] = states[i]
        if i < len(blocks) - 1:
            found[HookPoint(i, "resid_post")] = states[i + 1]
    return found


def captured(
    loaded: LoadedModel, points: list[HookPoint], ids_BS: torch.Tensor = IDS
) -> dict[HookPoint, torch.Tensor]:
    found: dict[HookPoint, torch.Tensor] = {}
    MultiCapture(loaded, points).run(ids_BS, lambda i, x: found.update({points[i]: x.clone()}))
    return found


def test_every_hook_equals_the_whole_model(loaded: LoadedModel) -> None:
    points = every_point(loaded)
    found, expected = captured(loaded, points), whole_model(loaded)
    assert set(found) == set(expected) == set(points)
    for point in points:
        assert found[point].shape == (3, 12, 32)
        want = expected[point].view(3, 12, -1)
        assert (found[point] - want).abs().max() <= TOLERANCE, point
        assert want.abs().max() > 1e-3, point


WINDOW = 5
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral window": ("mistral", {"sliding_window": WINDOW}),
    "phi3 window": ("phi3", {"sliding_window": WINDOW}),
    "gemma2 window": ("gemma2", {"sliding_window": WINDOW}),
    "gemma3 window": (
        "gemma3_text",
        {
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "qwen2 window": (
        "qwen2",
        {
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        },
    ),
    "llama3 rope": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8,
            }
        },
    ),
    "dynamic rope": (
        "llama",
        {
            "max_position_embeddings": 8,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
        },
    ),
    "neox in series": ("gpt_neox", {"use_parallel_residual": False}),
}


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_windows_and_positions_are_those_of_the_whole_model(variant: str) -> None:
    family, changes = VARIANTS[variant]
    loaded = family_model(family, **changes)
    points = every_point(loaded)
    found, expected = captured(loaded, points), whole_model(loaded)
    for point in points:
        assert (found[point] - expected[point].view(3, 12, -1)).abs().max() <= TOLERANCE, point
    first = HookPoint(0, "attn_out")
    other_ids = IDS.clone()
    other_ids[:, 0] = 399
    moved = (captured(loaded, [first], other_ids)[first] - found[first]).abs().amax((0, 2))
    assert moved[0] > 1e-3
    far = moved[WINDOW:].max()
    assert (far == 0) if "window" in variant else (far > 0)


def test_nothing_is_between_what_runs_at_once() -> None:
    loaded = family_model("gpt_neox")
    for read in (Capture, lambda *place: MultiCapture(place[0], [HookPoint(*place[1:])])):
        with pytest.raises(Unsupported, match="attention and MLP read the stream at once"):
            read(loaded, 1, "resid_mid")


def test_a_processor_without_memory_is_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = loaded_from(tiny_llama(num_hidden_layers=2))
    points = [HookPoint(0, "mlp_in"), HookPoint(1, "resid_post")]
    several, single = MultiCapture(loaded, points), Capture(loaded, 1, "resid_post")
    mlp = loaded.model.model.layers[1].mlp
    monkeypatch.setattr(mlp, "forward", lambda _x: torch.empty(1 << 60))
    with pytest.raises(OutOfMemory, match="3 rows of 12 tokens does not fit"):
        several.run(IDS, lambda _i, _x: None)
    with pytest.raises(OutOfMemory):
        single(IDS)
    monkeypatch.setattr(mlp, "forward", lambda _x: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError):
        several.run(IDS, lambda _i, _x: None)


def test_nothing_behind_the_last_hook_is_computed(loaded: LoadedModel) -> None:
    ran: list[nn.Module] = []
    behind = [*loaded.blocks.modules[1:], loaded.blocks.final_norm, loaded.blocks.unembedding]
    capture = MultiCapture(loaded, [HookPoint(0, "mlp_in"), HookPoint(1, "attn_out")])
    handles = [m.register_forward_hook(lambda m, _i, _o: ran.append(m)) for m in behind]
    capture.run(IDS, lambda _i, _x: None)
    for handle in handles:
        handle.remove()
    assert ran == []
    assert loaded.model(IDS).logits.shape == (3, 12, 400)


def test_a_request_is_heard_inside_a_pass() -> None:
    loaded = loaded_from(tiny_llama(num_hidden_layers=4))
    asked: list[int] = []

    def check() -> None:
        asked.append(1)
        if len(asked) == 6:
            raise Cancelled

    taken: list[int] = []
    capture = MultiCapture(loaded, [HookPoint(layer, "resid_post") for layer in range(4)])
    capture._check = check
    with pytest.raises(Cancelled):
        capture.run(IDS, lambda i, _x: taken.append(i))
    assert taken == [0]
    capture._check = None
    capture.run(IDS, lambda i, _x: taken.append(i))
    assert taken == [0, 0, 1, 2, 3]


def test_what_cannot_be_hooked() -> None:
    loaded = loaded_from(tiny_llama(num_hidden_layers=2))
    with pytest.raises(InvalidInput, match="no layer 2; llama has layers 0 to 1"):
        MultiCapture(loaded, [HookPoint(2, "mlp_in")])
    with pytest.raises(InvalidInput, match="each once"):
        MultiCapture(loaded, [HookPoint(1, "mlp_in"), HookPoint(1, "mlp_in")])
    with pytest.raises(InvalidInput, match="at least one"):
        MultiCapture(loaded, [])
    loaded.model.model.layers[1] = loaded.model.model.layers[0]
    with pytest.raises(StudioError, match="fired 2 times"):
        MultiCapture(loaded_from(loaded.model), [HookPoint(0, "mlp_in")])


def test_scaled_sublayers_are_refused() -> None:
    config = AutoConfig.for_model("granite", **SIZES, residual_multiplier=0.2)
    loaded = loaded_from(AutoModelForCausalLM.from_config(config).eval())
    MultiCapture(loaded, [HookPoint(1, "resid_post"), HookPoint(1, "mlp_in")])
    with pytest.raises(Unsupported, match="not what the block adds"):
        MultiCapture(loaded, [HookPoint(0, "resid_post"), HookPoint(1, "mlp_out")])


def test_a_block_that_changes_its_input_in_place_spoils_nothing() -> None:
    loaded = loaded_from(tiny_llama(num_hidden_layers=2))
    points = [HookPoint(0, "resid_post"), HookPoint(1, "resid_post")]
    expected = captured(loaded, points[:1])

    def spoil(_module: nn.Module, inputs: Any) -> None:
        inputs[0].mul_(3.0)

    handle = loaded.model.model.layers[1].register_forward_pre_hook(spoil)
    found = captured(loaded, points)
    handle.remove()
    assert torch.equal(found[points[0]], expected[points[0]])
