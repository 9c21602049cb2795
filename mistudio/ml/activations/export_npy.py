"""Writes one layer and hook of an activation set as a .npy file, shard by shard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mistudio.core.atomic import atomic_file
from mistudio.core.control import JobControl
from mistudio.core.errors import from_os_error
from mistudio.core.events import Reporter
from mistudio.ml.activations.shards import ActivationSet

_STEP = 1 << 22  # values at a time


def exported_bytes(stored: ActivationSet, layer: int, hook: str) -> int:
    """Size of the file that `export_npy` writes."""
    return 128 + len(stored) * stored.width(layer, hook) * _type(stored).itemsize


def export_npy(
    stored: ActivationSet,
    layer: int,
    hook: str,
    out: Path,
    report: Reporter,
    control: JobControl,
) -> None:
    """Write all tokens [T, width]; bf16, which numpy does not know, becomes fp32.

    Raises `Damaged` or `NotFound` for broken shards, and what the disk says. Nothing appears under
    `out` before it is whole.
    """
    width, kind = stored.width(layer, hook), _type(stored)
    step = max(1, _STEP // width)
    try:
        with atomic_file(out) as temporary, temporary.open("wb") as stream:
            header = {
                "descr": np.lib.format.dtype_to_descr(kind),
                "fortran_order": False,
                "shape": (len(stored), width),
            }
            np.lib.format.write_array_header_1_0(stream, header)
            done = 0
            for x_TD in stored.shards(layer, hook):
                for low in range(0, len(x_TD), step):
                    control.check()
                    part_TD = x_TD[low : low + step]
                    if stored.dtype is torch.bfloat16:
                        part_TD = part_TD.float()
                    stream.write(part_TD.contiguous().numpy().data)
                    done += len(part_TD)
                    report.progress(done / max(1, len(stored)), "Writing")
    except OSError as error:
        raise from_os_error(error, f"write {out.name}") from error


def _type(stored: ActivationSet) -> np.dtype:
    return np.dtype("<f2") if stored.dtype is torch.float16 else np.dtype("<f4")
