"""Models in INT8, NF4 and FP4: they load, compute, and are honest about memory and failure."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mistudio.core.errors import Damaged, OutOfMemory, Unsupported
from mistudio.ml import quantization, read_weights
from mistudio.ml.activations.capture import Capture
from mistudio.ml.device import half_dtype
from mistudio.ml.lens import why_no_lens
from mistudio.ml.loading import LoadedModel, load_model
from mistudio.ml.model_check import check_model
from mistudio.ml.module_tree import architecture_tree, count_weights
from mistudio.ml.quantization import (
    memory_bytes,
    plain_weight,
    quantise_in_place,
    quantised_format,
    quantised_linear,
    working_format,
)
from tests.helpers.tiny import save_tiny_llama, tiny_llama

CPU = torch.device("cpu")
FORMATS = ("int8", "nf4", "fp4")
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
LINEAR = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)  # q, o; k, v; gate, up, down
OTHERS = 400 * 64 + 5 * 64  # tied embedding, norms


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("models") / "tiny", **SIZES)


@pytest.fixture(scope="module", params=FORMATS)
def loaded(request: pytest.FixtureRequest, folder: Path) -> LoadedModel:
    return load_model(folder, CPU, request.param)


def test_what_is_quantised_and_what_is_not(loaded: LoadedModel) -> None:
    assert loaded.format in FORMATS
    assert (loaded.note, loaded.dtype) == ("", torch.bfloat16)
    kinds = {"int8": "Linear8bitLt"}
    for block in loaded.blocks.modules:
        linears = [m for m in block.modules() if isinstance(m, nn.Linear)]
        assert {type(m).__name__ for m in linears} == {kinds.get(loaded.format, "Linear4bit")}
    assert type(loaded.blocks.unembedding) is nn.Linear
    assert count_weights(loaded.model) == {"linear": LINEAR, "others": OTHERS}
    assert sum(row["params"] for row in architecture_tree(loaded.model)) == LINEAR + OTHERS


def test_memory_is_measured(loaded: LoadedModel, folder: Path) -> None:
    per_weight = {"int8": 1.0, "nf4": 0.5, "fp4": 0.5}[loaded.format]
    weights = LINEAR * per_weight + OTHERS * 2
    assert weights <= loaded.memory_bytes <= weights * 1.2
    plain = load_model(folder, CPU)
    rotations = sum(buffer.numel() * 4 for buffer in plain.model.buffers())
    assert plain.memory_bytes == 4 * (LINEAR + OTHERS) + rotations


def test_weights_are_near_the_ones_in_the_files(loaded: LoadedModel) -> None:
    layer = loaded.model.model.layers[1].mlp.up_proj
    wanted_FD = tiny_llama(**SIZES).model.layers[1].mlp.up_proj.weight
    gap = (plain_weight(layer).float() - wanted_FD).norm() / wanted_FD.norm()
    assert 1e-4 < gap < {"int8": 0.02, "nf4": 0.12, "fp4": 0.2}[loaded.format]


def test_hooks_check_and_generation_work(
    loaded: LoadedModel, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    ids_BS = torch.arange(2, 14).view(1, 12)
    with caplog.at_level(logging.INFO):
        for hook in ("resid_post", "mlp_out", "attn_out"):
            x_BSD = Capture(loaded, 1, hook)(ids_BS)
            assert x_BSD.shape == (1, 12, 64)
            assert bool(x_BSD.isfinite().all())
        out_BS = loaded.model.generate(ids_BS, max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert out_BS.shape[1] > 12
    found = check_model(loaded)
    assert (found.format, found.lens_why, set(found.hooks_why)) == (loaded.format, "", set())
    assert found.params == LINEAR + OTHERS
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_in_place_and_while_loading_agree(loaded: LoadedModel) -> None:
    model = tiny_llama(**SIZES).to(torch.bfloat16)
    shares: list[float] = []
    quantise_in_place(model, loaded.format, CPU, shares.append)
    assert len(shares) == 14
    ids_BS = torch.arange(2, 14).view(1, 12)
    with torch.inference_mode():
        loaded.model(ids_BS)
        assert bool(model(ids_BS).logits.isfinite().all())
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            same = loaded.model.get_submodule(name)
            first, second = plain_weight(module).float(), plain_weight(same).float()
            assert (first - second).norm() < 0.01 * second.norm(), name


def test_layers_that_lie_the_other_way_round_are_quantised_too(loaded: LoadedModel) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"n_embd": 64, "n_layer": 1, "n_head": 4, "n_positions": 32, "vocab_size": 400}
    model: Any = GPT2LMHeadModel(GPT2Config(**sizes)).eval()
    before = {n: m.weight.T.clone() for n, m in model.named_modules() if hasattr(m, "nf")}
    model = model.to(torch.bfloat16)
    quantise_in_place(model, loaded.format, CPU)
    assert quantised_format(model) == loaded.format
    assert count_weights(model)["linear"] == 12 * 64 * 64
    for name, weight in before.items():
        layer = model.get_submodule(name)
        assert (plain_weight(layer).float() - weight).norm() < 0.2 * weight.norm(), name
        assert layer.bias is not None
    with torch.inference_mode():
        assert bool(model(torch.arange(2, 14)[None]).logits.isfinite().all())


def test_a_failing_kernel_falls_back_to_16_bit(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> nn.Module:
        raise RuntimeError("no kernel image is available for execution on the device")

    calls = []
    quantization._probe.cache_clear()
    monkeypatch.setattr(quantization, "quantised_linear", lambda *a: calls.append(a) or broken())
    try:
        loaded = load_model(folder, CPU, "nf4")
        assert loaded.format == "bf16"
        assert loaded.note == "4-bit does not work on this device; BF16 is used."
        assert working_format("int8", CPU)[1].startswith("8-bit does not work")
        working_format("nf4", CPU)
        assert len(calls) == 2  # once per format and process
    finally:
        quantization._probe.cache_clear()


def test_a_kernel_that_computes_nonsense_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    quantization._probe.cache_clear()
    monkeypatch.setattr(
        quantization,
        "quantised_linear",
        lambda linear, *_: nn.Linear(64, 16, dtype=half_dtype(CPU)),
    )
    try:
        assert working_format("fp4", CPU)[0] == "bf16"
    finally:
        quantization._probe.cache_clear()
    assert working_format("fp32", CPU) == ("fp32", "")


@pytest.mark.parametrize("form", ["nf4", "fp4"])
@pytest.mark.parametrize(("inputs", "outputs"), [(32, 16), (96, 32), (64, 40), (128, 64)])
def test_layers_of_odd_sizes_work_in_eval_mode(form: str, inputs: int, outputs: int) -> None:
    # on a CPU with bf16 arithmetic bitsandbytes packs the weights for its kernel at the first use
    torch.manual_seed(0)
    device = torch.device("cpu")
    layer = quantised_linear(nn.Linear(inputs, outputs), form, device).eval()
    weight_FD = plain_weight(layer).float()
    x_BD = torch.randn(5, inputs)
    with torch.no_grad():
        got_BF = layer(x_BD)
    wanted_BF = x_BD @ weight_FD.T + layer.bias.float()
    assert (got_BF - wanted_BF).norm() < 0.02 * wanted_BF.norm()


def test_biases_stay() -> None:
    linear = nn.Linear(64, 16, dtype=torch.bfloat16)
    x_BD = torch.randn(4, 64, dtype=torch.bfloat16)
    with torch.no_grad():
        for form in FORMATS:
            y_BF = quantised_linear(linear, form, CPU)(x_BD)
            assert torch.allclose(y_BF.float(), linear(x_BD).float(), atol=0.3)
            assert memory_bytes(quantised_linear(linear, form, CPU)) > 0


def test_too_little_memory_offers_the_next_smaller_format(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_weights, "memory_of", lambda device: (300_000, 10**9))
    with pytest.raises(OutOfMemory) as caught:
        load_model(folder, CPU, "fp32")
    assert "FP32, 300.0 kB are free. Load it in BF16, or free memory." in caught.value.sentence
    monkeypatch.setattr(read_weights, "memory_of", lambda device: (1000, 10**9))
    with pytest.raises(OutOfMemory, match=r"INT8.*Load it in NF4"):
        load_model(folder, CPU, "int8")
    with pytest.raises(OutOfMemory, match=r"NF4, 1\.0 kB are free\. Free memory"):
        load_model(folder, CPU, "nf4")


def test_files_that_are_quantised_already(folder: Path, tmp_path: Path) -> None:
    stored = load_model(folder, CPU, "nf4")
    stored.model.save_pretrained(tmp_path)
    stored.tokenizer.save_pretrained(tmp_path)
    again = load_model(tmp_path, CPU)
    assert again.format == "nf4"
    assert why_no_lens(again) == ""
    ids_BS = torch.arange(2, 14).view(1, 12)
    with torch.inference_mode():
        assert torch.allclose(again.model(ids_BS).logits, stored.model(ids_BS).logits, atol=0.05)
    with pytest.raises(Unsupported, match="hold weights in NF4"):
        load_model(tmp_path, CPU, "fp32")
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"bitsandbytes"', '"gptq"'))
    with pytest.raises(Unsupported, match="quantised by GPTQ"):
        load_model(tmp_path, CPU)


def test_loading_can_be_ended(folder: Path) -> None:
    def stop(done: float) -> None:
        if done > 0.2:
            raise Damaged("enough")

    for form in ("fp32", "nf4"):
        with pytest.raises(Damaged, match="enough"):
            load_model(folder, CPU, form, step=stop)
