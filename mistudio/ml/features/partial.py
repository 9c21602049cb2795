"""The row store of a harvest under way: appended to, checkpointed, resumed, finished.

It lives in a hidden folder beside the final one, which appears by rename when all is done.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mistudio.core.atomic import fsync_path, write_json
from mistudio.core.errors import Damaged
from mistudio.ml.features.arrays import AppendArray
from mistudio.ml.features.exact_counts import ExactCounts, strongest

CHECKPOINT = "checkpoint.json"
FP16_MAX = 65_504.0
HEADROOM = 8  # the first tile's maximum is stored near 2^8, leaving a factor 2^8 above it


@dataclass
class Progress:
    """How far a harvest has come; written to disk with every checkpoint."""

    tiles: int = 0  # tiles read
    kept: int = 0  # tokens that count
    exponent: int | None = None  # stored value = activation * 2 ** exponent
    clipped: int = 0  # values beyond fp16, stored as its largest number
    median_norm: float = 0.0  # of the tokens that count; the norm cut refers to it
    median_norm_out: float = 0.0  # likewise of what a transcoder gives
    truncated_tokens: int = 0  # of which only the strongest entries are stored
    dropped_entries: int = 0  # of them, counted but not stored
    fit: dict[str, object] = field(default_factory=dict)  # of the SAE, on the first rows
    masked: dict[str, int] = field(default_factory=dict)  # tokens left out, by reason
    lengths: dict[str, int] = field(default_factory=dict)  # entries of each array


def partial_folder(folder: Path) -> Path:
    """Where the unfinished store of `folder` lives."""
    return folder.with_name(f".{folder.name}.partial")


class PartialStore:
    """Append-only arrays `csr_splits`, `csr_features`, `csr_values`, `ids` and `mask`."""

    def __init__(
        self,
        folder: Path,
        key: str,
        id_dtype: np.dtype[np.unsignedinteger],
        *,
        row_length: int = 1,
        exact_features: int = 0,
        most_entries: int = 0,
    ) -> None:
        """Go on from the checkpoint in `folder` if it has the same key, else begin anew.

        Where tokens may have more than `most_entries` entries, `exact_features` counters keep what
        is not stored of them.
        """
        self.folder = folder
        self.most_entries = most_entries
        self.exact = ExactCounts(exact_features, row_length) if exact_features else None
        self.key = key
        found = _checkpoint(folder, key)
        if found is None:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        self.progress = found or Progress()
        types = {
            "csr_splits": np.dtype(np.int64),
            "csr_features": id_dtype,
            "csr_values": np.dtype(np.float16),
            "ids": np.dtype(np.int32),
            "mask": np.dtype(np.uint8),
        }
        lengths = self.progress.lengths
        self.arrays: dict[str, AppendArray] = {}
        try:
            for name, dtype in types.items():
                path = folder / f"{name}.npy"
                self.arrays[name] = AppendArray(path, dtype, length=lengths.get(name, 0))
        except BaseException:
            self.close(finished=False)
            raise
        if lengths and self.exact is not None:
            self.exact.load(self._counters)
        if not lengths:
            self.arrays["csr_splits"].append(np.zeros(1, np.int64))

    def append(
        self,
        ids_RS: NDArray[np.int32],
        mask_RS: NDArray[np.uint8],
        counts_T: NDArray[np.int64],
        features: NDArray[np.integer],
        values: NDArray[np.float32],
    ) -> None:
        """Add rows: `counts_T` entries per token (row by row), their features and activations."""
        start = self.arrays["csr_values"].length
        stored = self._stored(values)
        if self.exact is not None:
            activations = stored.astype(np.float64) * 2.0 ** -(self.progress.exponent or 0)
            self.exact.add(self.arrays["mask"].length, counts_T, features, activations)
            if counts_T.size and int(counts_T.max()) > self.most_entries:
                kept = strongest(counts_T, stored.view(np.uint16), self.most_entries)
                self.progress.truncated_tokens += int((counts_T > self.most_entries).sum())
                self.progress.dropped_entries += int(kept.size - kept.sum())
                features, stored = features[kept], stored[kept]
                counts_T = np.minimum(counts_T, self.most_entries)
        self.arrays["ids"].append(ids_RS)
        self.arrays["mask"].append(mask_RS)
        self.arrays["csr_splits"].append(start + np.cumsum(counts_T))
        self.arrays["csr_features"].append(features)
        self.arrays["csr_values"].append(stored)

    def _stored(self, values: NDArray[np.float32]) -> NDArray[np.float16]:
        """As fp16, scaled; a non-zero value never becomes zero or infinite."""
        progress = self.progress
        if progress.exponent is None and values.size:
            progress.exponent = HEADROOM - int(np.frexp(values.max())[1])
        scaled = np.ldexp(values, progress.exponent or 0)
        progress.clipped += int((scaled > FP16_MAX).sum())
        smallest = np.finfo(np.float16).smallest_subnormal
        return np.maximum(np.minimum(scaled, FP16_MAX).astype(np.float16), smallest)

    @property
    def _counters(self) -> Path:
        return self.folder / f"exact-{self.progress.tiles}.npy"

    def checkpoint(self) -> None:
        """Put everything appended so far on disk, and say so."""
        earlier = set(self.folder.glob("exact-*.npy"))
        if self.exact is not None:
            self.exact.save(self._counters)
            fsync_path(self._counters)
        for array in self.arrays.values():
            array.sync()
        self.progress.lengths = {name: array.length for name, array in self.arrays.items()}
        write_json(self.folder / CHECKPOINT, {"key": self.key, **asdict(self.progress)})
        for path in earlier - {self._counters}:
            path.unlink()

    def close(self, *, finished: bool = True) -> None:
        """Close the arrays; `finished` makes them readable."""
        for array in self.arrays.values():
            array.close(finished=finished)


def _checkpoint(folder: Path, key: str) -> Progress | None:
    """The progress kept in `folder`, or None if there is none for this key."""
    try:
        written: Mapping[str, object] = json.loads((folder / CHECKPOINT).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if written.get("key") != key:
        return None
    try:
        return Progress(**{name: value for name, value in written.items() if name != "key"})  # type: ignore[arg-type]
    except TypeError as error:
        raise Damaged("The harvest's checkpoint is broken; start it anew.") from error
