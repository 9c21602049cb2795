"""Keeps numpy off the one kind of processor's instructions with which it sorts slowly.

On AMD's Zen 4 numpy's sorting with AVX-512 takes about four times as long as with AVX2: one
instruction, the compressed store, is slow there (numpy/x86-simd-sort, issue 6). numpy chooses by
what a processor can do and not by what it does well, so it is told before it is imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from pathlib import Path

VARIABLE = "NPY_DISABLE_CPU_FEATURES"
# The names of numpy 2.2 and 2.3, then those since 2.4. It passes over names that it has not, with a
# warning for developers of modules, which Python hides.
AVX512 = (
    "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR",
    "X86_V4",
)
_ZEN_3_AND_4 = "25"  # cpu family; of these two only Zen 4 has AVX-512
_ENOUGH = 8192  # characters: the first processor's lines


def avoid_slow_sorts(
    environment: MutableMapping[str, str] = os.environ,
    processors: Path = Path("/proc/cpuinfo"),
) -> bool:
    """Tell numpy to do without AVX-512 on Zen 4, before it is imported; whether it was told.

    What the user has set stays, and so does a numpy that is imported already.
    """
    if sys.platform != "linux" or "numpy" in sys.modules or VARIABLE in environment:
        return False
    if not _is_zen_4(processors):
        return False
    environment[VARIABLE] = " ".join(AVX512)
    return True


def _is_zen_4(processors: Path) -> bool:
    try:
        with processors.open(encoding="utf-8") as file:
            text = file.read(_ENOUGH)
    except (OSError, UnicodeDecodeError):
        return False
    told = dict[str, str]()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        told.setdefault(name.strip(), value.strip())
    return (
        told.get("vendor_id") == "AuthenticAMD"
        and told.get("cpu family") == _ZEN_3_AND_4
        and "avx512f" in told.get("flags", "").split()
    )
