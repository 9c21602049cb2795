"""The checks that explain an installation that does not work."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mistudio.system import doctor
from mistudio.system.doctor import Check


def test_the_qt_that_aborts_is_recognised() -> None:
    (check,) = doctor.qt_version("6.12.0", (3, 11))
    assert check.ok is False
    assert check.advice == 'pip install "PySide6-Essentials<6.12"'
    assert next(doctor.qt_version("6.12.0", (3, 12))).ok is True
    assert next(doctor.qt_version("6.8.0.2", (3, 10))).ok is True
    assert next(doctor.qt_version("6.7.3", (3, 12))).ok is False


def test_missing_libraries_become_one_apt_line() -> None:
    lost = {"xcb-cursor", "EGL"}
    check = next(doctor.display_libraries(lambda name: None if name in lost else "x", "linux"))
    assert check.ok is False
    assert check.advice == "sudo apt install libxcb-cursor0 libegl1"
    assert next(doctor.display_libraries(lambda name: "x", "linux")).ok is True
    assert list(doctor.display_libraries(lambda name: None, "darwin")) == []


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    assert next(doctor.data_folder(tmp_path / "new")).ok is True
    file = tmp_path / "file"
    file.write_text("")
    check = next(doctor.data_folder(file / "below"))
    assert check.ok is False
    assert "cannot be written" in check.sentence


def test_this_sqlite_has_full_text_search() -> None:
    assert next(doctor.sqlite_features()).ok is True


def test_report_is_json_and_fails_only_for_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Output:
        def result(self, values: Mapping[str, Any], lines: Sequence[str] = ()) -> None:
            self.values, self.lines = values, lines

    output = Output()
    found = [Check("A", True, "Fine."), Check("B", None, "Slow.", "Wait.")]
    monkeypatch.setattr(doctor, "checks", lambda home: found)
    assert doctor.print_report(output, str(tmp_path)) == 0
    assert json.loads(json.dumps(output.values))["checks"][1]["advice"] == "Wait."
    assert [line.split()[0] for line in output.lines] == ["ok", "note", "Wait."]
    found.append(Check("C", False, "Broken."))
    assert doctor.print_report(output, str(tmp_path)) == 1
