"""A full disk is a sentence, and leaves no folder behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from mistudio.core.errors import DiskFull, StudioError
from mistudio.ml.formats import tensors
from mistudio.ml.training.checkpoint import Checkpoint, save_checkpoint


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("I/O error: No space left on device (os error 28)", DiskFull),
        ("I/O error: something (os error 5)", StudioError),
    ],
)
def test_failed_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str, error: type[StudioError]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError(message)

    monkeypatch.setattr(tensors, "save_file", full)
    with pytest.raises(error, match=r"model\.safetensors") as caught:
        save_checkpoint(tmp_path, Checkpoint(1, {"W": torch.ones(2)}, {}, {}))
    assert type(caught.value) is error
    assert [p for p in tmp_path.rglob("*") if p.name != "checkpoints"] == []
