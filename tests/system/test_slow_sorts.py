"""numpy is told to sort without AVX-512 on Zen 4 alone, and starts as it is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mistudio.system import slow_sorts
from mistudio.system.slow_sorts import VARIABLE, avoid_slow_sorts

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the processor")

ZEN_4 = ("AuthenticAMD", "25", "fpu avx2 avx512f avx512_vbmi2")
ZEN_3 = ("AuthenticAMD", "25", "fpu avx2")
ZEN_5 = ("AuthenticAMD", "26", "fpu avx2 avx512f")
INTEL = ("GenuineIntel", "6", "fpu avx2 avx512f")


@pytest.fixture(autouse=True)
def numpy_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "numpy", raising=False)


def processors(folder: Path, told: tuple[str, str, str]) -> Path:
    vendor, family, flags = told
    lines = ["processor\t: 0", f"vendor_id\t: {vendor}", f"cpu family\t: {family}", "model\t\t: 17"]
    path = folder / "cpuinfo"
    path.write_text("\n".join([*lines, f"flags\t\t: {flags}", "", *lines]), "utf-8")
    return path


@pytest.mark.parametrize(("told", "slow"), [(ZEN_4, True), (ZEN_3, False), (ZEN_5, False)])
def test_only_zen_4_is_slow(tmp_path: Path, told: tuple[str, str, str], slow: bool) -> None:
    environment = dict[str, str]()
    assert avoid_slow_sorts(environment, processors(tmp_path, told)) is slow
    assert (VARIABLE in environment) is slow


def test_others_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = dict[str, str]()
    assert not avoid_slow_sorts(nothing, processors(tmp_path, INTEL))
    assert not avoid_slow_sorts(nothing, tmp_path / "not there")
    own = {VARIABLE: "AVX2"}
    assert not avoid_slow_sorts(own, processors(tmp_path, ZEN_4))
    assert own == {VARIABLE: "AVX2"}
    monkeypatch.setitem(sys.modules, "numpy", sys)  # imported: nothing that is set reaches it
    assert not avoid_slow_sorts(nothing, processors(tmp_path, ZEN_4))
    assert not nothing


def test_numpy_starts_silently_and_without_avx512() -> None:
    asks = (
        "import json, sys, numpy\n"
        "from numpy._core._multiarray_umath import __cpu_features__ as has\n"
        "from numpy._core._multiarray_umath import __cpu_dispatch__ as uses\n"
        "print(json.dumps([name for name in uses if has[name]]))"
    )
    environment = os.environ | {VARIABLE: " ".join(slow_sorts.AVX512)}
    done = subprocess.run(
        [sys.executable, "-c", asks], env=environment, capture_output=True, text=True, check=True
    )
    assert not done.stderr
    used = json.loads(done.stdout)
    assert not [name for name in used if name.startswith("AVX512") or name == "X86_V4"]
