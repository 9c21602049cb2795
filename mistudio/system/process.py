"""This process: how long it has lived and how much memory it holds."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path


def age_s() -> float:
    """Seconds since this process began.

    Linux counts its start in hundredths since the machine's own start; through the time of day it
    is known to a whole second only.
    """
    if sys.platform == "linux":
        # the name in brackets may hold spaces: fields are counted from behind it
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - began
    import psutil  # here and below: a start that needs neither does not wait for it

    return time.time() - psutil.Process().create_time()


def resident_bytes() -> int:
    """Bytes of memory that this process holds."""
    import psutil

    return int(psutil.Process().memory_info().rss)
