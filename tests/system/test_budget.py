"""The memory that this program may take: the machine's, the container's, the process's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from mistudio.system.budget import gpu_budget, memory_budget
from mistudio.system.gpu import GpuSample

GB = 10**9


def container(folder: Path, name: str, limit: str, used: int, files: int = 0) -> None:
    folder = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\nactive_file {files}\ninactive_file 0\n")


def test_without_a_limit_it_is_what_the_machine_has(tmp_path: Path) -> None:
    found = memory_budget(tmp_path, tmp_path / "none")
    assert found.total == psutil.virtual_memory().total
    assert found.free == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    assert found.limit == "memory"


def test_the_tightest_container_counts_and_pages_of_files_are_free(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/a/b\n")
    container(tmp_path, "a", str(GB // 2), 450_000_000, files=50_000_000)
    container(tmp_path, "a/b", "max", 450_000_000)
    found = memory_budget(tmp_path, own)
    assert (found.free, found.total, found.limit) == (100_000_000, GB // 2, "container")
    container(tmp_path, "a/b", str(GB // 4), GB)
    assert memory_budget(tmp_path, own).free == 0


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA holds for mappings on Linux only")
def test_a_limit_of_the_process_counts() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_DATA, (300_000_000,) * 2)\n"
        "from mistudio.system.budget import memory_budget\n"
        "found = memory_budget(); print(found.limit, found.total, found.free)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    limit, total, free = done.stdout.split()
    assert (limit, int(total)) == ("process", 300_000_000)
    assert 0 < int(free) < 300_000_000


def test_a_gpu_with_its_own_memory_and_one_without() -> None:
    own = gpu_budget(GpuSample("GPU", 3.0, 2 * GB, 8 * GB, 40.0))
    assert own is not None
    assert (own.free, own.total, own.limit, own.shared) == (6 * GB, 8 * GB, "gpu", False)
    jetson = gpu_budget(GpuSample("Tegra", 3.0, None, None, 40.0, shared_memory=True))
    assert jetson is not None
    assert jetson.shared
    assert jetson.total <= psutil.virtual_memory().total
