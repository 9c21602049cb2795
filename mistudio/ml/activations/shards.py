"""A stored activation set: rows of any layer and hook by number, tokens, checks of its files."""

from __future__ import annotations

import bisect
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mistudio.core.atomic import sha256_file
from mistudio.core.control import JobControl
from mistudio.core.errors import Damaged, InvalidInput, NotFound
from mistudio.core.events import Reporter
from mistudio.ml.activations.shard_files import DTYPES, SUFFIXES, TENSOR

STATE = "state.npz"
_COLUMNS = {"ids": np.int32, "rows": np.int32, "positions": np.int32, "special": np.uint8}


class ActivationSet:
    """Reads a set that an extraction has finished. Shards are memory-mapped while they are read.

    Token t of every layer and hook is the same token; padding is not stored.
    """

    def __init__(self, folder: Path) -> None:
        """Raises `NotFound` if there is no set and `Damaged` if its description is broken."""
        self.folder = folder
        try:
            self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_text("utf-8"))
            self._tokens = [int(n) for n in self.meta["shards"]]
            self._widths: dict[str, int] = self.meta["widths"]
            self._dtype = DTYPES[self.meta["dtype"]]
            self._suffix = SUFFIXES[self.meta["container"]]
        except FileNotFoundError as error:
            raise NotFound(
                "The files of this activation set are gone; extract it again.", details=str(error)
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(
                "This activation set is damaged; extract it again.", details=str(error)
            ) from error
        self._starts = [0, *np.cumsum(self._tokens).tolist()]

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def points(self) -> list[tuple[int, str]]:
        """Every (layer, hook) stored."""
        return [_point(name) for name in self._widths]

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the stored values."""
        return self._dtype

    @property
    def n_files(self) -> int:
        """Number of files with a checksum."""
        return len(self.meta["files"])

    @property
    def n_bytes(self) -> int:
        """Bytes of the files with a checksum."""
        return sum(entry["bytes"] for entry in self.meta["files"].values())

    def width(self, layer: int, hook: str) -> int:
        """Values per token; raises `InvalidInput` for a layer and hook that are not stored."""
        return self._widths[self._name(layer, hook)]

    def rows(self, layer: int, hook: str, low: int, high: int) -> torch.Tensor:
        """Activations x_TD of tokens low..high-1 in their stored precision, as a copy.

        Raises `InvalidInput` for a layer and hook that are not stored, `Damaged` or `NotFound`.
        """
        parts = [
            self._mapped(layer, hook, shard)[first:last].clone()
            for shard, first, last in self._pieces(low, high)
        ]
        if not parts:
            return torch.empty(0, self.width(layer, hook), dtype=self._dtype)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def shards(self, layer: int, hook: str) -> Iterator[torch.Tensor]:
        """Every shard in order as a memory-mapped x_TD: read it, do not write to it."""
        for shard in range(len(self._tokens)):
            yield self._mapped(layer, hook, shard)

    def tokens(self, low: int, high: int) -> dict[str, np.ndarray]:
        """Columns of tokens low..high-1: ids, rows, positions (int32) and special (uint8, 0 or 1).

        Rows and positions are those of the tokenisation.
        """
        parts = [
            {name: values[first:last] for name, values in self._columns(shard).items()}
            for shard, first, last in self._pieces(low, high)
        ]
        return {
            name: np.concatenate([part[name] for part in parts]) if parts else np.zeros(0, kind)
            for name, kind in _COLUMNS.items()
        }

    @property
    def token_ids(self) -> np.ndarray:
        """Ids of all tokens, int32 [T]."""
        return self.tokens(0, len(self))["ids"]

    def statistics(self) -> dict[str, Any]:
        """The content of statistics.json; raises `Damaged` or `NotFound`."""
        try:
            return json.loads((self.folder / "statistics.json").read_text("utf-8"))
        except FileNotFoundError as error:
            raise NotFound("The statistics of this set are gone; extract it again.") from error
        except ValueError as error:
            raise Damaged("The statistics of this set are damaged; extract it again.") from error

    def summary(self) -> dict[str, Any]:
        """What a list shows: how the extraction ran, and few numbers per layer and hook."""
        found = self.statistics()
        shown = ("norm_mean", "norm_median", "norm_max", "near_zero_share", "non_finite", "clipped")
        hooks = {
            name: {
                **{key: values[key] for key in shown},
                "outliers": len(values["outliers"]),
                "sinks": [sink["position"] for sink in values["sinks"]],
            }
            for name, values in found["hooks"].items()
        }
        return {"run": found["run"], "hooks": hooks}

    def damaged_files(self, report: Reporter, control: JobControl) -> list[str]:
        """Names of files that are missing or differ from their checksums; reads them all."""
        files: dict[str, Any] = self.meta["files"]
        total = max(1, self.n_bytes)
        done = 0
        damaged: list[str] = []
        for name, entry in files.items():
            control.check()
            path = self.folder / name
            whole = path.is_file() and path.stat().st_size == entry["bytes"]
            if not whole or sha256_file(path) != entry["sha256"]:
                damaged.append(name)
            done += entry["bytes"]
            report.progress(done / total, "Verifying")
        return damaged

    def _name(self, layer: int, hook: str) -> str:
        name = f"L{layer}.{hook}"
        if name not in self._widths:
            raise InvalidInput(
                f"This set holds nothing of layer {layer}, {hook}; it has "
                f"{', '.join(self._widths)}."
            )
        return name

    def _pieces(self, low: int, high: int) -> list[tuple[int, int, int]]:
        """(shard, first, behind last) that make up tokens low..high-1."""
        low, high = max(0, low), min(high, len(self))
        found: list[tuple[int, int, int]] = []
        while low < high:
            shard = bisect.bisect_right(self._starts, low) - 1
            stop = min(high, self._starts[shard + 1])
            found.append((shard, low - self._starts[shard], stop - self._starts[shard]))
            low = stop
        return found

    def _mapped(self, layer: int, hook: str, shard: int) -> torch.Tensor:
        width = self.width(layer, hook)
        path = self.folder / self._name(layer, hook) / shard_name(shard, self._suffix)
        start, size = _data(path, TENSOR)
        if size != self._tokens[shard] * width * self._dtype.itemsize:
            raise Damaged(f"{path.name} has another size than it should; extract the set again.")
        if size == 0:
            return torch.empty(0, width, dtype=self._dtype)
        # mapped copy-on-write: torch wants memory that may be written, the file stays untouched
        raw = np.memmap(path, np.uint8, "c", start, (size,))
        return torch.from_numpy(raw).view(self._dtype).view(-1, width)

    def _columns(self, shard: int) -> dict[str, np.ndarray]:
        path = self.folder / "tokens" / shard_name(shard, ".safetensors")
        found: dict[str, np.ndarray] = {}
        for name, kind in _COLUMNS.items():
            start, size = _data(path, name)
            found[name] = np.fromfile(path, kind, size // np.dtype(kind).itemsize, offset=start)
        return found


def shard_name(number: int, suffix: str) -> str:
    """File name of a shard, such as shard-00003.safetensors."""
    return f"shard-{number:05d}{suffix}"


def keep_whole_shards(folder: Path) -> int:
    """Remove what is not whole of an unfinished set; returns how many shards stay.

    Without any the folder goes.
    """
    listed = read_state(folder)
    if listed is None or not listed["shards"]:
        shutil.rmtree(folder, ignore_errors=True)
        return 0
    kept = {folder / name for name in listed["files"]} | {folder / STATE}
    for path in folder.rglob("*"):
        if path.is_file() and path not in kept:
            path.unlink()
    return len(listed["shards"])


def read_state(folder: Path) -> dict[str, Any] | None:
    """What an unfinished set says of itself, or None if no shard was whole."""
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as state:
            return json.loads(bytes(state["about"]))
    except (ValueError, KeyError, OSError, EOFError):
        return None


def _data(path: Path, tensor: str) -> tuple[int, int]:
    """Offset and bytes of a tensor's values in a shard."""
    try:
        if path.suffix == ".bin":
            return 0, path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > 1 << 20:
                raise Damaged(f"{path.name} is damaged; extract the set again.")
            low, high = json.loads(stream.read(length))[tensor]["data_offsets"]
    except FileNotFoundError as error:
        raise NotFound(f"{path.name} is gone; extract the set again.", details=str(path)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{path.name} is damaged; extract the set again.") from error
    if 8 + length + high > path.stat().st_size:
        raise Damaged(f"{path.name} is damaged; extract the set again.")
    return 8 + length + low, high - low


def _point(name: str) -> tuple[int, str]:
    layer, _, hook = name.partition(".")
    return int(layer[1:]), hook
