"""The quantisation report against an independent computation in numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mistudio.core.errors import Cancelled, InvalidInput, Unsupported
from mistudio.ml import model_report
from mistudio.ml.loading import load_model
from mistudio.ml.model_report import compare, load_reference
from tests.helpers.tiny import save_tiny_llama

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    return save_tiny_llama(tmp_path_factory.mktemp("models") / "tiny", **sizes)


def rows() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(2, 400, (n,), generator=generator) for n in (17, 1, 2, 40, 33)]


def distributions(model: torch.nn.Module, ids_S: torch.Tensor) -> np.ndarray:
    """log p [S - 1, V] in float64, by a softmax of this test's own."""
    with torch.no_grad():
        logits_SV = model(ids_S[None]).logits[0, :-1].double().numpy()
    shifted = logits_SV - logits_SV.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


@pytest.mark.parametrize("form", ["int8", "nf4", "fp4", "fp32"])
def test_numbers_agree_with_numpy(folder: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_report, "CHUNK_LOGITS", 5 * 400)
    judged, reference = load_model(folder, CPU, form), load_reference(folder, CPU)
    found = compare(reference, judged, rows())

    agreed, kl, own, other = [], [], [], []
    for ids_S in rows():
        if len(ids_S) < 2:
            continue
        p_SV, q_SV = distributions(reference.model, ids_S), distributions(judged.model, ids_S)
        agreed += list(p_SV.argmax(1) == q_SV.argmax(1))
        kl += list((np.exp(p_SV) * (p_SV - q_SV)).sum(1))
        after = np.arange(len(ids_S) - 1), ids_S[1:].numpy()
        own += list(-q_SV[after])
        other += list(-p_SV[after])
    assert found.tokens == len(kl) == 16 + 1 + 39 + 32
    assert found.agreement == pytest.approx(np.mean(agreed))
    assert found.kl == pytest.approx(np.mean(kl), rel=1e-4, abs=1e-7)
    assert found.perplexity == pytest.approx(np.exp(np.mean(own)), rel=1e-5)
    assert found.reference_perplexity == pytest.approx(np.exp(np.mean(other)), rel=1e-5)
    assert found.kl > 1e-7


def test_the_reference_has_16_bit_weights_and_exact_arithmetic(folder: Path) -> None:
    reference, plain = load_reference(folder, CPU), load_model(folder, CPU, "fp32")
    assert (reference.format, reference.model.dtype) == ("bf16", torch.float32)
    for wanted, got in zip(plain.model.parameters(), reference.model.parameters(), strict=True):
        assert torch.equal(got, wanted.to(torch.bfloat16).float())
    same = compare(reference, reference, rows())
    assert (same.agreement, same.kl) == (1.0, 0.0)
    assert same.perplexity == same.reference_perplexity


def test_too_little_text_and_an_end(folder: Path) -> None:
    reference = load_reference(folder, CPU)
    with pytest.raises(InvalidInput, match="every row is too short"):
        compare(reference, reference, [torch.tensor([3])])
    counts: list[int] = []

    def end(tokens: int) -> None:
        counts.append(tokens)
        if tokens:
            raise Cancelled

    with pytest.raises(Cancelled):
        compare(reference, reference, rows(), end)
    assert counts == [0, 16]


def test_what_cannot_be_compared(folder: Path) -> None:
    reference = load_reference(folder, CPU)
    with pytest.raises(InvalidInput, match="vocabulary has 400"):
        compare(reference, reference, [torch.tensor([3, 400])])
    broken = load_reference(folder, CPU)
    broken.model.lm_head.register_forward_hook(lambda _m, _i, out: out * float("nan"))
    for pair in ((broken, reference), (reference, broken)):
        with pytest.raises(Unsupported, match="no numbers"):
            compare(*pair, rows())
