"""Blocks, hooks and the truncated capture on several model families, built from configs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import AutoConfig

from mistudio.core.configs import SAE_HOOKS
from mistudio.core.errors import InvalidInput, StudioError, Unsupported
from mistudio.ml.activations.capture import Capture, check_ids, first_tensor
from mistudio.ml.architecture import find_blocks
from mistudio.ml.hooks import hook_path, hook_place, tl_name
from mistudio.ml.loading import LoadedModel
from mistudio.ml.model_check import check_model
from mistudio.ml.module_tree import architecture_tree
from tests.helpers.families import FAMILIES, SIZES, family_model, loaded_from
from tests.helpers.tiny import tiny_llama

PATHS = {"gpt2": "transformer.h", "gpt_neox": "gpt_neox.layers", "opt": "model.decoder.layers"}
ONE_KEY_A_HEAD = ("gpt2", "gpt_neox", "opt")
MLPS = {
    "gpt2": "MLP 32 → 128 → 32",
    "mixtral": "4 experts (2 per token), each 32 → 48 → 32",
    "qwen2_moe": "4 experts (2 per token), each 32 → 24 → 32, shared MLP 32 → 40 → 32",
}
IDS = torch.arange(2, 26).view(2, 12)


@pytest.fixture(scope="module", params=list(FAMILIES))
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return family_model(request.param)


def streams(loaded: LoadedModel) -> list[torch.Tensor]:
    """Input of block 0 and the output of each block, by hooks of this test's own."""
    seen: list[torch.Tensor] = []

    def before(_m: nn.Module, inputs: Any, named: Any) -> None:
        seen.append((inputs[0] if inputs else named["hidden_states"]).clone())

    def after(_m: nn.Module, _i: Any, output: Any) -> None:
        seen.append(first_tensor(output).clone())

    handles = [loaded.blocks.modules[0].register_forward_pre_hook(before, with_kwargs=True)]
    handles += [block.register_forward_hook(after) for block in loaded.blocks.modules]
    with torch.no_grad():
        loaded.model(IDS, use_cache=False)
    for handle in handles:
        handle.remove()
    return seen


def test_blocks_are_found(loaded: LoadedModel) -> None:
    blocks = loaded.blocks
    assert blocks.path == PATHS.get(loaded.facts.name, "model.layers")
    assert len(blocks) == 3
    assert None not in blocks.mlp
    assert None not in blocks.attention
    assert blocks.embedding.weight.shape == (400, 32)
    assert blocks.unembedding.weight.shape == (400, 32)


def test_final_norm_feeds_the_unembedding(loaded: LoadedModel) -> None:
    stream = streams(loaded)[-1]
    with torch.no_grad():
        logits = loaded.blocks.unembedding(loaded.blocks.final_norm(stream))
        softcap = getattr(loaded.model.config, "final_logit_softcapping", None)
        if softcap:
            logits = softcap * torch.tanh(logits / softcap)
        assert torch.allclose(logits, loaded.model(IDS).logits, atol=1e-5)


def test_resid_post_is_the_block_output(loaded: LoadedModel) -> None:
    seen = streams(loaded)
    for layer in range(3):
        x_BSD = Capture(loaded, layer, "resid_post")(IDS)
        assert torch.equal(x_BSD, seen[layer + 1])
        assert (x_BSD.shape, x_BSD.requires_grad) == ((2, 12, 32), False)


def test_sublayers_add_up_to_the_block(loaded: LoadedModel) -> None:
    seen = streams(loaded)
    for layer in range(3):
        mlp_BSD = Capture(loaded, layer, "mlp_out")(IDS)
        attn_BSD = Capture(loaded, layer, "attn_out")(IDS)
        total = seen[layer] + attn_BSD + mlp_BSD
        assert torch.allclose(total, seen[layer + 1], atol=1e-4)
        assert mlp_BSD.abs().max() > 1e-3
        assert attn_BSD.abs().max() > 1e-3


