"""The lens against a NumPy oracle, and its gain for each kind of final norm."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config

from mistudio.core import lens_figures
from mistudio.core.errors import Mismatch
from mistudio.ml.architecture import find_blocks
from mistudio.ml.features import logit_lens as lens
from mistudio.ml.features.vocabulary import Vocabulary, token_texts, write_vocabulary
from tests.helpers.tiny import tiny_llama, tiny_tokenizer

SMALL = {"vocab_size": 97, "num_hidden_layers": 2, "hidden_size": 24}


def _model(family: str) -> Any:
    torch.manual_seed(0)
    if family == "llama":
        model = tiny_llama(**SMALL)
    elif family == "gpt2":
        config = GPT2Config(vocab_size=97, n_layer=2, n_head=2, n_embd=24, n_positions=32)
        model = AutoModelForCausalLM.from_config(config)
    else:
        config = Gemma2Config(
            **SMALL, num_attention_heads=2, num_key_value_heads=1, head_dim=8, intermediate_size=32
        )
        model = AutoModelForCausalLM.from_config(config)
    norm = find_blocks(model).final_norm
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.normal_(0.3, 0.5)
    return model.eval()


def _loaded(model: Any) -> Any:
    return SimpleNamespace(
        model=model, blocks=find_blocks(model), hidden_dim=24, device=torch.device("cpu")
    )


def _oracle(family: str, model: Any, directions: np.ndarray) -> np.ndarray:
    weight = find_blocks(model).final_norm.weight.detach().double().numpy()
    unembedding = find_blocks(model).unembedding.weight.detach().double().numpy()
    rows = directions.astype(np.float64)
    if family == "gpt2":
        rows = rows - rows.mean(1, keepdims=True)
    gain = 1 + weight if family == "gemma2" else weight
    logits = (rows * gain) @ unembedding.T
    return logits - logits.mean(1, keepdims=True)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_lens_equals_numpy_for_each_norm(family: str) -> None:
    model = _model(family)
    directions = np.random.default_rng(1).normal(size=(7, 24)).astype(np.float32)
    sae = SimpleNamespace(W_dec_FO=torch.from_numpy(directions), n_latents=7, device="cpu")
    expected = _oracle(family, model, directions)
    found = lens.logit_lens(sae, _loaded(model))
    order, most = np.argsort(-expected, axis=1), lens_figures.KEPT
    assert found.positive_ids_NK.tolist() == order[:, :most].tolist()
    assert found.negative_ids_NK.tolist() == order[:, -1 : -most - 1 : -1].tolist()
    sorted_logits = np.take_along_axis(expected, order, 1)
    np.testing.assert_allclose(found.positive_logits_NK, sorted_logits[:, :most], rtol=1e-4)
    np.testing.assert_allclose(
        found.negative_logits_NK, sorted_logits[:, -1 : -most - 1 : -1], rtol=1e-4
    )
    z = expected / expected.std(1, keepdims=True)
    np.testing.assert_allclose(found.skew_N, (z**3).mean(1), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.kurtosis_N, (z**4).mean(1), rtol=1e-4)
    assert (found.histogram_NB.sum(1) == 97).all()
    counts = np.histogram(expected[0], 50)[0]
    assert np.abs(found.histogram_NB[0] - counts).sum() <= 2  # one value may sit on an edge


def test_chunks_do_not_change_the_lens(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model("llama")
    sae = SimpleNamespace(W_dec_FO=torch.randn(9, 24), n_latents=9, device="cpu")
    whole = lens.logit_lens(sae, _loaded(model))
    monkeypatch.setattr(lens, "CHUNK_LOGITS", 97 * 2)
    monkeypatch.setattr(lens, "CHUNK_VOCABULARY", 10)
    parts = lens.logit_lens(sae, _loaded(model))
    assert parts.positive_ids_NK.tolist() == whole.positive_ids_NK.tolist()
    np.testing.assert_allclose(parts.low_N, whole.low_N, rtol=1e-5)
    some = lens.logit_lens(sae, _loaded(model), np.array([4]))
    assert some.positive_ids_NK.tolist() == whole.positive_ids_NK[4:5].tolist()


def test_a_direction_of_another_width_is_refused() -> None:
    with pytest.raises(Mismatch, match="width 8"):
        lens.feature_logits(torch.zeros(1, 8), _loaded(_model("llama")))


def test_texts_of_a_vocabulary(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    texts = token_texts(tokenizer, len(tokenizer) + 2)
    assert texts[0] == "<|bos|>"
    assert texts[tokenizer.convert_tokens_to_ids("Ġthe")] == " the"
    assert texts[tokenizer.convert_tokens_to_ids("â")] == "<0xE2>"
    assert texts[-1] == f"<{len(tokenizer) + 1}>"
    write_vocabulary(tmp_path / "v.arrow", texts)
    stored = Vocabulary(tmp_path / "v.arrow")
    assert [stored.text(i) for i in range(len(stored))] == texts
    assert stored.text(10**6) == "<1000000>"
