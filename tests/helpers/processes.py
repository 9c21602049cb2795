"""Starts the processes of a training that is shared, as a launcher would."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch

from mistudio.ml.collective import Collective

T = TypeVar("T")
PATIENCE_S = 300.0
PROCESS_S = 1200  # half a minute's work where nothing else runs, many times that beside others

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """A port of the loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_ranks(words: Sequence[str], size: int = 2) -> list[subprocess.Popen[str]]:
    """`python words…` in `size` processes that find each other on the loopback."""
    port = str(free_port())
    return [
        subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "GLOO_SOCKET_IFNAME": "lo",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def finish(ranks: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Exit status, output and errors of each, by rank; none outlives the call."""
    try:
        told = [rank.communicate(timeout=PROCESS_S) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    return [(rank.returncode, *words) for rank, words in zip(ranks, told, strict=True)]


class Together(Collective):
    """Threads in the place of processes, for what is quick to test within one."""

    def __init__(self, rank: int, slots: list[torch.Tensor], barrier: threading.Barrier) -> None:
        self.rank, self.size = rank, len(slots)
        self._slots, self._barrier = slots, barrier

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        self._slots[self.rank] = tensor.clone()
        self._barrier.wait(PATIENCE_S)
        found = list(self._slots)
        self._barrier.wait(PATIENCE_S)
        return found

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.copy_(torch.stack(self.gather(tensor)).sum(0))

    def highest_(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.copy_(torch.stack(self.gather(tensor)).amax(0))

    def lowest(self, value: float) -> float:
        return -float(self.highest_(torch.tensor([-value], dtype=torch.float64)))

    def tell(self, value: Any) -> Any:
        told = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        return json.loads(bytes(self.gather(told)[0].tolist()))

    def close(self) -> None:
        """Let the others go, which wait for one that is not there any more."""
        self._barrier.abort()


def in_threads(work: Callable[[Collective], T], size: int = 2) -> list[T]:
    """What `work` gives to each of some threads that stand for processes, by rank."""
    barrier, slots = threading.Barrier(size), [torch.zeros(0)] * size
    with ThreadPoolExecutor(size) as pool:
        waiting = [pool.submit(work, Together(rank, slots, barrier)) for rank in range(size)]
        return [told.result() for told in waiting]
