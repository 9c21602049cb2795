"""The prompt lens: by hand, against the model's own distribution, and why there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import AutoConfig

from mistudio.core.errors import Cancelled, InvalidInput, Unsupported
from mistudio.ml import lens
from mistudio.ml.architecture import find_blocks
from mistudio.ml.lens import prompt_lens, residual_streams, why_no_lens
from mistudio.ml.loading import LoadedModel
from tests.helpers.families import FAMILIES, SIZES, family_model, loaded_from
from tests.helpers.tiny import tiny_loaded

IDS_S = torch.arange(2, 14)


@pytest.fixture(scope="module", params=list(FAMILIES))
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    found = family_model(request.param)
    with torch.no_grad():
        for name, parameter in found.model.named_parameters():
            if "norm" in name or "ln_" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
            elif "emb" in name or "wte" in name:
                parameter.normal_(0, 0.3)
    return found


def test_last_layer_is_the_models_own_distribution(loaded: LoadedModel) -> None:
    found = prompt_lens(loaded, IDS_S, 5)
    with torch.inference_mode():
        own_SV = loaded.model(IDS_S[None]).logits[0].float().softmax(1)
    top = own_SV.topk(5, 1)
    assert found.probabilities_LSK.shape == (4, 12, 5)
    assert torch.allclose(found.probabilities_LSK[-1], top.values, atol=1e-5)
    assert torch.equal(found.top_ids_LSK[-1][:, 0], top.indices[:, 0])
    assert why_no_lens(loaded) == ""


def test_a_middle_layer_by_hand(loaded: LoadedModel) -> None:
    found = prompt_lens(loaded, IDS_S, 3)
    blocks = loaded.blocks
    streams_LSD, _ = residual_streams(loaded, IDS_S)
    assert blocks.final_norm is not None
    assert blocks.unembedding is not None
    with torch.inference_mode():
        logits_SV = blocks.unembedding(blocks.final_norm(streams_LSD[1]))
    cap = getattr(loaded.model.config, "final_logit_softcapping", None)
    if cap:
        logits_SV = cap * torch.tanh(logits_SV / cap)
    top = logits_SV.softmax(1).topk(3, 1)
    assert torch.allclose(found.probabilities_LSK[1], top.values, atol=1e-5)


def test_streams_are_embedding_and_block_outputs(tmp_path: Path) -> None:
    loaded = tiny_loaded(tmp_path / "tiny")
    streams_LSD, logits_SV = residual_streams(loaded, IDS_S)
    whole = loaded.model(IDS_S[None], output_hidden_states=True)
    for layer in range(4):  # the last of these is after the final norm
        assert torch.allclose(streams_LSD[layer], whole.hidden_states[layer][0], atol=1e-6)
    assert torch.equal(logits_SV, whole.logits[0])


def test_chunks_change_nothing_and_can_be_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = tiny_loaded(tmp_path / "tiny")
    whole = prompt_lens(loaded, IDS_S, 4)
    monkeypatch.setattr(lens, "CHUNK_LOGITS", 7 * 400)
    monkeypatch.setattr(lens, "CHUNK_VOCABULARY", 64)
    shares: list[float] = []
    parts = prompt_lens(loaded, IDS_S, 4, shares.append)
    assert torch.allclose(parts.probabilities_LSK, whole.probabilities_LSK, atol=1e-6)
    assert len(shares) == 9
    assert shares == sorted(shares)

    def cancel(_done: float) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        prompt_lens(loaded, IDS_S, 4, cancel)
    with pytest.raises(InvalidInput, match="no token"):
        prompt_lens(loaded, IDS_S[:0], 4)
    with pytest.raises(InvalidInput, match="vocabulary has 400"):
        prompt_lens(loaded, torch.tensor([2, 400]), 4)


def changed(family: str, **values: Any) -> LoadedModel:
    config = AutoConfig.for_model(family, **{**SIZES, **values})
    return loaded_from(AutoModelForCausalLM.from_config(config).eval())


def test_scaled_logits() -> None:
    assert why_no_lens(changed("granite", logits_scaling=4.0)) == ""
    assert why_no_lens(changed("cohere", logit_scale=0.25)) == ""


def test_a_final_norm_that_is_named_after_the_embedding() -> None:
    layers = ["conv", "full_attention", "conv"]
    values = {key: value for key, value in SIZES.items() if key != "head_dim"}
    config = AutoConfig.for_model("lfm2", **values, layer_types=layers)
    assert why_no_lens(loaded_from(AutoModelForCausalLM.from_config(config).eval())) == ""
    bloom = AutoConfig.for_model("bloom", vocab_size=400, hidden_size=32, n_layer=2, n_head=4)
    model = AutoModelForCausalLM.from_config(bloom).eval()
    assert find_blocks(model).final_norm is model.transformer.ln_f


def test_models_without_a_lens(tmp_path: Path) -> None:
    narrow = {key: value for key, value in SIZES.items() if "key_value" not in key}
    projected = changed("opt", **{**narrow, "ffn_dim": 48, "word_embed_proj_dim": 16})
    assert "reads vectors of width 16" in why_no_lens(projected)
    with pytest.raises(Unsupported, match="32 wide"):
        prompt_lens(projected, IDS_S, 3)

    class Doubled(nn.Module):
        def forward(self, x_BSD: torch.Tensor) -> torch.Tensor:
            return 2 * x_BSD

    odd = tiny_loaded(tmp_path / "tiny")
    odd.model.model.norm.register_forward_hook(lambda _m, _i, output: 3 * output)
    object.__setattr__(odd.blocks, "final_norm", Doubled())
    assert "do not give this model's own distribution" in why_no_lens(odd)
