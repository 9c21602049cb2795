"""The jobs around a model: check, change of format, quantisation report, prompt lens."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import psutil
import pytest
import torch
from transformers import BertConfig, BertModel

from mistudio.core.control import JobControl
from mistudio.core.errors import Cancelled, StudioError
from mistudio.core.events import RecordingReporter
from mistudio.core.model_configs import (
    CheckModelConfig,
    ImportModelConfig,
    PromptLensConfig,
    ReportModelConfig,
)
from mistudio.jobs import model_checking, model_pages
from mistudio.jobs.loaded_models import LoadedModels
from mistudio.jobs.runner import Studio
from mistudio.ml import quantization
from mistudio.store.tables import JOBS, MODELS
from tests.helpers.own_code import private_modules, save_own_code
from tests.helpers.studio import run, stories_file
from tests.helpers.tiny import save_tiny_llama, tiny_tokenizer

SIZES = {"hidden_size": 64, "intermediate_size": 128}  # 4-bit kernels want rows of 64


@pytest.fixture
def model(studio: Studio, tmp_path: Path) -> str:
    folder = save_tiny_llama(tmp_path / "llama", **SIZES)
    result = run(studio, "import_model", ImportModelConfig(path=str(folder), name="llama"))
    return str(result["model"])


@pytest.fixture
def stories(studio: Studio, tmp_path: Path) -> str:
    from mistudio.core.dataset_configs import ImportDatasetConfig

    config = ImportDatasetConfig(path=str(stories_file(tmp_path)))
    return str(run(studio, "import_dataset", config)["dataset"])


@pytest.mark.parametrize("form", ["bf16", "int8", "nf4", "fp4"])
def test_a_format_is_checked_and_kept(studio: Studio, model: str, form: str) -> None:
    before = MODELS.get(studio.db(), model)
    assert (before.format, before.logit_lens_ready) == ("fp32", True)
    found = run(studio, "check_model", CheckModelConfig(model=model, format=form))
    row = MODELS.get(studio.db(), model)
    assert (row.status, row.format, found["format"]) == ("ready", form, form)
    assert row.params_count == before.params_count
    assert row.memory_bytes is not None
    assert before.memory_bytes is not None
    assert row.memory_bytes < before.memory_bytes
    assert (studio.models.model_id, studio.models.format) == (model, form)


def test_a_change_that_fails_leaves_the_old_format(
    studio: Studio, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("shape '[32, 0]' is invalid")

    from mistudio.ml import model_check

    monkeypatch.setattr(model_check, "check_model", broken)
    with pytest.raises(StudioError, match="NF4 does not work with the layers of llama") as raised:
        run(studio, "check_model", CheckModelConfig(model=model, format="nf4"))
    assert raised.value.code == "format_failed"
    row = MODELS.get(studio.db(), model)
    assert (row.status, row.format) == ("ready", "fp32")
    assert studio.models.name == ""


def test_a_backend_that_fails_its_probe_falls_back_with_a_sentence(
    studio: Studio, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "probe_failure", lambda form, device: "no kernel")
    report = RecordingReporter()
    run(studio, "check_model", CheckModelConfig(model=model, format="nf4"), report)
    notes = [event.values["sentence"] for event in report.events if event.kind == "note"]
    assert "4-bit does not work on this device; BF16 is used." in notes
    assert MODELS.get(studio.db(), model).format == "bf16"


def test_a_check_has_an_end(studio: Studio, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_checking, "LIMIT_S", -1.0)
    with pytest.raises(StudioError, match="took longer") as raised:
        run(studio, "check_model", CheckModelConfig(model=model, format="bf16"))
    assert raised.value.code == "check_timeout"
    assert MODELS.get(studio.db(), model).status == "ready"


def test_an_encoder_can_only_be_looked_at(studio: Studio, tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    small = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    BertModel(small).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    found = run(studio, "import_model", ImportModelConfig(path=str(folder)))
    row = MODELS.get(studio.db(), found["model"])
    assert row.status == "incompatible"
    assert "a left-to-right model is needed" in (row.error_message or "")
    page = model_pages.architecture(studio, row)
    assert (page.layers, page.hidden_dim) == (2, 32)
    with pytest.raises(StudioError, match="is not ready"):
        studio.submit("prompt_lens", PromptLensConfig(model=row.id, prompt="x"))


def test_own_code_is_asked_for(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "marker"
    folder = save_own_code(tmp_path / "own", marker)
    with private_modules(tmp_path / "modules", monkeypatch):
        with pytest.raises(StudioError, match="runs its repository's code") as raised:
            run(studio, "import_model", ImportModelConfig(path=str(folder)))
        assert raised.value.code == "needs_code"
        assert not marker.exists()
        assert MODELS.select(studio.db()) == []
        allowed = ImportModelConfig(path=str(folder), allow_code=True)
        run(studio, "import_model", allowed)
        [row] = MODELS.select(studio.db())
        assert (row.status, row.trust_remote_code) == ("ready", True)


def test_a_cancelled_copy_leaves_nothing(studio: Studio, tmp_path: Path) -> None:
    folder = save_tiny_llama(tmp_path / "llama")
    control = JobControl()
    control.cancel()
    job = studio.submit("import_model", ImportModelConfig(path=str(folder), copy=True))
    with pytest.raises(Cancelled):
        studio.finish_now(job, RecordingReporter(), control)
    assert MODELS.select(studio.db()) == []
    models = studio.paths.home / "models"
    assert not models.exists() or list(models.iterdir()) == []
    assert (folder / "model.safetensors").exists()


def test_the_report_is_stored_with_the_model(studio: Studio, model: str, stories: str) -> None:
    config = ReportModelConfig(model=model, dataset=stories, format="nf4", tokens=600)
    found = run(studio, "report_model", config)
    kept = (MODELS.get(studio.db(), model).report or {})["nf4"]
    assert (kept["format"], kept["reference"]) == ("nf4", "bf16")
    assert 0 < kept["tokens"] <= 600
    assert 0 < kept["agreement"] <= 1
    assert kept["kl"] > 0
    assert math.isclose(kept["perplexity"], found["perplexity"])
    again = ReportModelConfig(model=model, dataset=stories, format="int8", tokens=600)
    run(studio, "report_model", again)
    report = MODELS.get(studio.db(), model).report or {}
    assert set(report) == {"nf4", "int8"}
    assert report["int8"]["kl"] < report["nf4"]["kl"]
    assert JOBS.select(studio.db(), limit=1)[0].title == "Quantisation report of llama"


def test_the_lens_ends_with_the_models_own_word(studio: Studio, model: str) -> None:
    found = run(studio, "prompt_lens", PromptLensConfig(model=model, prompt="The fox", top_k=3))
    loaded = studio.models.get(
        MODELS.get(studio.db(), model), studio.paths.absolute(MODELS.get(studio.db(), model).path)
    )
    ids = [token["id"] for token in found["tokens"]]
    with torch.no_grad():
        own_SV = loaded.model(torch.tensor([ids])).logits[0].softmax(-1)
    assert found["layers"] == ["embedding", *range(loaded.num_layers)]
    for position, cell in enumerate(found["cells"][-1]):
        assert len(cell) == 3
        best = int(own_SV[position].argmax())
        assert cell[0][0] == loaded.tokenizer.decode([best])
        assert cell[0][1] == pytest.approx(float(own_SV[position, best]), abs=2e-6)
    with pytest.raises(StudioError, match="at most 256 fit"):
        run(studio, "prompt_lens", PromptLensConfig(model=model, prompt="The fox ran. " * 300))


@pytest.mark.skipif(sys.platform != "linux", reason="asks glibc")
def test_unloading_gives_memory_back_to_the_system() -> None:
    process = psutil.Process()
    small = [bytearray(60_000) for _ in range(5000)]  # too small for pages of their own
    pin = bytearray(60_000)  # lies behind them, so that the C library keeps what is freed
    before = process.memory_info().rss
    del small
    LoadedModels().unload()
    assert before - process.memory_info().rss > 200_000_000
    assert len(pin) == 60_000


def test_files_that_went_behind_our_back(studio: Studio, model: str, stories: str) -> None:
    path = studio.paths.absolute(MODELS.get(studio.db(), model).path)
    path.rename(path.with_name("elsewhere"))
    lens = PromptLensConfig(model=model, prompt="Once upon a time")
    assert run(studio, "prompt_lens", lens)["tokens"]  # what is loaded can still be used
    studio.models.unload()
    report = ReportModelConfig(model=model, dataset=stories, format="int8")
    for kind, config in (("prompt_lens", lens), ("report_model", report)):
        with pytest.raises(StudioError, match=r"no longer at .*Delete the model here") as caught:
            run(studio, kind, config)
        assert caught.value.code == "not_found"
