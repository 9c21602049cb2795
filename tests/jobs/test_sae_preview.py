"""What the preview of an SAE's files tells is what importing them brings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mistudio.core.configs import ExportSaeConfig, ImportSaeConfig
from mistudio.jobs import sae_preview
from mistudio.jobs.runner import Studio
from mistudio.jobs.sae_preview import preview_sae
from mistudio.ml.formats.stored import stored_dtype
from mistudio.store.tables import MODELS, SAES
from tests.helpers.studio import run


@pytest.fixture
def exported(trained: Studio, tmp_path: Path) -> Callable[[str], Path]:
    """Writes the trained SAE in a format, and gives the folder."""

    def write(format: str) -> Path:
        out = tmp_path / format
        run(trained, "export_sae", ExportSaeConfig(format=format, out=str(out)))
        return out

    return write


@pytest.mark.parametrize("format", ["saelens", "dictionary_learning"])
def test_the_preview_agrees_with_the_import(
    trained: Studio, exported: Callable[[str], Path], format: str
) -> None:
    path = str(exported(format))
    before = len(SAES.select(trained.db()))
    found = preview_sae(trained, path)
    assert len(SAES.select(trained.db())) == before  # nothing is kept
    row = SAES.get(trained.db(), str(run(trained, "import_sae", ImportSaeConfig(path=path))["sae"]))
    assert (found.encoder, found.architecture) == (row.encoder_type, row.architecture)
    assert (found.d_in, found.n_latents) == (row.d_in, row.n_latents)
    assert (found.layer, found.hook, found.hook_out) == (row.layer, row.hook_in, None)
    assert MODELS.get(trained.db(), row.model_id or "").name == found.model
    assert (found.missing, found.doubt, found.dtype) == ((), "", "float32")
    assert found.size_bytes > 4 * 2 * row.d_in * row.n_latents


def edit(folder: Path, **metadata: object) -> None:
    path = folder / "cfg.json"
    config = json.loads(path.read_text())
    config["metadata"] = {**config["metadata"], "layer": None, "hook": None, **metadata}
    path.write_text(json.dumps(config))


def test_what_cannot_be_used_is_doubted_and_asked_for(
    trained: Studio, exported: Callable[[str], Path]
) -> None:
    folder = exported("saelens")
    edit(folder, model_name="another", hook_name="blocks.2.hook_z")
    found = preview_sae(trained, str(folder))
    assert (found.layer, found.hook, found.missing) == (2, None, ("model", "hook"))
    assert found.doubt.startswith("This SAE reads 'z'; supported are resid_post")
    assert "--" not in found.doubt
    edit(folder, model_name="tiny", hook_name="blocks.9.hook_resid_post")
    found = preview_sae(trained, str(folder))
    assert (found.model, found.missing) == ("", ("model",))
    assert found.doubt == "This SAE reads block 9; the model has 4."
    edit(folder, hook_name="blocks.0.hook_resid_pre")
    found = preview_sae(trained, str(folder))
    assert (found.layer, found.hook, found.doubt) == (0, "resid_pre", "")


def test_large_files_are_only_named(
    trained: Studio, exported: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = exported("saelens")
    monkeypatch.setattr(sae_preview, "LARGEST", 1000)
    found = preview_sae(trained, str(folder))
    assert (found.format, found.dtype, found.is_read) == ("SAELens", "float32", False)
    assert (found.n_latents, found.missing) == (0, ())


def test_stored_numbers_are_told_from_headers(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(3, np.float16), y=np.zeros(2, np.float32))
    torch.save({"w": torch.zeros(2).bfloat16(), "n": torch.tensor(3)}, tmp_path / "a.pt")
    (tmp_path / "b.npz").write_bytes(b"PK")
    assert stored_dtype(tmp_path / "a.npz") == "float16, float32"
    assert stored_dtype(tmp_path / "a.pt") == "bfloat16"
    assert stored_dtype(tmp_path / "b.npz") == ""
    assert stored_dtype(tmp_path / "none.safetensors") == ""
