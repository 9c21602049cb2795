"""Loading torch's libraries ahead of the import."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
from mistudio.system.preload import preload_torch
loaded = preload_torch()
assert "libtorch_cpu.so" in loaded, loaded
assert "torch" not in sys.modules
import torch
assert float(torch.arange(4.0) @ torch.arange(4.0)) == 14.0
assert preload_torch() == []
"""


def test_torch_works_after_its_libraries_were_loaded() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
