"""How much memory this program may still take: the machine's, less what a limit withholds.

A container's limit (cgroup) and a process's (ulimit) are often far below what the machine has
free. A Jetson's GPU uses the machine's memory, so there the same number holds for both.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from mistudio.system.gpu import GpuReader, GpuSample


@dataclass(frozen=True)
class Budget:
    """Bytes that may be taken now, and all there are; `limit` says what sets them."""

    free: int
    total: int
    limit: str = "memory"
    """memory, container, process or gpu"""
    shared: bool = False
    """whether a GPU takes its part from here"""


def memory_budget(
    cgroup: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> Budget:
    """The machine's memory within the limits of container and process."""
    import psutil

    memory = psutil.virtual_memory()
    found = [Budget(memory.available, memory.total)]
    for limit in (_container(cgroup, own), _process()):
        if limit is not None:
            found.append(limit)
    return min(found, key=lambda budget: budget.free)


def gpu_budget(sample: GpuSample | None = None) -> Budget | None:
    """The GPU's memory; the machine's where they share it; None without a GPU."""
    seen = sample or _look()
    if seen is None:
        return None
    if seen.shared_memory or seen.memory_total is None or seen.memory_used is None:
        memory = memory_budget()
        return Budget(memory.free, memory.total, memory.limit, shared=True)
    return Budget(max(0, seen.memory_total - seen.memory_used), seen.memory_total, "gpu")


def _look() -> GpuSample | None:
    reader = GpuReader()
    reader.open()
    try:
        return reader.take()
    finally:
        reader.close()


def _container(root: Path, own: Path) -> Budget | None:
    """The tightest limit of this process's cgroup (version 2) and those above it."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    name = next((line[3:] for line in lines if line.startswith("0::")), "/")
    folder = root / name.strip("/")
    tightest: Budget | None = None
    while True:
        found = _cgroup(folder)
        if found is not None and (tightest is None or found.free < tightest.free):
            tightest = found
        if folder == root or root not in folder.parents:
            return tightest
        folder = folder.parent


def _cgroup(folder: Path) -> Budget | None:
    try:
        total = int((folder / "memory.max").read_text())  # "max": no limit
        used = int((folder / "memory.current").read_text())
        parts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    # pages of files that were read are given back when room is short
    reclaimable = int(parts.get("inactive_file", 0)) + int(parts.get("active_file", 0))
    return Budget(max(0, total - used + reclaimable), total, "container")


def _process() -> Budget | None:
    """What ulimit leaves of data (-d) and of addresses (-v)."""
    if sys.platform == "win32":
        return None
    import resource

    import psutil

    info = psutil.Process().memory_info()
    used = {"RLIMIT_DATA": getattr(info, "data", info.rss), "RLIMIT_AS": info.vms}
    found: list[Budget] = []
    for name, taken in used.items():
        limit = resource.getrlimit(getattr(resource, name))[0] if hasattr(resource, name) else -1
        if limit not in (-1, resource.RLIM_INFINITY):
            found.append(Budget(max(0, limit - taken), limit, "process"))
    return min(found, key=lambda budget: budget.free) if found else None
