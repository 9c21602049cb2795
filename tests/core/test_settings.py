"""The settings file: written from any thread, the newest state last."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from mistudio.core.errors import StudioError
from mistudio.core.settings import SettingsFile


def test_an_older_snapshot_never_replaces_a_newer_one(tmp_path: Path) -> None:
    settings = SettingsFile(tmp_path / "settings.json")
    settings.remember("form", {"rows": 1})
    older = settings.snapshot()
    settings.remember("form", {"rows": 2})
    settings.save()
    late = threading.Thread(target=settings.write, args=(older,))
    late.start()
    late.join()
    assert json.loads(settings.path.read_text())["remembered"] == {"form": {"rows": 2}}
    assert SettingsFile(settings.path).recall("form") == {"rows": 2}


def test_a_snapshot_does_not_change_with_the_settings(tmp_path: Path) -> None:
    settings = SettingsFile(tmp_path / "settings.json")
    settings.remember("form", {"layers": [1]})
    taken = settings.snapshot()
    assert not settings.dirty
    settings.recall("form")["layers"].append(2)
    settings.remember("tab", "Models")
    assert settings.dirty
    assert taken.content["remembered"] == {"form": {"layers": [1]}}


def test_a_file_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    settings = SettingsFile(tmp_path / "taken" / "settings.json")
    with pytest.raises(StudioError, match="save the settings"):
        settings.save()
