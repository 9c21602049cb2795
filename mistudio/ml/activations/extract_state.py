"""How far an extraction is: whole shards, their checksums and the statistics up to them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from mistudio.core.atomic import atomic_file, write_json
from mistudio.core.errors import Mismatch
from mistudio.ml.activations.set_statistics import HookStatistics
from mistudio.ml.activations.shard_files import DTYPES, ShardFile, Written, token_bytes, write_small
from mistudio.ml.activations.shards import STATE, keep_whole_shards, read_state, shard_name

if TYPE_CHECKING:
    from mistudio.ml.activations.extract import ExtractSettings

VERSION = 1
COLUMNS = ("ids", "rows", "positions", "special")


class ReadRows(Protocol):
    """What a set keeps of the rows it was read from."""

    @property
    def context(self) -> int: ...

    @property
    def meta(self) -> Mapping[str, Any]: ...


class PartOfShard(NamedTuple):
    """One point's file of a shard, and the point's statistics up to its end."""

    written: list[Written]
    statistics: dict[str, np.ndarray]


class PendingShard:
    """A shard whose tokens have all been read; its files may still be on their way."""

    def __init__(
        self, next_row: int, tokens: int, columns: list[tuple[np.ndarray, ...]], points: int
    ) -> None:
        self.next_row = next_row
        self.tokens = tokens
        self.columns = columns
        self._parts: list[PartOfShard | None] = [None] * points

    @property
    def is_whole(self) -> bool:
        """Whether every file has taken its name."""
        return None not in self._parts

    @property
    def parts(self) -> list[PartOfShard]:
        """What is known of each point, in their order."""
        return [part for part in self._parts if part is not None]

    def finish(self, i: int, file: ShardFile, statistics: HookStatistics) -> None:
        """Let the file of point `i` take its name."""
        written = file.finish()
        state = {name: values.copy() for name, values in statistics.state().items()}
        self._parts[i] = PartOfShard(written, state)


class Extraction:
    """The set being made in `folder`. After each whole shard its state is on disk."""

    def __init__(
        self,
        folder: Path,
        settings: ExtractSettings,
        widths: list[int],
        store: ReadRows,
        batch: int,
        model: Mapping[str, Any],
        shard_bytes: int,
    ) -> None:
        """`model` tells which weights are read and in which format; kept shards must agree."""
        self.folder = folder
        self.batch = batch
        self.next_row = 0
        self.tokens = 0
        self.seconds = 0.0
        self.shards: list[int] = []  # tokens of each
        self._files: dict[str, dict[str, Any]] = {}
        self._settings = settings
        self._widths = widths
        self._model = dict(model)
        self._context = store.context
        self._tokens_hash = store.meta.get("settings_hash")
        self.statistics = [
            HookStatistics(point, width, settings.top_k, store.context)
            for point, width in zip(settings.points, widths, strict=True)
        ]
        size = DTYPES[settings.dtype].itemsize
        self.token_bytes = sum(widths) * size + 13
        # a multiple of the batch, so that going on after a shard makes the same forward passes
        row_bytes = max(widths) * size * store.context
        self.shard_rows = batch * max(1, shard_bytes // (row_bytes * batch))
        self._opened = 0  # shards, whole ones and the next

    def resume(self) -> bool:
        """Take up what an earlier turn left; False if that is nothing.

        Raises `Mismatch` if it is of other settings or weights.
        """
        if keep_whole_shards(self.folder) == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            return False
        about = read_state(self.folder) or {}
        if about.get("weights", self._model) != self._model:
            before, now = (str(w.get("format")).upper() for w in (about["weights"], self._model))
            raise Mismatch(
                f"What was kept was read from the model in {before}, which is {now} now. Change "
                "it back, or delete the set and extract."
                if before != now
                else "What was kept is of other weights. Delete the set and extract."
            )
        if about.get("identity") != self._identity():
            raise Mismatch("What was kept belongs to other settings. Delete the set and extract.")
        self.batch, self.shard_rows = about["batch"], about["shard_rows"]
        self.next_row, self.tokens = about["next_row"], about["tokens"]
        self.seconds, self.shards, self._files = about["seconds"], about["shards"], about["files"]
        self._opened = len(self.shards)
        with np.load(self.folder / STATE, allow_pickle=False) as arrays:
            for statistics in self.statistics:
                prefix = f"{statistics.point.name}/"
                statistics.restore(
                    {n[len(prefix) :]: arrays[n] for n in arrays.files if n.startswith(prefix)}
                )
        return True

    def open_shard(self, count: int) -> list[ShardFile]:
        """A file for `count` tokens of each point, behind the shards opened so far."""
        settings, name = self._settings, shard_name(self._opened, "")
        self._opened += 1
        return [
            ShardFile(self.folder / p.name / name, count, w, settings.dtype, settings.container)
            for p, w in zip(settings.points, self._widths, strict=True)
        ]

    def add_shard(self, shard: PendingShard, seconds: float) -> None:
        """Record the next shard, whose files are whole; rows before its `next_row` are done."""
        written = [entry for part in shard.parts for entry in part.written]
        joined = {
            name: np.concatenate([part[i] for part in shard.columns])
            if shard.columns
            else np.zeros(0, np.uint8 if name == "special" else np.int32)
            for i, name in enumerate(COLUMNS)
        }
        path = self.folder / "tokens" / shard_name(len(self.shards), ".safetensors")
        written.append(write_small(path, token_bytes(joined)))
        for entry in written:
            self._files[entry.name] = {"bytes": entry.bytes, "sha256": entry.sha256}
        self.shards.append(shard.tokens)
        self.tokens += shard.tokens
        self.next_row = shard.next_row
        self.seconds += seconds
        self._save([part.statistics for part in shard.parts])

    def _save(self, statistics: list[dict[str, np.ndarray]]) -> None:
        about = {
            "identity": self._identity(),
            "weights": self._model,
            "batch": self.batch,
            "shard_rows": self.shard_rows,
            "next_row": self.next_row,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "shards": self.shards,
            "files": self._files,
        }
        arrays = {
            f"{point.name}/{name}": values
            for point, state in zip(self._settings.points, statistics, strict=True)
            for name, values in state.items()
        }
        arrays["about"] = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
        with atomic_file(self.folder / STATE) as temporary, temporary.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)  # type: ignore[arg-type]

    def complete(self, peak_bytes: int, model: str) -> None:
        """Write the statistics and the description, and forget the state."""
        points = self._settings.points
        run = {
            "seconds": round(self.seconds, 3),
            "tokens_per_s": round(self.tokens / max(1e-9, self.seconds), 1),
            "peak_memory_bytes": peak_bytes,
            "batch": self.batch,
        }
        hooks = {
            point.name: statistics.result()
            for point, statistics in zip(points, self.statistics, strict=True)
        }
        content = {"version": VERSION, "run": run, "hooks": hooks}
        text = json.dumps(content, separators=(",", ":"), allow_nan=False)
        write_small(self.folder / "statistics.json", text.encode())
        meta = {
            "version": VERSION,
            "model": model,
            **self._identity(),
            "batch": self.batch,
            "n_tokens": self.tokens,
            "n_rows": self.next_row,
            "widths": {p.name: width for p, width in zip(points, self._widths, strict=True)},
            "shards": self.shards,
            "files": self._files,
        }
        write_json(self.folder / "meta.json", meta)
        (self.folder / STATE).unlink(missing_ok=True)

    def _identity(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "layers": list(settings.layers),
            "hooks": list(settings.hooks),
            "rows": settings.rows,
            "tokens": settings.tokens,
            "dtype": settings.dtype,
            "container": settings.container,
            "top_k": settings.top_k,
            "context": self._context,
            "tokens_hash": self._tokens_hash,
        }
