"""delphi's cache of activations: one folder per hook, its features shared out over a few files.

`{first}_{last}.safetensors` holds the features first..last: `locations` [n, 3] (row, position,
feature - first; uint16 or uint32), `activations` [n] in fp16 and `tokens` [rows, length];
`config.json` says of which model and text. Entries are in order of row, position, feature.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.core.errors import Damaged, InvalidInput, Mismatch, NotFound
from mistudio.ml.features.arrays import open_array
from mistudio.ml.features.feature_store import FeatureStore

HOOKS = {"resid_post": "", "mlp_out": ".mlp", "mlp_in": ".mlp", "attn_out": ".self_attn"}
LEAST_SPLITS = 5  # what delphi shares its features out over
SPLIT_ENTRIES = 1 << 24  # entries of one file at most, about: what is held to write it
FP16 = np.finfo(np.float16)
CONFIG = "config.json"
_NAME = re.compile(r"(\d+)_(\d+)\.safetensors")
_TYPES = {
    **{"U16": "<u2", "U32": "<u4", "I32": "<i4", "I64": "<i8", "U64": "<u8"},
    **{"F16": "<f2", "F32": "<f4", "F64": "<f8"},
}


def module_of(layer: int, hook: str) -> str:
    """What delphi calls a hook."""
    return f"layers.{layer}{HOOKS.get(hook, '.' + hook)}"


def bounds(features: int, entries: int) -> list[tuple[int, int]]:
    """The first and last feature of each file."""
    parts = min(features, max(LEAST_SPLITS, -(-entries // SPLIT_ENTRIES)))
    edges = np.linspace(0, features, parts + 1).astype(int).tolist()
    return [(low, high - 1) for low, high in itertools.pairwise(edges)]


def write_cache(
    folder: Path,
    store: FeatureStore,
    features: Sequence[int],
    config: dict[str, Any],
    check: Callable[[float], None] = lambda _done: None,
) -> int:
    """Write the entries of `features` into an empty folder; returns how many there are."""
    from safetensors.numpy import save_file

    ids_RS = np.asarray(open_array(store.folder / "ids.npy")).reshape(-1, store.row_length)
    counts_F = np.asarray(store.statistics["count"])
    chosen = np.unique(np.asarray(features, np.int64))
    parts = bounds(store.n_features, int(counts_F[chosen].sum()))
    written = 0
    for number, (first, last) in enumerate(parts):
        check(number / len(parts))
        mine = chosen[(chosen >= first) & (chosen <= last)]
        found = [store.entries(int(feature)) for feature in mine]
        token_N = np.concatenate([np.empty(0, np.int64), *(tokens for tokens, _ in found)])
        value_N = np.concatenate([np.empty(0), *(values for _, values in found)])
        feature_N = np.repeat(mine - first, [len(tokens) for tokens, _ in found])
        order = np.argsort(token_N, kind="stable")  # features rise within a token
        row_N, position_N = np.divmod(token_N[order].astype(np.int64), store.row_length)
        locations_N3 = np.stack([row_N, position_N, feature_N[order]], axis=1)
        small = max(len(ids_RS), store.row_length, last - first) < 1 << 16
        activations_N = np.clip(value_N[order], FP16.smallest_subnormal, FP16.max)
        arrays = {
            "locations": locations_N3.astype(np.uint16 if small else np.uint32),
            "activations": activations_N.astype(np.float16),
            "tokens": ids_RS.astype(np.int64),
        }
        save_file(arrays, folder / f"{first}_{last}.safetensors")
        written += len(token_N)
    told = {
        **config,
        "ctx_len": store.row_length,
        "cache_ctx_len": store.row_length,
        "n_tokens": int(ids_RS.size),
        "n_splits": len(parts),
    }
    (folder / CONFIG).write_text(json.dumps(told, indent=2, ensure_ascii=False), encoding="utf-8")
    return written


class Split(NamedTuple):
    """The entries of features first..last, memory-mapped, rows rising: those of row r are
    starts[r]..starts[r + 1]."""

    first: int
    last: int
    locations_N3: NDArray[np.integer]
    activations_N: NDArray[np.floating]
    starts: NDArray[np.int64]


class Cache(NamedTuple):
    """A cache as it lies on the disk."""

    name: str
    tokens_RS: NDArray[np.integer]
    splits: list[Split]
    config: dict[str, Any]

    @property
    def features(self) -> int:
        """One more than the last feature that a file is of."""
        return self.splits[-1].last + 1

    @property
    def entries(self) -> int:
        return sum(len(split.activations_N) for split in self.splits)

    def rows(
        self, low: int, high: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Entries of rows low..high-1: how many each token has, their features, activations.

        Token by token, features rising. Raises `Damaged` for places outside the rows.
        """
        length = self.tokens_RS.shape[1]
        parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []
        for split in self.splits:
            a, b = int(split.starts[low]), int(split.starts[high])
            place = np.asarray(split.locations_N3[a:b]).astype(np.int64)
            if len(place) and place[:, 1].max() >= length:
                raise Damaged("This cache names tokens beyond the end of its rows.")
            if len(place) and place[:, 2].max() > split.last - split.first:
                raise Damaged("This cache names features that its file is not of.")
            token = (place[:, 0] - low) * length + place[:, 1]
            values = np.asarray(split.activations_N[a:b]).astype(np.float32)
            parts.append((token, place[:, 2] + split.first, values))
        token, feature, value = (np.concatenate(part) for part in zip(*parts, strict=True))
        order = np.lexsort((feature, token))
        counts_T = np.bincount(token, minlength=(high - low) * length)
        return counts_T, feature[order], value[order]


