"""Gemma Scope 1: params.npz and the folders that say where it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mistudio.core.errors import Damaged, Mismatch, NotFound, StudioError, Unsupported
from mistudio.ml.formats.gemma_scope import read_gemma_scope
from mistudio.ml.formats.registry import detect
from tests.ml_formats.foreign_files import (
    D,
    M,
    agrees,
    inputs,
    kept_above,
    parts,
    pre_activations,
)

RESIDUAL = "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71"
THRESHOLD = torch.linspace(0.1, 1.5, M)


def written(folder: Path, *, unit: bool = True, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: t.numpy() for name, t in parts(unit=unit).items()}
    arrays["threshold"] = THRESHOLD.numpy()
    merged = {name: value for name, value in {**arrays, **changes}.items() if value is not None}
    np.savez(folder / "params.npz", **merged)
    return folder


@pytest.mark.parametrize("unit", [True, False])
def test_it_computes_what_its_authors_compute(tmp_path: Path, unit: bool) -> None:
    folder = written(tmp_path / RESIDUAL, unit=unit)
    sae, metadata = read_gemma_scope(folder)
    p = parts(unit=unit)
    agrees(sae, kept_above(pre_activations(p, inputs(), subtract=False), THRESHOLD.double()), p)
    assert not sae.apply_b_dec_to_input
    assert metadata["hook_name"] == "blocks.20.hook_resid_post"
    assert metadata["model_name"] == "google/gemma-2-2b"
    assert detect(folder).format.name == "gemma_scope"


@pytest.mark.parametrize("unit", [True, False])
def test_one_on_the_embedding_reads_what_the_model_makes_of_it(tmp_path: Path, unit: bool) -> None:
    folder = "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_44"
    sae, _ = read_gemma_scope(written(tmp_path / folder, unit=unit))
    p, x = parts(unit=unit), inputs()
    f = kept_above(pre_activations(p, x / D**0.5, subtract=False), THRESHOLD.double())
    y = (f @ p["W_dec"].double() + p["b_dec"].double()) * D**0.5
    assert torch.equal(sae.encode(x) > 0, f > 0)
    assert (sae.reconstruct(x).double() - y).abs().max() <= 3e-6 * y.abs().max()


@pytest.mark.parametrize(
    ("path", "hook", "model"),
    [
        ("google/gemma-scope-9b-it-res/layer_9/x", "blocks.9.hook_resid_post", "gemma-2-9b-it"),
        ("models--google--gemma-scope-27b-pt-mlp/snapshots/ab/layer_0/x", "blocks.0.hook_mlp_out",
         "gemma-2-27b"),
        ("gemma-scope-2b-pt-att/layer_1/x", "blocks.1.attn.hook_z", "gemma-2-2b"),
        ("gemma-scope-2b-pt-res/x", None, "gemma-2-2b"),
        ("gemma-scope-2b-pt-res/embedding/width_4k/x", "blocks.0.hook_resid_pre", "gemma-2-2b"),
        ("layer_3/x", None, None),
    ],
)  # fmt: skip
def test_the_folders_say_where_it_reads(
    tmp_path: Path, path: str, hook: str | None, model: str | None
) -> None:
    metadata = read_gemma_scope(written(tmp_path / path))[1]
    assert metadata.get("hook_name") == hook
    assert metadata.get("model_name") == (f"google/{model}" if model else None)


@pytest.mark.parametrize(
    ("path", "changes", "error", "words"),
    [
        ("x", {"threshold": None}, Damaged, "lacks threshold"),
        ("x", {"threshold": np.ones(M + 1, np.float32)}, Mismatch, "threshold"),
        ("x", {"b_enc": np.full(M, np.nan, np.float32)}, Damaged, "b_enc"),
        ("x", {"b_enc": np.array(["text"] * M)}, Damaged, "damaged"),
        ("x", {"b_enc": np.ones(M, np.int64)}, Damaged, "b_enc"),
        ("x", {"scaling_factor": np.ones(M, np.float32)}, Unsupported, "scaling_factor"),
        ("x", {"W_dec": np.ones((M, D + 1), np.float32)}, Unsupported, "transcoder"),
        ("x", {"W_dec": np.ones((M, 2, D), np.float32)}, Unsupported, "Crosscoder"),
    ],
)
def test_what_cannot_be_read_is_a_sentence(
    tmp_path: Path, path: str, changes: dict[str, Any], error: type[StudioError], words: str
) -> None:
    with pytest.raises(error, match=words):
        read_gemma_scope(written(tmp_path / path, **changes))


def test_damaged_files_and_files_with_code_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"params\.npz"):
        read_gemma_scope(tmp_path)
    file = written(tmp_path) / "params.npz"
    whole = file.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"text", whole[:100] + whole[120:]):
        file.write_bytes(broken)
        with pytest.raises(Damaged, match="damaged"):
            read_gemma_scope(tmp_path)
    np.savez(file, W_enc=np.array([{"a": 1}], dtype=object))
    with pytest.raises(Damaged, match="damaged"):
        read_gemma_scope(tmp_path)
