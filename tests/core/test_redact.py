"""What a report tells nobody: access tokens and where things are on a machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from mistudio.core.redact import without_private_paths
from mistudio.gui import problem_report

KNOWN = {"/home/anna b/data": "<data>", "/opt/py": "<python>", "/home/anna b": "~"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("open /home/anna b/data/models/m_1/x failed", "open <data>/models/m_1/x failed"),
        ('File "/opt/py/lib/torch/a.py", line 3', 'File "<python>/lib/torch/a.py", line 3'),
        ('"path": "/media/my disk/private letters.txt"', '"path": "<path>"'),
        ("cannot read /srv/secret/letters.txt: no room", "cannot read <path>: no room"),
        ("see https://huggingface.co/gpt2 at 3/4 of rows/s", None),
        ("1,024 / 2,048 tokens, and/or nothing", None),
        ("at /tmp", "at <path>"),
    ],
)
def test_paths_tell_nothing_of_the_user(text: str, told: str | None) -> None:
    assert without_private_paths(text, KNOWN) == (text if told is None else told)


def test_a_report_has_versions_device_and_last_errors_but_nothing_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "anna" / "studio"
    (home / "logs").mkdir(parents=True)
    log = home / "logs" / "mistudio.jsonl"
    token = "hf_" + "a1B2" * 8
    lines = [
        '{"time": "t1", "level": "error", "text": "could not read ' + f'{home}/models/m_1"' + "}",
        *('{"time": "t2", "level": "info", "text": "quiet"}' for _ in range(60)),
        '{"time": "t3", "level": "info", "text": "asked with ' + token + ' for /srv/anna/x.txt"}',
    ]
    log.write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("HOME", str(tmp_path / "anna"))
    text = problem_report.report(
        f'Traceback\n  File "{problem_report.__file__}", line 1', log, "Device: cpu"
    )
    assert "miStudio 0." in text or "miStudio 1." in text
    assert "PySide6-Essentials 6." in text
    assert "Device: cpu" in text
    assert 'File "<program>/mistudio/gui/problem_report.py", line 1' in text
    assert "t1 could not read <data>/models/m_1" in text
    assert text.count("quiet") == problem_report.LAST_LINES - 1
    for private in (token, "anna", str(tmp_path), "/srv"):
        assert private not in text, private