def test_nothing_behind_the_hook_is_computed(loaded: LoadedModel) -> None:
    ran: list[str] = []
    capture = Capture(loaded, 1, "resid_post")
    behind = [loaded.blocks.modules[2], loaded.blocks.final_norm, loaded.blocks.unembedding]
    handles = [
        module.register_forward_hook(lambda m, _i, _o: ran.append(type(m).__name__))
        for module in [*behind, loaded.blocks.modules[1]]
    ]
    capture(IDS)
    for handle in handles:
        handle.remove()
    assert ran == [type(loaded.blocks.modules[1]).__name__]
    assert loaded.model(IDS).logits.shape == (2, 12, 400)


def test_padding_behind_a_row_does_not_reach_it(loaded: LoadedModel) -> None:
    capture = Capture(loaded, 2, "resid_post")
    padded = IDS.clone()
    padded[:, 8:] = 0
    assert torch.allclose(capture(padded)[:, :8], capture(IDS)[:, :8], atol=1e-5)


def test_every_family_passes_its_check(loaded: LoadedModel) -> None:
    found = check_model(loaded)
    at_once = {"resid_mid"} if loaded.facts.name == "gpt_neox" else set()
    assert set(found.hooks) == {*SAE_HOOKS, "mlp_in"} - at_once
    assert set(found.widths.values()) == {32}
    assert found.tree[-3]["hooks"] == found.hooks
    assert (set(found.hooks_why), found.lens_why) == (at_once, "")
    assert all("read the stream at once" in why for why in found.hooks_why.values())
    total = sum(p.numel() for p in loaded.model.parameters())
    assert found.params == sum(found.weights.values()) == total
    assert found.weights["linear"] > 0
    assert sum(row["params"] for row in found.tree) == total
    block = next(row for row in found.tree if row["kind"] == "block")
    heads = "4 heads × 8" if loaded.facts.name in ONE_KEY_A_HEAD else "4 heads × 8 (2 key/value)"
    assert block["note"] == f"{heads}, {MLPS.get(loaded.facts.name, 'MLP 32 → 48 → 32')}"
    positions = [row for row in found.tree if row["name"] == "Position embedding"]
    assert len(positions) == (loaded.facts.name in ("gpt2", "opt"))


def test_attention_is_found_where_the_last_block_has_none() -> None:
    """LFM2 ends with a convolution; its attention is read in the blocks that have one."""
    layers = ["conv", "full_attention", "conv"]
    config = AutoConfig.for_model("lfm2", **SIZES, layer_types=layers)
    found = check_model(loaded_from(AutoModelForCausalLM.from_config(config).eval()))
    assert found.hooks["attn_out"] == "model.layers.1.self_attn"
    assert found.hooks["attn_z"] == "model.layers.1.self_attn.out_proj"
    assert (found.widths["attn_out"], found.widths["attn_z"]) == (32, 32)
    of_blocks = [row["hooks"] for row in found.tree if "hooks" in row]
    assert ["attn_z" in hooks for hooks in of_blocks] == [False, True, False]
    assert ["attn_out" in hooks for hooks in of_blocks] == [False, True, False]
    assert not {"attn_out", "attn_z"} & set(found.hooks_why)


@pytest.mark.parametrize("layers", [3, 5])
def test_a_model_that_sees_is_read_in_its_text(layers: int) -> None:
    text = {**SIZES, "query_pre_attn_scalar": 8, "model_type": "gemma3_text"}
    vision = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": layers,
              "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip
    config = AutoConfig.for_model(
        "gemma3", text_config=text, vision_config=vision, mm_tokens_per_image=4,
        image_token_index=399, boi_token_index=398, eoi_token_index=397,
    )  # fmt: skip
    blocks = find_blocks(AutoModelForCausalLM.from_config(config).eval())
    assert (blocks.path, len(blocks)) == ("model.language_model.layers", 3)
    model = AutoModelForCausalLM.from_config(config).eval()
    rows = architecture_tree(model)
    assert sum(row["params"] for row in rows) == model.num_parameters()
    assert [row["name"] for row in rows[-2:]] == ["vision_tower", "multi_modal_projector"]


