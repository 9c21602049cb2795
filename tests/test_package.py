"""What a wheel and a source distribution hold, without building them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    """The files of the repository, or of the unpacked source where there is none."""
    done = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("needs the repository")
    return {name for name in done.stdout.splitlines() if (ROOT / name).is_file()}


def test_the_wheel_holds_the_program_and_its_resources(tracked: set[str]) -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed")
    builder = wheel.WheelBuilder(str(ROOT))
    held = {file.distribution_path for file in builder.recurse_included_files()}
    wanted = {name for name in tracked if name.startswith("mistudio/")}
    wanted |= {
        f"mistudio/{name}"
        for name in tracked
        if name.startswith("resources/") and not name.startswith("resources/screenshots/")
    }
    assert held == wanted
    assert "mistudio/resources/sample/model/model.safetensors" in held


def test_the_wheel_lays_the_menu_entry_where_desktops_look() -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed")
    shared = wheel.WheelBuilder(str(ROOT)).config.shared_data
    places = {place for source, place in shared.items() if Path(source).exists()}
    assert len(places) == len(shared)
    assert places >= {"share/applications/mistudio.desktop", "share/icons"}
    assert any(place.endswith(".metainfo.xml") for place in places)


def test_the_source_holds_what_builds_and_tests_it(tracked: set[str]) -> None:
    sdist = pytest.importorskip("hatchling.builders.sdist", reason="hatchling is not installed")
    builder = sdist.SdistBuilder(str(ROOT))
    held = {file.distribution_path for file in builder.recurse_included_files()}
    wanted = {n for n in tracked if n.split("/")[0] in ("mistudio", "resources", "tests", "docs")}
    wanted |= {"README.md", "CHANGELOG.md", "LICENSE", "mistudio.spec"}
    assert wanted <= held
    assert not {n for n in held if "__pycache__" in n}
