"""A model folder that only its own Python code can build; running that code leaves a marker."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.tiny import save_tiny_llama

_CONFIGURATION = """
from pathlib import Path
from transformers import LlamaConfig

Path({marker!r}).write_text("configuration")


class OwnConfig(LlamaConfig):
    model_type = "own"
"""
_MODELING = """
from pathlib import Path
from transformers import LlamaForCausalLM
from .configuration_own import OwnConfig

Path({marker!r}).write_text("model")


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


def save_own_code(folder: Path, marker: Path, **sizes: int) -> Path:
    """A tiny Llama under a name of its own; its code writes `marker` when it is imported."""
    save_tiny_llama(folder, **sizes)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config |= {
        "model_type": "own",
        "architectures": ["OwnForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_own.OwnConfig",
            "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
        },
    }
    file.write_text(json.dumps(config))
    for name, code in (("configuration", _CONFIGURATION), ("modeling", _MODELING)):
        (folder / f"{name}_own.py").write_text(code.format(marker=str(marker)))
    return folder


@contextmanager
def private_modules(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let transformers keep copies of such code in `folder`, and forget them afterwards."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(folder))
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    try:
        yield
    finally:
        for name in set(sys.modules) - before:
            if name.startswith("transformers_modules"):
                del sys.modules[name]
