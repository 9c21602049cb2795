"""Sums, gathers and broadcasts over the processes that train together; one process needs none."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from mistudio.core.errors import InvalidInput, StudioError
from mistudio.core.launch import Launch

PATIENCE = timedelta(minutes=30)  # for another process within a training
PREPARATION = timedelta(hours=24)  # for the first one to queue, tokenise and measure


class Collective:
    """One process by itself: everything is its own already."""

    rank = 0
    size = 1

    def share(self, rows: int) -> slice:
        """This process's rows of a batch: a run of them, of all runs alike but for one row."""
        return slice(self.rank * rows // self.size, (self.rank + 1) * rows // self.size)

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over the processes, in place; the same to the bit in all of them."""
        return tensor

    def highest_(self, tensor: torch.Tensor) -> torch.Tensor:
        """The largest over the processes, entry by entry and in place."""
        return tensor

    def lowest(self, value: float) -> float:
        """The smallest over the processes."""
        return value

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """The tensors of all processes by rank; they may differ in their first dimension."""
        return [tensor]

    def tell(self, value: Any) -> Any:
        """What rank 0 says: a JSON value, which the others give as anything."""
        return value

    def close(self) -> None:
        """Leave the group."""


SINGLE = Collective()


class ProcessGroup(Collective):
    """Several processes: gloo on the processor, NCCL between GPUs.

    Every method is called by all of them in the same order. Raises `StudioError` if another one
    has ended, or stays silent for half an hour.
    """

    def __init__(self, launch: Launch) -> None:
        """Waits for the others, at the address that the launcher has set.

        Raises `InvalidInput` where there is no GPU for each process of a machine that has some.
        """
        self.rank, self.size = launch.rank, launch.size
        backend = "gloo"
        if torch.cuda.is_available():
            if launch.local_rank >= torch.cuda.device_count():
                raise InvalidInput(
                    f"There are more processes than the {torch.cuda.device_count()} GPUs of this "
                    "machine; start one for each."
                )
            torch.cuda.set_device(launch.local_rank)
            backend = "cpu:gloo,cuda:nccl"
        with _told():
            dist.init_process_group(
                backend, rank=self.rank, world_size=self.size, timeout=PREPARATION
            )
            self._quick = dist.new_group(timeout=PATIENCE)

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        with _told():
            dist.all_reduce(tensor, group=self._quick)
        return tensor

    def highest_(self, tensor: torch.Tensor) -> torch.Tensor:
        with _told():
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self._quick)
        return tensor

    def lowest(self, value: float) -> float:
        return -float(self.highest_(torch.tensor([-value], dtype=torch.float64)))

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        counts = torch.zeros(self.size, dtype=torch.int64)
        counts[self.rank] = tensor.shape[0]
        rows = self.sum_(counts).tolist()
        padded = tensor.new_zeros((max(rows), *tensor.shape[1:]))
        padded[: tensor.shape[0]] = tensor
        found = [torch.empty_like(padded) for _ in rows]
        if max(rows):
            with _told():
                dist.all_gather(found, padded, group=self._quick)
        return [part[:count] for part, count in zip(found, rows, strict=True)]

    def tell(self, value: Any) -> Any:
        text = json.dumps(value).encode() if self.rank == 0 else b""
        length = torch.tensor([len(text)])
        with _told():
            # the others may wait for rank 0 to prepare what it says
            dist.broadcast(length, 0)
            held = torch.zeros(int(length), dtype=torch.uint8)
            if self.rank == 0:
                held.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
            dist.broadcast(held, 0)
        return json.loads(bytes(held.tolist()))

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()


@contextlib.contextmanager
def _told() -> Generator[None, None, None]:
    """What breaks between processes, as a sentence."""
    try:
        yield
    except RuntimeError as error:
        raise StudioError(
            "Another process of this training has ended or does not answer. Its own message tells "
            "why; `mistudio train resume last`, started like this run, goes on from the last "
            "checkpoint.",
            code="process_lost",
            details=str(error),
        ) from error
