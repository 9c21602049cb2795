"""Fixture `hub`: a running local Hub, an empty Hugging Face cache, and a client that asks it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.local_hub import LocalHub

VARIABLES = (
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_TOKEN_PATH",
    "HF_DATASETS_CACHE",
)


@pytest.fixture
def hf_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty HF_HOME that this process and its children use."""
    home = tmp_path / "hf_home"
    home.mkdir()
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from huggingface_hub import constants
    from huggingface_hub.utils import _cache_manager

    cache = str(home / "hub")
    monkeypatch.setattr(constants, "HF_HOME", str(home))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
    monkeypatch.setattr(_cache_manager, "HF_HUB_CACHE", cache)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(home / "stored_tokens"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", constants.ENDPOINT)
    if "datasets" in sys.modules:
        from datasets import config

        for name, folder in (("HF_CACHE_HOME", "."), ("HF_DATASETS_CACHE", "datasets")):
            monkeypatch.setattr(config, name, home / folder)
        monkeypatch.setattr(config, "HF_ENDPOINT", config.HF_ENDPOINT)
        monkeypatch.setattr(config, "HF_HUB_OFFLINE", False)
    return home


@pytest.fixture
def hub(tmp_path: Path, hf_home: Path) -> Iterator[LocalHub]:
    """A running local Hub without repositories; `hub.add("models", "o/n", {...})` adds one."""
    from mistudio.hub import setup

    server = LocalHub(tmp_path / "hub_root").start()
    before = setup.current()
    setup.configure(address=server.url)
    yield server
    setup.use(before)
    server.close()
