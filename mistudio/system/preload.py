"""Maps torch's libraries into the process while other threads go on.

`import torch` loads them under the interpreter lock, which freezes a window for as long as the
disk and the linker take. A foreign call gives the lock up, so the same loading goes unnoticed.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
import sys
from pathlib import Path

log = logging.getLogger(__name__)

LIBRARIES = ("libtorch_cpu.so", "libtorch_cuda.so", "libtorch_python.so")


def preload_torch() -> list[str]:
    """Load torch's shared libraries without the interpreter lock; returns the names loaded.

    Does nothing where torch is loaded already, is missing, or is laid out in another way.
    """
    if "torch" in sys.modules or sys.platform != "linux":
        return []
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return []
    open_library = ctypes.CDLL(None).dlopen
    open_library.restype = ctypes.c_void_p
    open_library.argtypes = (ctypes.c_char_p, ctypes.c_int)
    folder = Path(found.origin).parent / "lib"
    loaded: list[str] = []
    for name in LIBRARIES:
        path = folder / name
        if path.exists() and open_library(os.fsencode(path), os.RTLD_LAZY | os.RTLD_LOCAL):
            loaded.append(name)
    log.debug("loaded ahead of torch: %s", loaded)
    return loaded
