"""Style, layering and types: the same checks a contributor runs by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = Path(sys.executable).parent

CHECKS = {
    "style": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
    "layers": ["lint-imports", "--no-cache"],
    "types": ["pyright", "--pythonpath", sys.executable],
}


@pytest.mark.parametrize("name", CHECKS)
def test_the_tree_is_clean(name: str) -> None:
    program, *words = CHECKS[name]
    found = subprocess.run(
        [str(SCRIPTS / program), *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-2000:]


def test_the_window_needs_no_torch_to_start() -> None:
    check = (
        "import sys, mistudio.gui.app, mistudio.gui.main_window\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'mistudio.ml'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
