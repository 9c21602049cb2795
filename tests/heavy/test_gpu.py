"""What only a CUDA device can show; by hand: `pytest -m heavy tests/heavy/test_gpu.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mistudio.core.control import JobControl
from mistudio.core.events import SilentReporter
from mistudio.core.memory import QUANTISED, estimate_bytes
from mistudio.core.model_configs import EXTRACTION_HOOKS, ImportModelConfig
from mistudio.ml.activations.bench_extract import bench_extract
from mistudio.ml.activations.extract import ExtractSettings, extract
from mistudio.ml.activations.multi_capture import HookPoint, MultiCapture
from mistudio.ml.activations.shards import ActivationSet
from mistudio.ml.loading import LoadedModel, load_model
from mistudio.ml.model_report import compare, load_reference
from mistudio.ml.quantization import probe_failure
from mistudio.system.gpu import GpuReader
from tests.helpers.families import FAMILIES, family_model
from tests.helpers.studio import new_studio, run
from tests.helpers.tiny import STORIES, save_tiny_llama, tiny_tokenizer, write_tokens

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
CUDA = torch.device("cuda")
SAMPLE = Path(__file__).parents[2] / "resources" / "sample"
Record = Callable[[str, object], None]


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.cuda.empty_cache()


def sample_rows() -> list[torch.Tensor]:
    """Rows of ids of the bundled text."""
    tokenizer = load_model(SAMPLE / "model", torch.device("cpu")).tokenizer
    lines = (SAMPLE / "text" / "corpus.jsonl").read_text(encoding="utf-8").splitlines()[:40]
    texts = [json.loads(line)["text"] for line in lines]
    rows = tokenizer(texts, truncation=True, max_length=256)["input_ids"]
    return [torch.tensor(row) for row in rows if len(row) > 1]


@torch.no_grad()
def log_p(loaded: LoadedModel, ids_S: torch.Tensor) -> torch.Tensor:
    """log p [S - 1, V] in float64, on the processor."""
    logits_SV = loaded.model(ids_S[None].to(loaded.device)).logits[0, :-1]
    return torch.log_softmax(logits_SV.double(), 1).cpu()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_hook_is_the_same_on_the_gpu(family: str) -> None:
    loaded = family_model(family)
    ids_BS = torch.arange(2, 38).view(3, 12)
    points = [HookPoint(layer, hook) for layer in range(3) for hook in EXTRACTION_HOOKS]
    there: dict[HookPoint, torch.Tensor] = {}
    here: dict[HookPoint, torch.Tensor] = {}
    MultiCapture(loaded, points).run(ids_BS, lambda i, x: here.update({points[i]: x.clone()}))
    loaded.model.to(CUDA)
    moved = LoadedModel(
        loaded.model, loaded.tokenizer, CUDA, loaded.facts, loaded.blocks, loaded.path
    )
    MultiCapture(moved, points).run(ids_BS, lambda i, x: there.update({points[i]: x.cpu()}))
    for point in points:
        scale = max(1.0, float(here[point].abs().max()))
        assert (here[point] - there[point]).abs().max() <= 1e-4 * scale, point


@pytest.mark.parametrize("form", ["fp32", "bf16", "fp16", "int8", "nf4", "fp4"])
def test_a_format_on_the_gpu(form: str, record_property: Record) -> None:
    assert form not in QUANTISED or probe_failure(form, CUDA) == ""
    before = torch.cuda.memory_allocated()
    judged = load_model(SAMPLE / "model", CUDA, form)
    held = torch.cuda.memory_allocated() - before
    assert judged.format == form
    assert judged.memory_bytes <= held <= judged.memory_bytes * 1.1 + 2**21
    reference = load_reference(SAMPLE / "model", CUDA)
    rows = sample_rows()
    found = compare(reference, judged, rows)
    agreed = kl = own = count = 0.0
    for ids_S in rows:
        p_SV, q_SV = log_p(reference, ids_S), log_p(judged, ids_S)
        agreed += float((p_SV.argmax(1) == q_SV.argmax(1)).sum())
        kl += float((p_SV.exp() * (p_SV - q_SV)).sum())
        own -= float(q_SV.gather(1, ids_S[1:, None]).sum())
        count += len(ids_S) - 1
    assert found.tokens == count
    assert found.agreement == pytest.approx(agreed / count)
    assert found.kl == pytest.approx(kl / count, rel=1e-3, abs=1e-6)
    assert found.perplexity == pytest.approx(np.exp(own / count), rel=1e-4)
    assert found.kl < (0.5 if form in ("nf4", "fp4") else 0.05)
    record_property("report", str(found))
    record_property("bytes", judged.memory_bytes)


def test_memory_is_given_back(tmp_path: Path) -> None:
    studio = new_studio(tmp_path / "home")
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    path = save_tiny_llama(tmp_path / "tiny", hidden_size=256, intermediate_size=1024)
    run(studio, "import_model", ImportModelConfig(path=str(path)))
    assert studio.models.format == "bf16"
    assert torch.cuda.memory_allocated() > before + studio.models.held_bytes // 2
    assert studio.models.unload()
    assert torch.cuda.memory_allocated() <= before + 2**20
    studio.close()


def test_real_out_of_memory_halves_the_batch(tmp_path: Path) -> None:
    path = save_tiny_llama(
        tmp_path / "model", hidden_size=512, intermediate_size=16384, num_hidden_layers=2
    )
    tokens = write_tokens(tmp_path / "data", STORIES * 120, tiny_tokenizer(), 256)
    loaded = load_model(path, CUDA, "fp32")
    settings = ExtractSettings((0, 1), ("resid_post", "mlp_out"), rows=256, batch=256, dtype="fp32")
    whole = extract(loaded, tokens, settings, tmp_path / "whole", SilentReporter(), JobControl())
    assert whole.batch == 256
    torch.cuda.empty_cache()
    ballast_bytes = torch.cuda.mem_get_info()[0] - 3 * 2**30
    ballast = torch.empty(ballast_bytes, dtype=torch.uint8, device=CUDA)
    halved = extract(loaded, tokens, settings, tmp_path / "halved", SilentReporter(), JobControl())
    del ballast
    assert halved.batch < 256
    for layer in (0, 1):
        first_TD, second_TD = (
            ActivationSet(tmp_path / name).rows(layer, "mlp_out", 0, 256 * 256)
            for name in ("whole", "halved")
        )
        assert (first_TD - second_TD).abs().max() <= 1e-4 * first_TD.abs().max()


def test_the_monitor_reads_the_gpu() -> None:
    reader = GpuReader()
    reader.open()
    sample = reader.take()
    reader.close()
    assert sample is not None
    assert "NVIDIA" in sample.name
    assert (
        sample.memory_total == torch.cuda.get_device_properties(0).total_memory
        or (sample.memory_total or 0) > 2**30
    )
    assert 0 < (sample.temperature_c or 0) < 120
    assert 0 <= (sample.load_percent if sample.load_percent is not None else -1) <= 100


@pytest.fixture(scope="module")
def billion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 1.1 B weights in bf16 on disk."""
    folder = tmp_path_factory.mktemp("billion")
    config = LlamaConfig(
        hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32,
        num_key_value_heads=4, vocab_size=32000, max_position_embeddings=2048,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(CUDA):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.cpu().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_a_billion_weights_in_every_format(billion: Path, record_property: Record) -> None:
    linear = other = 0
    for form in ("fp32", "bf16", "fp16", "int8", "nf4", "fp4"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        began = time.perf_counter()
        loaded = load_model(billion, CUDA, form)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        held = torch.cuda.memory_allocated() - before
        with torch.no_grad():
            loaded.model(torch.arange(2, 130, device=CUDA)[None])
        peak = torch.cuda.max_memory_allocated() - before
        if form == "fp32":
            linear = sum(
                module.weight.numel()
                for block in loaded.blocks.modules
                for module in block.modules()
                if isinstance(module, torch.nn.Linear)
            )
            other = sum(p.numel() for p in loaded.model.parameters()) - linear
        estimate = estimate_bytes(linear, other, form)
        figures = {
            "seconds": round(seconds, 1), "held_mb": held // 10**6, "peak_mb": peak // 10**6,
            "told_mb": loaded.memory_bytes // 10**6, "estimate_mb": estimate // 10**6,
        }  # fmt: skip
        record_property(form, json.dumps(figures))
        print(form, figures)  # noqa: T201
        assert seconds < 60
        assert abs(loaded.memory_bytes - held) < 0.05 * held
        del loaded


def test_extraction_against_bare_passes(
    billion: Path, tmp_path: Path, record_property: Record
) -> None:
    tokens = write_tokens(tmp_path / "data", STORIES * 2200, tiny_tokenizer(), 512)
    loaded = load_model(billion, CUDA, "bf16")
    for layers, hooks, rows in (
        ((10,), ("resid_post",), 1000),
        ((0, 5, 10, 15, 20), ("resid_post", "mlp_out"), 1000),
    ):
        settings = ExtractSettings(layers, hooks, rows=rows, batch=32, dtype="bf16")
        figures = bench_extract(loaded, tokens, settings, tmp_path, 2)
        record_property(f"{len(layers)}x{len(hooks)}", json.dumps(figures))
        print(figures)  # noqa: T201


def test_the_whole_path_on_the_gpu(tmp_path: Path, record_property: Record) -> None:
    words = [sys.executable, "-m", "mistudio.cli", "demo", "--json", "--home", str(tmp_path / "h")]
    found = subprocess.run(
        words, capture_output=True, text=True, check=False, env={**os.environ}, timeout=400
    )
    assert found.returncode == 0, found.stderr[-3000:]
    result: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    record_property("result", json.dumps(result))
    print(result)  # noqa: T201
    assert result["explained_variance"] >= 0.7
    assert result["steering"]["identity_at_zero"]
