"""Tiny models of several families with a tokenizer, and an SAE of random directions."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    Lfm2Config,
    MambaConfig,
    OPTConfig,
    Qwen2Config,
    Qwen3Config,
)

from mistudio.ml.architecture import find_blocks
from mistudio.ml.loading import LoadedModel
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.matching_pursuit import Pursuit
from mistudio.ml.steering.sources import Library, PlacedSae
from tests.helpers.tiny import tiny_llama, tiny_tokenizer

WIDTH, LATENTS, LAYER = 32, 40, 1
FAMILIES = ("llama", "gpt2", "gemma2", "qwen2", "neox", "opt")
MORE_FAMILIES = ("qwen3", "gemma3", "lfm2")  # a sliding and a hybrid cache among them


def build(family: str) -> Any:
    """A tiny random model of a family, 3 blocks of width 32."""
    common = {"vocab_size": 400, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    usual = {
        **common,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
    }
    torch.manual_seed(1)
    if family == "llama":
        return tiny_llama(num_hidden_layers=3)
    if family == "gpt2":
        config: Any = GPT2Config(**common, n_embd=WIDTH, n_layer=3, n_head=4, n_positions=512)
    elif family == "gemma2":
        config = Gemma2Config(**usual, num_key_value_heads=2, head_dim=8, sliding_window=16)
    elif family == "qwen2":
        config = Qwen2Config(**usual, num_key_value_heads=2)
    elif family == "qwen3":
        config = Qwen3Config(**usual, num_key_value_heads=2, head_dim=8)
    elif family == "gemma3":
        layers = ["sliding_attention", "full_attention", "sliding_attention"]
        window = {"sliding_window": 8, "layer_types": layers}
        config = Gemma3TextConfig(**usual, num_key_value_heads=2, head_dim=8, **window)
    elif family == "mamba":
        config = MambaConfig(**common, hidden_size=WIDTH, num_hidden_layers=3, state_size=8)
    elif family == "lfm2":
        layers = ["conv", "full_attention", "conv"]
        config = Lfm2Config(**usual, num_key_value_heads=2, layer_types=layers)
    elif family == "neox":
        config = GPTNeoXConfig(**usual)
    else:
        settings = {k: v for k, v in usual.items() if k != "intermediate_size"}
        config = OPTConfig(**settings, ffn_dim=48, word_embed_proj_dim=WIDTH)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.3 if "emb" not in name and "wte" not in name else 0.5)
    return model.eval()


_BUILT: dict[str, LoadedModel] = {}


def loaded_model(family: str) -> LoadedModel:
    """The model with tokenizer and blocks, built once."""
    if family not in _BUILT:
        model = build(family)
        facts: Any = SimpleNamespace(
            name=family, vocab_size=400, max_positions=512, hidden_dim=WIDTH
        )
        _BUILT[family] = LoadedModel(
            model, tiny_tokenizer(), torch.device("cpu"), facts, find_blocks(model), Path(family)
        )
    return _BUILT[family]


def random_sae(architecture: str = "topk") -> SparseAutoencoder:
    """Random unit directions; every feature is active now and then."""
    generator = torch.Generator().manual_seed(2)
    W_dec_FO = torch.randn(LATENTS, WIDTH, generator=generator)
    W_dec_FO /= W_dec_FO.norm(dim=1, keepdim=True)
    pursues = architecture == "matching_pursuit"
    return SparseAutoencoder(
        W_dec_FO.T.contiguous(),
        torch.zeros(LATENTS),
        W_dec_FO,
        torch.zeros(WIDTH),
        architecture,
        k=None if pursues or architecture == "standard" else 20,
        pursuit=Pursuit(0.01) if pursues else None,
    )


def library(
    sae: SparseAutoencoder, layer: int = LAYER, hook: str = "resid_post", **known: Any
) -> Library:
    """The SAE as the one that a run names."""
    return Library({"": PlacedSae(sae, layer, hook, **known)})


@pytest.fixture
def sae() -> SparseAutoencoder:
    return random_sae()


@pytest.fixture(params=FAMILIES)
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return loaded_model(request.param)


@pytest.fixture
def llama() -> LoadedModel:
    return loaded_model("llama")