def test_names_of_hooks() -> None:
    loaded = loaded_from(tiny_llama(num_hidden_layers=2))
    assert hook_path(loaded, 1, "resid_post") == "model.layers.1"
    assert hook_path(loaded, 1, "mlp_out") == "model.layers.1.mlp"
    assert hook_path(loaded, 0, "attn_out") == "model.layers.0.self_attn"
    assert hook_place(loaded, 1, "mlp_out").module is loaded.model.model.layers[1].mlp
    assert tl_name(3, "attn_out") == "blocks.3.hook_attn_out"
    with pytest.raises(InvalidInput, match="no layer 2; llama has layers 0 to 1"):
        hook_place(loaded, 2, "resid_post")
    with pytest.raises(InvalidInput, match="no layer -1"):
        Capture(loaded, -1, "resid_post")
    with pytest.raises(InvalidInput, match="no hook 'resid'; choose one of resid_post, mlp_out"):
        hook_place(loaded, 0, "resid")


def test_a_block_that_runs_twice_is_refused() -> None:
    model = tiny_llama(num_hidden_layers=2)
    loaded = loaded_from(model)
    model.model.layers[1].register_forward_hook(
        lambda m, _i, _o: None
    )  # a bystander hook must not matter
    Capture(loaded, 1, "resid_post")
    model.model.layers[1] = model.model.layers[0]
    with pytest.raises(StudioError, match="fired 2 times"):
        Capture(loaded_from(model), 0, "resid_post")


def test_scaled_sublayers_are_refused() -> None:
    config = AutoConfig.for_model("granite", **SIZES, residual_multiplier=0.2)
    model = AutoModelForCausalLM.from_config(config).eval()
    Capture(loaded_from(model), 1, "resid_post")
    with pytest.raises(Unsupported, match="not what the block adds"):
        Capture(loaded_from(model), 1, "mlp_out")


def test_ids_outside_the_vocabulary() -> None:
    with pytest.raises(InvalidInput, match="ids reach 400, its vocabulary has 400"):
        check_ids(torch.tensor([[1, 400]]), 400)
    check_ids(torch.tensor([[0, 399]]), 400)


def test_model_without_blocks_is_refused() -> None:
    with pytest.raises(Unsupported, match="No repeated blocks"):
        find_blocks(nn.Sequential(nn.Linear(2, 2)))


def test_tree_accounts_for_every_parameter() -> None:
    model = tiny_llama(tie_word_embeddings=False)
    rows = architecture_tree(model)
    assert sum(row["params"] for row in rows) == model.num_parameters()
    assert [row["kind"] for row in rows] == ["embedding", *["block"] * 4, "norm", "unembedding"]
    assert [row["index"] for row in rows] == list(range(7))
    assert rows[1]["hooks"] == {
        "resid_post": "model.layers.0",
        "mlp_out": "model.layers.0.mlp",
        "attn_out": "model.layers.0.self_attn",
        "mlp_in": "model.layers.0.mlp",
        "attn_z": "model.layers.0.self_attn.o_proj",
        "resid_pre": "model.layers.0",
        "resid_mid": "model.layers.0.post_attention_layernorm",
    }
    assert rows[1]["note"] == "4 heads × 8 (2 key/value), MLP 32 → 64 → 32"
    tied = architecture_tree(tiny_llama())
    assert sum(row["params"] for row in tied) == tiny_llama().num_parameters()
    assert (tied[-1]["params"], tied[-1]["note"]) == (0, "the embedding's weights")
    assert rows[1]["children"][0]["name"] == "self_attn"
    assert rows[0]["shape"] == [400, 32]
