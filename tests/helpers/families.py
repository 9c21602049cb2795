"""Tiny random models of every family that is claimed to work, built from their configs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import AutoConfig

from mistudio.ml.architecture import find_blocks
from mistudio.ml.facts import ModelFacts
from mistudio.ml.loading import LoadedModel
from tests.helpers.tiny import tiny_tokenizer

SIZES: dict[str, Any] = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
_NEOX = {k: v for k, v in SIZES.items() if k not in ("num_key_value_heads", "head_dim")}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "vocab_size": 400},
    "gpt_neox": _NEOX,
    "opt": {**_NEOX, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "llama": SIZES,
    "mistral": SIZES,
    "qwen2": SIZES,
    "qwen3": SIZES,
    "gemma2": {**SIZES, "query_pre_attn_scalar": 8},
    "gemma3_text": {**SIZES, "query_pre_attn_scalar": 8},
    "phi3": SIZES,
    "smollm3": {**SIZES, "no_rope_layer_interval": 2},
    "olmo2": SIZES,
    "mixtral": {**SIZES, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {
        **SIZES,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 40,
    },
}


def family_model(name: str, **changes: Any) -> LoadedModel:
    """A random model of a family, in fp32 on CPU, whose blocks act strongly."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **{**FAMILIES[name], **changes})
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim >= 2 and "emb" not in key and "wte" not in key:
                parameter.normal_(0, 0.2)
    return loaded_from(model)


def loaded_from(model: Any) -> LoadedModel:
    """A `LoadedModel` around a model that never was on disk."""
    config = model.config
    facts = ModelFacts(
        name=config.model_type, origin="folder", architecture=type(model).__name__,
        model_type=config.model_type, params_count=0, weight_bytes=0,
        num_layers=config.num_hidden_layers, hidden_dim=config.hidden_size, num_heads=4,
        num_kv_heads=2, head_dim=8, intermediate=48, vocab_size=400, max_positions=64, tie=True,
        bos_id=0, eos_id=1, activation="", norm_eps=None, rope=None, fingerprint="", config={},
    )  # fmt: skip
    return LoadedModel(
        model, tiny_tokenizer(), torch.device("cpu"), facts, find_blocks(model), Path()
    )
