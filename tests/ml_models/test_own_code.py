"""Code from a model's folder runs only when that is allowed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mistudio.core.errors import Unsupported
from mistudio.ml.loading import inspect_model, load_model, load_tokenizer
from mistudio.ml.model_check import check_model
from tests.helpers.own_code import private_modules, save_own_code
from tests.helpers.tiny import save_tiny_llama, tiny_llama

CPU = torch.device("cpu")
SIZES = {"hidden_size": 64, "intermediate_size": 128}


@pytest.fixture(autouse=True)
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with private_modules(tmp_path / "modules", monkeypatch):
        yield


def test_nothing_runs_without_permission(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    folder = save_own_code(tmp_path / "own", marker)
    for look in (inspect_model, lambda path: load_model(path, CPU)):
        with pytest.raises(Unsupported, match="runs its repository's code") as caught:
            look(folder)
        assert caught.value.code == "needs_code"
    load_tokenizer(folder)  # a plain one, which needs no code
    assert not marker.exists()
    assert not (tmp_path / "modules").exists()


@pytest.mark.parametrize("form", ["fp32", "nf4"])
def test_with_permission_it_is_a_model_like_any_other(tmp_path: Path, form: str) -> None:
    marker = tmp_path / "marker"
    # 4-bit kernels want rows of 64
    folder = save_own_code(tmp_path / "own", marker, **SIZES)
    loaded = load_model(folder, CPU, form, allow_code=True)
    assert marker.read_text() == "model"
    assert (loaded.facts.needs_code, loaded.facts.architecture) == (True, "OwnForCausalLM")
    assert loaded.blocks.path == "model.layers"
    assert check_model(loaded).lens_why == ""
    if form == "fp32":
        ids_BS = torch.arange(20).view(2, 10)
        assert torch.equal(loaded.model(ids_BS).logits, tiny_llama(**SIZES)(ids_BS).logits)


def test_permission_does_not_run_code_that_is_not_needed(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    folder = save_own_code(tmp_path / "own", marker)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_type": "llama"}))
    assert not load_model(folder, CPU, allow_code=True).facts.needs_code
    assert not marker.exists()


def test_a_tokenizer_of_own_code_is_refused_too(tmp_path: Path) -> None:
    folder = save_tiny_llama(tmp_path / "tiny")
    (folder / "tokenizer.json").unlink()
    settings = {"auto_map": {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(Unsupported) as caught:
        load_tokenizer(folder)
    assert caught.value.code == "needs_code"
