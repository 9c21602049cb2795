"""The wheel, installed into an environment of its own: nothing is taken from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    out = tmp_path_factory.mktemp("dist")
    words = [sys.executable, "-m", "hatchling", "build", "-d", str(out)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    return out


def test_the_installed_wheel_passes_its_own_check(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    assert list(built.glob("*.tar.gz"))
    own = tmp_path / "env"
    venv.create(own, with_pip=True)
    python = own / "bin" / "python"
    words = [str(python), "-m", "pip", "install", "-q", "--no-deps", str(wheel)]
    subprocess.run(words, check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(own)}))
    # the libraries of this environment; a .pth in there, as of an editable install, is not read
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    code = "from mistudio.core.paths import resources; print(resources())"
    found = subprocess.run(
        [str(python), "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(found.stdout.strip()) == site / "mistudio" / "resources"
    done = subprocess.run(
        [str(own / "bin" / "mistudio"), "--selftest"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (own / "share" / "applications" / "mistudio.desktop").is_file()
    assert (own / "share" / "icons" / "hicolor" / "48x48" / "apps" / "mistudio.png").is_file()
