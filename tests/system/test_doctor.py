"""The checks that explain an installation that does not work."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mistudio.system import desktop, doctor
from mistudio.system.doctor import Check
from mistudio.system.fonts import CJK, EMOJI, Fonts


def test_the_qt_that_aborts_is_recognised() -> None:
    (check,) = doctor.qt_version("6.12.0", (3, 11))
    assert check.ok is False
    assert check.advice == 'pip install "PySide6-Essentials<6.12"'
    assert next(doctor.qt_version("6.12.0", (3, 12))).ok is True
    assert next(doctor.qt_version("6.8.0.2", (3, 10))).ok is True
    assert next(doctor.qt_version("6.7.3", (3, 12))).ok is False


@pytest.mark.skipif(sys.platform != "linux", reason="apt and X are of Linux")
def test_missing_libraries_become_one_apt_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    lost = {"libxcb-cursor.so.0", "libEGL.so.1"}
    check, screen = doctor.display_libraries(lambda name: name not in lost, {})
    assert check.ok is False
    assert "2 system libraries" in check.sentence
    assert "libEGL.so.1, libxcb-cursor.so.0" in check.sentence
    assert check.advice == "sudo apt install libegl1 libxcb-cursor0"
    assert (screen.name, screen.ok) == ("Display", None)
    assert next(doctor.display_libraries(lambda name: True, {})).ok is True


def test_fonts_that_are_missing_are_boxes() -> None:
    def of(count: int, lacking: str) -> Check:
        return next(doctor.fonts(Fonts(count, lacking)))

    assert of(0, CJK + EMOJI).ok is False
    assert of(0, CJK + EMOJI).advice == "sudo apt install fonts-dejavu-core"
    assert of(3, "").ok is True
    assert of(3, CJK[1]).advice == "sudo apt install fonts-noto-cjk"
    assert of(3, CJK + EMOJI).advice == "sudo apt install fonts-noto-cjk fonts-noto-color-emoji"
    assert of(3, EMOJI).ok is None


@pytest.mark.parametrize("packed", [False, True])
def test_torch_is_asked_in_a_process_of_its_own(
    packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = '{"event": "check", "found": "torch 9 on Card"}\n' if packed else "9|Card\n"
    asked: list[list[str]] = []

    def run(words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(words)
        return subprocess.CompletedProcess(words, 0, answer, "")

    monkeypatch.setattr(sys, "frozen", packed, raising=False)
    monkeypatch.setattr(subprocess, "run", run)
    found = list(doctor.torch_device())
    assert [check.ok for check in found] == [True] * len(found)
    assert found[0].sentence == ("torch 9 on Card." if packed else "torch 9.")
    assert ("selftest" in asked[0]) is packed  # a bundle has no interpreter that takes code


def test_the_menu_entry_starts_a_program_that_is_there(tmp_path: Path) -> None:
    program = tmp_path / "mi studio"
    (check,) = doctor.menu_entry(tmp_path)
    assert (check.ok, check.advice) == (None, "mistudio desktop install")
    desktop.install([str(program)], tmp_path)
    (check,) = doctor.menu_entry(tmp_path)
    assert check.ok is None
    assert f"{program}, which is not there" in check.sentence
    program.write_text("")
    assert next(doctor.menu_entry(tmp_path)).ok is True


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
