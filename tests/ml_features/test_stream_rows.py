"""What features of heads add to the stream, against changes made in whole passes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import AutoConfig

from mistudio.core.errors import Mismatch, Unsupported
from mistudio.ml.activations.capture import Capture
from mistudio.ml.activations.multi_capture import HookPoint
from mistudio.ml.features import attribution, text_effects
from mistudio.ml.features.logit_lens import feature_logits, logit_lens
from mistudio.ml.features.stream_rows import StreamRows
from mistudio.ml.hooks import first_tensor
from tests.helpers.families import SIZES, loaded_from
from tests.ml_features.test_attribution import IDS, POSITION, TOKEN, by_hand, fired_by
from tests.ml_steering.conftest import LAYER, loaded_model, random_sae

PLAIN = ("llama", "gpt2", "qwen2", "neox", "opt")
HEADS = HookPoint(LAYER, "attn_z")
# written out here, so that what is tested is not asked
PROJECTION = {"gpt2": "attn.c_proj", "neox": "attention.dense", "opt": "self_attn.out_proj"}


def attention_added(family: str, direction_D: torch.Tensor | None) -> torch.Tensor:
    """What attention adds to the stream [T, D], with a direction added to the heads or without."""
    loaded = loaded_model(family)
    block: Any = loaded.blocks.modules[LAYER]
    projection = block.get_submodule(PROJECTION.get(family, "self_attn.o_proj"))
    seen: list[torch.Tensor] = []
    attention: Any = loaded.blocks.attention[LAYER]
    handles = [attention.register_forward_hook(lambda _m, _x, y: seen.append(first_tensor(y)))]
    if direction_D is not None:
        handles.append(
            projection.register_forward_pre_hook(lambda _m, x: (x[0] + direction_D, *x[1:]))
        )
    with torch.inference_mode():
        loaded.model(torch.from_numpy(IDS)[None], use_cache=False)
    for handle in handles:
        handle.remove()
    return seen[0].view(len(IDS), -1)


@pytest.mark.parametrize("family", PLAIN)
def test_a_row_is_what_a_change_of_the_heads_adds(family: str) -> None:
    sae = random_sae()
    rows_ND = StreamRows(loaded_model(family), sae, HEADS, exact=True)(torch.tensor([7]))
    moved = attention_added(family, sae.W_dec_FO[7]) - attention_added(family, None)
    torch.testing.assert_close(rows_ND.expand_as(moved), moved, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(rows_ND[0], sae.W_dec_FO[7], atol=0.1)


@pytest.mark.parametrize("family", PLAIN)
def test_elsewhere_a_row_is_the_decoders(family: str) -> None:
    loaded, sae = loaded_model(family), random_sae()
    for written in (None, HookPoint(LAYER, "resid_post"), HookPoint(LAYER, "attn_out")):
        rows_of = StreamRows(loaded, sae, written, exact=True)
        assert torch.equal(rows_of(torch.tensor([3, 9])), sae.W_dec_FO[[3, 9]])
        assert rows_of.all() is sae.W_dec_FO


def test_behind_a_norm_the_direction_is_right_but_for_its_length() -> None:
    """Gemma norms what attention gives: a token made of the row alone shows the direction."""
    loaded, sae = loaded_model("gemma2"), random_sae()
    block: Any = loaded.blocks.modules[LAYER]
    with torch.inference_mode():
        raw = sae.W_dec_FO[7] @ block.self_attn.o_proj.weight.T
        wanted = block.post_attention_layernorm(raw)
    found = StreamRows(loaded, sae, HEADS)(torch.tensor([7]))[0]
    cosine = torch.nn.functional.cosine_similarity(found, wanted, dim=0)
    assert float(cosine) == pytest.approx(1, abs=1e-5)
    with pytest.raises(Unsupported, match="no fixed direction"):
        StreamRows(loaded, sae, HEADS, exact=True)
    with pytest.raises(Unsupported, match="no fixed direction"):
        text_effects.effects_on_next(loaded, sae, fired_by(loaded, sae, "attn_z"), written=HEADS)


@pytest.mark.parametrize("scale", [0.25, 1.0])
def test_where_a_block_scales_what_it_adds_effects_are_not_told(scale: float) -> None:
    """Granite adds a part of what attention gives, which no row of the projection says."""
    config = AutoConfig.for_model("granite", **SIZES, residual_multiplier=scale)
    loaded, sae = loaded_from(AutoModelForCausalLM.from_config(config).eval()), random_sae()
    rows_ND = StreamRows(loaded, sae, HEADS)(torch.tensor([7]))  # right but for a factor
    if scale == 1.0:
        exact_ND = StreamRows(loaded, sae, HEADS, exact=True)(torch.tensor([7]))
        assert torch.equal(exact_ND, rows_ND)
        return
    with pytest.raises(Unsupported, match="does not add what its attention gives as it is"):
        StreamRows(loaded, sae, HEADS, exact=True)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_lens_of_heads_is_that_of_what_they_add(family: str) -> None:
    loaded, sae = loaded_model(family), random_sae()
    rows_FD = StreamRows(loaded, sae, HEADS).all()
    logits_FV = feature_logits(rows_FD, loaded).numpy()
    found = logit_lens(sae, loaded, written=HEADS)
    assert (found.positive_ids_NK[:, 0] == logits_FV.argmax(1)).all()
    np.testing.assert_allclose(found.high_N, logits_FV.max(1), rtol=1e-4)
    plain = logit_lens(sae, loaded)
    assert (found.positive_ids_NK[:, 0] != plain.positive_ids_NK[:, 0]).any()


@pytest.mark.parametrize("family", ["llama", "gpt2", "neox"])
@torch.no_grad()
def test_direct_effects_of_heads_go_through_the_projection(family: str) -> None:
    loaded, sae = loaded_model(family), random_sae()
    fired = fired_by(loaded, sae, "attn_z")
    part = slice(fired.splits[POSITION], fired.splits[POSITION + 1])
    features_A, values_A = fired.features[part], fired.values[part]
    end = attribution.ending(loaded, IDS, POSITION)
    got = attribution.direct_effects(loaded, sae, end, features_A, values_A, TOKEN, written=HEADS)
    clean = attention_added(family, None)[POSITION]
    for feature, value, effect in zip(features_A, values_A, got.effect_A, strict=True):
        moved = attention_added(family, -float(value) * sae.W_dec_FO[feature])[POSITION] - clean
        wanted = end.log_p_V[TOKEN] - by_hand(loaded, end.stream_D + moved)[TOKEN]
        assert effect == pytest.approx(float(wanted), rel=2e-3, abs=5e-5)


def test_heads_of_another_width_are_refused() -> None:
    sae = random_sae()
    narrow = dataclasses.replace(
        sae, W_enc_DF=sae.W_enc_DF[:16], W_dec_FO=sae.W_dec_FO[:, :16], b_dec_O=sae.b_dec_O[:16]
    )
    with pytest.raises(Mismatch, match=r"width 16, the heads of layer 1 are 32 wide"):
        StreamRows(loaded_model("llama"), narrow, HEADS)


def test_models_without_heads_say_so() -> None:
    from mistudio.core.errors import InvalidInput

    with pytest.raises(InvalidInput, match="no attention whose heads can be hooked"):
        Capture(loaded_model("mamba"), LAYER, "attn_z")
    with pytest.raises(InvalidInput, match="no attention whose heads can be hooked"):
        Capture(loaded_model("lfm2"), 0, "attn_z")  # a convolution
    assert Capture(loaded_model("lfm2"), 1, "attn_z").d == 32
