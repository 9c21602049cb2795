"""Where tensors live: the device, the number of threads, and memory as torch counts it."""

from __future__ import annotations

import os
import resource
import sys

import psutil
import torch

from mistudio.core.errors import InvalidInput, OutOfMemory, Unsupported

HELD_BY_OTHERS = 0.9  # share of a GPU's memory beyond which nothing is started


def choose_device(wanted: str = "auto") -> torch.device:
    """The device for "auto", "cpu", "cuda" or "cuda:N"; auto takes CUDA when it is present.

    Raises `InvalidInput` for an unknown name and `Unsupported` if CUDA is asked for but missing.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted == "cpu":
        return torch.device("cpu")
    kind, _, number = wanted.partition(":")
    if kind != "cuda" or (number and not number.isdigit()):
        raise InvalidInput(f"{wanted!r} is no device; use auto, cpu or cuda.")
    if not torch.cuda.is_available():
        raise Unsupported("No CUDA device is present; use cpu.")
    if number and int(number) >= torch.cuda.device_count():
        raise InvalidInput(f"There are only {torch.cuda.device_count()} CUDA devices.")
    return torch.device(wanted)


def check_room(device: torch.device) -> None:
    """Raise `OutOfMemory` if other programs hold more than 90 % of a GPU's memory."""
    if device.type != "cuda":
        return
    free, total = torch.cuda.mem_get_info(device)
    held = 1 - (free + torch.cuda.memory_reserved(device)) / total
    if held > HELD_BY_OTHERS:
        raise OutOfMemory(
            f"Other programs hold {100 * held:.0f} % of the GPU's memory. Wait for them, end them, "
            "or choose the CPU in the settings.",
            code="gpu_held",
        )


def memory_of(device: torch.device) -> tuple[int, int]:
    """Free and total bytes of a device; what torch holds on a GPU for later counts as free."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device), total
    memory = psutil.virtual_memory()
    return memory.available, memory.total


def default_dtype(device: torch.device) -> torch.dtype:
    """The precision a language model runs in: fp32 on CPU; on GPU bf16 if it can, else fp16."""
    return torch.float32 if device.type == "cpu" else half_dtype(device)


def half_dtype(device: torch.device) -> torch.dtype:
    """The 16-bit type of a device: bf16 where it is supported (a CPU computes in it), else fp16."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return torch.float16
    return torch.bfloat16


def check_bf16(device: torch.device) -> None:
    """Raise `Unsupported` for a GPU that does not compute in bf16."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device)
        raise Unsupported(f"{name} does not compute in bf16; choose the precision fp32.")


def set_threads(count: int | None = None) -> int:
    """Let torch use `count` threads (default: cores less one); returns the number."""
    if count is None:
        count = available_cores() - 1
    count = max(1, count)
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
    return count


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_memory(device: torch.device | None = None) -> int:
    """Peak bytes so far: allocations on a CUDA device, else resident memory of the process."""
    if device is not None and device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished what was asked of it; nothing to do on CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