def folder_of(path: Path) -> Path:
    """The folder of a cache's files: the one named, or the only one below it that holds some."""
    if not path.is_dir():
        raise NotFound(f"{path} is no folder.")
    if _files(path):
        return path
    below = sorted(item for item in path.iterdir() if item.is_dir() and _files(item))
    if not below and (path / "latents").is_dir():
        return folder_of(path / "latents")
    if not below:
        raise NotFound(f"There is no delphi cache in {path}: no file such as 0_1023.safetensors.")
    if len(below) > 1:
        named = ", ".join(item.name for item in below[:5]) + (", …" if len(below) > 5 else "")
        raise InvalidInput(f"There are caches of several hooks: {named}. Name one of them.")
    return below[0]


def open_cache(path: Path) -> Cache:
    """Map the files of a cache. Raises `NotFound`, `InvalidInput`, `Damaged`, or `Mismatch` for
    entries that an SAE does not have."""
    folder = folder_of(path)
    found = sorted(_files(folder))
    splits: list[Split] = []
    tokens_RS: NDArray[np.integer] | None = None
    for first, last, file in found:
        arrays = _mapped(file)
        if "locations" not in arrays or "activations" not in arrays:
            raise Damaged(f"{file.name} holds no locations and activations.")
        locations_N3, activations_N = arrays["locations"], arrays["activations"]
        if locations_N3.ndim != 2 or locations_N3.shape != (len(activations_N), 3):
            raise Damaged(f"The arrays of {file.name} do not belong together.")
        tokens_RS = arrays.get("tokens") if tokens_RS is None else tokens_RS
        if tokens_RS is None or tokens_RS.ndim != 2 or not tokens_RS.size:
            raise InvalidInput("This cache holds no tokens; write it again with its tokens.")
        splits.append(_in_order(first, last, locations_N3, activations_N, len(tokens_RS), file))
    if any(after.first <= before.last for before, after in itertools.pairwise(splits)):
        raise Damaged("Several files of this cache are of the same features.")
    assert tokens_RS is not None  # there is a file, and it has some
    return Cache(folder.name, tokens_RS, splits, _config(folder))


def _in_order(
    first: int,
    last: int,
    locations_N3: NDArray[np.integer],
    activations_N: NDArray[np.floating],
    rows: int,
    file: Path,
) -> Split:
    """Sorted by row if it is not; activations of an SAE are never negative."""
    counts_R, before, rises = np.zeros(rows, np.int64), 0, True
    for at in range(0, len(activations_N), SPLIT_ENTRIES):
        if float(activations_N[at : at + SPLIT_ENTRIES].min()) < 0:
            raise Mismatch(f"{file.name} holds negative activations; these are not of an SAE.")
        row_N = np.asarray(locations_N3[at : at + SPLIT_ENTRIES, 0]).astype(np.int64)
        if int(row_N.max()) >= rows:
            raise Damaged(f"{file.name} names rows beyond those it has tokens of.")
        rises &= int(row_N[0]) >= before and bool((row_N[1:] >= row_N[:-1]).all())
        before = int(row_N[-1])
        counts_R += np.bincount(row_N, minlength=rows)
    if not rises:
        order = np.argsort(locations_N3[:, 0], kind="stable")
        locations_N3, activations_N = locations_N3[order], activations_N[order]
    starts = np.concatenate([[0], np.cumsum(counts_R)])
    return Split(first, last, locations_N3, activations_N, starts)


def _files(folder: Path) -> list[tuple[int, int, Path]]:
    found = ((_NAME.fullmatch(item.name), item) for item in folder.iterdir())
    return [(int(name[1]), int(name[2]), item) for name, item in found if name]


def _config(folder: Path) -> dict[str, Any]:
    try:
        told = json.loads((folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _mapped(file: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file, memory-mapped; raises `Damaged`."""
    try:
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            head = json.loads(stream.read(size))
        found: dict[str, NDArray[Any]] = {}
        for name, told in head.items():
            if name == "__metadata__":
                continue
            dtype, shape = np.dtype(_TYPES[told["dtype"]]), tuple(told["shape"])
            place = 8 + size + int(told["data_offsets"][0])
            found[name] = (
                np.memmap(file, dtype, "r", place, shape).view(np.ndarray)
                if np.prod(shape)
                else np.empty(shape, dtype)  # nothing cannot be mapped
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{file.name} cannot be read.", details=str(error)) from error
    return found
