"""A real model in 8 and 4 bits on this processor: it loads, writes, and is judged rightly.

MISTUDIO_SMOLLM2 names a folder with SmolLM2-135M-Instruct (safetensors).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mistudio.ml.loading import load_model
from mistudio.ml.model_report import compare, load_reference

pytestmark = pytest.mark.heavy
FOLDER = os.environ.get("MISTUDIO_SMOLLM2", "")
CPU = torch.device("cpu")
TEXT = (
    "The capital of France is Paris, and the capital of Italy is Rome. A river rises in the "
    "mountains, grows with every brook that joins it, and ends in the sea. In computer science, a "
    "tree is a structure of nodes, each of which may have children but only one parent."
)


def log_p(model: torch.nn.Module, ids_S: torch.Tensor) -> np.ndarray:
    """log p [S - 1, V] in float64."""
    with torch.no_grad():
        logits_SV = model(ids_S[None]).logits[0, :-1].double().numpy()
    shifted = logits_SV - logits_SV.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


@pytest.mark.skipif(not FOLDER, reason="MISTUDIO_SMOLLM2 names no model")
@pytest.mark.parametrize(("form", "most_mb"), [("int8", 170), ("nf4", 120)])
def test_quantised_on_the_processor(
    form: str, most_mb: float, record_property: Callable[[str, object], None]
) -> None:
    judged, reference = load_model(Path(FOLDER), CPU, form), load_reference(Path(FOLDER), CPU)
    assert judged.format == form
    assert judged.memory_bytes < most_mb * 1e6
    ids_S = torch.tensor(judged.tokenizer(TEXT)["input_ids"])
    found = compare(reference, judged, [ids_S])
    p_SV, q_SV = log_p(reference.model, ids_S), log_p(judged.model, ids_S)
    after = np.arange(len(ids_S) - 1), ids_S[1:].numpy()
    assert found.tokens == len(ids_S) - 1
    assert found.agreement == pytest.approx(np.mean(p_SV.argmax(1) == q_SV.argmax(1)))
    assert found.kl == pytest.approx((np.exp(p_SV) * (p_SV - q_SV)).sum(1).mean(), rel=1e-3)
    assert found.perplexity == pytest.approx(np.exp(-q_SV[after].mean()), rel=1e-4)
    assert found.reference_perplexity == pytest.approx(np.exp(-p_SV[after].mean()), rel=1e-4)
    prompt = torch.tensor([judged.tokenizer("The capital of France is")["input_ids"]])
    written = judged.model.generate(prompt, max_new_tokens=8, do_sample=False)
    text = judged.tokenizer.decode(written[0, prompt.shape[1] :])
    assert "Paris" in text
    record_property("megabytes", round(judged.memory_bytes / 1e6, 1))
    record_property("report", str(found))
    record_property("text", text)
