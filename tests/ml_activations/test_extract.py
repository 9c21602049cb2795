"""Extraction: what is stored, what is measured, and what a crash or a lack of memory leaves."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from mistudio.core.control import JobControl
from mistudio.core.errors import (
    Cancelled,
    Damaged,
    DiskFull,
    InvalidInput,
    Mismatch,
    NotFound,
    OutOfMemory,
)
from mistudio.core.events import RecordingReporter, SilentReporter
from mistudio.ml.activations import extract as extraction
from mistudio.ml.activations import set_statistics
from mistudio.ml.activations.bench_extract import bench_extract
from mistudio.ml.activations.export_npy import export_npy, exported_bytes
from mistudio.ml.activations.extract import ExtractSettings, calm_batch, extract
from mistudio.ml.activations.lines import ThreadLines
from mistudio.ml.activations.multi_capture import HookPoint, MultiCapture
from mistudio.ml.activations.set_statistics import HookStatistics, Places
from mistudio.ml.activations.shard_files import ShardFile
from mistudio.ml.activations.shards import ActivationSet, keep_whole_shards
from mistudio.ml.data.token_store import PADDING, TokenStore
from mistudio.ml.loading import LoadedModel
from tests.helpers.tiny import STORIES, tiny_loaded, write_tokens

SETTINGS = ExtractSettings(
    layers=(0, 2),
    hooks=("resid_post", "mlp_in"),
    rows=50,
    batch=8,
    dtype="fp32",
    top_k=10,
    shard_bytes=16 * 20 * 32 * 4,  # two batches
)


class World:
    """A model, packed rows and rows with padding."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loaded: LoadedModel = tiny_loaded(folder / "model", add_bos=True)
        self.tokens = write_tokens(folder / "packed", STORIES, self.loaded.tokenizer, 20)
        self.padded = write_tokens(
            folder / "padded",
            [story[: 10 + 3 * i] for i, story in enumerate(STORIES[:60])],
            self.loaded.tokenizer,
            20,
            arrangement="document",
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def made(
    world: World, folder: Path, store: TokenStore | None = None, **changes: Any
) -> ActivationSet:
    settings = ExtractSettings(**{**vars(SETTINGS), **changes})
    extract(world.loaded, store or world.tokens, settings, folder, SilentReporter(), JobControl())
    return ActivationSet(folder)


def whole_pass(world: World, tokens: TokenStore, rows: int) -> tuple[torch.Tensor, np.ndarray]:
    """Hidden states behind layer 2 of the full model for tokens that are not padding."""
    ids_BS = torch.from_numpy(tokens.ids[:rows].astype(np.int64))
    with torch.no_grad():
        states = world.loaded.model(ids_BS, output_hidden_states=True).hidden_states
    keep_BS = np.asarray(tokens.mask[:rows]) != PADDING
    return states[3][torch.from_numpy(keep_BS)], keep_BS


def bytes_of(folder: Path) -> dict[str, str]:
    """Every file but how long it took."""
    found = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "statistics.json"
    }
    statistics = json.loads((folder / "statistics.json").read_text())
    found["statistics"] = json.dumps(statistics["hooks"])
    return found


@pytest.mark.parametrize("which", ["tokens", "padded"])
def test_stored_values_are_those_of_the_whole_model(
    world: World, tmp_path: Path, which: str
) -> None:
    tokens: TokenStore = getattr(world, which)
    stored = made(world, tmp_path / "set", tokens)
    expected_TD, keep_BS = whole_pass(world, tokens, 50)
    assert len(stored) == len(expected_TD) == int(keep_BS.sum())
    found_TD = stored.rows(2, "resid_post", 0, len(stored))
    assert (found_TD - expected_TD).abs().max() <= 1e-5
    columns = stored.tokens(0, len(stored))
    row_T, position_T = np.nonzero(keep_BS)
    assert np.array_equal(columns["rows"], row_T)
    assert np.array_equal(columns["positions"], position_T)
    assert np.array_equal(columns["ids"], np.asarray(tokens.ids[:50])[keep_BS])
    assert np.array_equal(columns["special"], np.asarray(tokens.mask[:50])[keep_BS] == 1)
    assert columns["special"].sum() > 0
    assert stored.points == [(0, "resid_post"), (0, "mlp_in"), (2, "resid_post"), (2, "mlp_in")]


def test_shards_are_plain_safetensors_and_any_rows_can_be_read(
    world: World, tmp_path: Path
) -> None:
    stored = made(world, tmp_path / "set")
    files = sorted((tmp_path / "set" / "L2.resid_post").iterdir())
    assert [f.name for f in files] == [f"shard-{i:05d}.safetensors" for i in range(4)]
    joined_TD = torch.cat([load_file(f)["activations"] for f in files])
    assert joined_TD.shape == (1000, 32)
    for low, high in ((0, 1), (310, 330), (319, 321), (0, 1000), (995, 2000), (7, 7)):
        assert torch.equal(stored.rows(2, "resid_post", low, high), joined_TD[low:high])
    with safe_open(tmp_path / "set" / "tokens" / "shard-00001.safetensors", "pt") as columns:
        assert set(columns.keys()) == {"ids", "rows", "positions", "special"}
        assert torch.equal(columns.get_tensor("rows").unique(), torch.arange(16, 32).int())
    assert np.array_equal(stored.token_ids, np.asarray(world.tokens.ids[:50]).reshape(-1))
    assert not list((tmp_path / "set").rglob(".*"))
    assert not (tmp_path / "set" / "state.npz").exists()


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_raw_numbers_and_precisions(world: World, tmp_path: Path, dtype: str) -> None:
    exact_TD = made(world, tmp_path / "exact").rows(0, "mlp_in", 0, 1000)
    stored = made(world, tmp_path / "raw", dtype=dtype, container="raw")
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    assert torch.equal(stored.rows(0, "mlp_in", 0, 1000), exact_TD.to(kind))
    described = json.loads((tmp_path / "raw" / "L0.mlp_in" / "shard-00000.json").read_text())
    first = 320 if dtype == "fp32" else 640
    assert described == {"dtype": dtype, "shape": [first, 32], "order": "little-endian"}
    same = made(world, tmp_path / "safe", dtype=dtype)
    assert torch.equal(same.rows(0, "mlp_in", 0, 1000), exact_TD.to(kind))
    out = tmp_path / "out.npy"
    export_npy(stored, 0, "mlp_in", out, SilentReporter(), JobControl())
    assert out.stat().st_size == exported_bytes(stored, 0, "mlp_in")
    wanted = exact_TD.to(kind).float() if dtype == "bf16" else exact_TD.to(kind)
    assert np.array_equal(np.load(out, mmap_mode="r"), wanted.numpy())


def test_statistics_agree_with_a_count_by_hand(world: World, tmp_path: Path) -> None:
    stored = made(world, tmp_path / "set")
    x_TD = stored.rows(2, "resid_post", 0, 1000).double().numpy()
    found = stored.statistics()["hooks"]["L2.resid_post"]
    norm_T = np.linalg.norm(x_TD, axis=1)
    assert found["tokens"] == 1000
    assert found["norm_mean"] == pytest.approx(norm_T.mean(), rel=1e-6)
    assert found["norm_max"] == pytest.approx(norm_T.max(), rel=1e-6)
    assert found["norm_min"] == pytest.approx(norm_T.min(), rel=1e-6)
    assert found["norm_median"] == pytest.approx(np.median(norm_T), rel=0.02)
    assert np.allclose(found["mean"], x_TD.mean(0), rtol=1e-7, atol=1e-9)
    assert np.allclose(found["variance"], x_TD.var(0), rtol=1e-7)
    first = norm_T[:160]
    assert found["near_zero_below"] == pytest.approx(
        0.01 * np.sqrt((first**2).mean() / 32), rel=1e-6
    )
    assert found["near_zero_share"] == (np.abs(x_TD) < found["near_zero_below"]).mean()
    top = np.argsort(-norm_T, kind="stable")[:10]
    columns = stored.tokens(0, 1000)
    assert [s["norm"] for s in found["strongest"]] == pytest.approx(norm_T[top], rel=1e-6)
    assert found["strongest"][0]["row"] == columns["rows"][top[0]]
    assert found["strongest"][0]["position"] == columns["positions"][top[0]]
    assert found["strongest"][0]["token_id"] == columns["ids"][top[0]]
    assert sum(found["norm_counts"]) == 1000
    assert len(found["norm_edges"]) == len(found["norm_counts"]) + 1
    assert found["norm_edges"][0] <= norm_T.min()
    assert found["norm_edges"][-1] >= norm_T.max()


def test_outliers_sinks_clipped_and_broken_values_are_found(world: World, tmp_path: Path) -> None:
    def spoil(_module: Any, _inputs: Any, out: torch.Tensor) -> torch.Tensor:
        out = out.clone()
        out[:, 0, 5] = 1e6  # a sink that fp16 cannot hold
        out[:, :, 9] = 200.0
        out[1:2, 3:4, 2] = float("nan")
        return out

    handle = world.loaded.model.model.layers[2].register_forward_hook(spoil)
    try:
        stored = made(world, tmp_path / "set", dtype="fp16", layers=(2,), hooks=("resid_post",))
    finally:
        handle.remove()
    found = stored.statistics()["hooks"]["L2.resid_post"]
    assert [sink["position"] for sink in found["sinks"]] == [0]
    assert found["sinks"][0]["times"] > 1000
    assert [o["dimension"] for o in found["outliers"]] == [5, 9]
    batches = 7  # 50 rows, 8 at a time
    assert (found["non_finite"], found["tokens"]) == (batches, 1000 - batches)
    assert found["clipped"] == 50
    assert float(stored.rows(2, "resid_post", 0, 1)[0, 5]) == 65504.0
    assert bool(stored.rows(2, "resid_post", 23, 24).isnan().any())
    assert all(np.isfinite(found["mean"]))


@pytest.mark.parametrize("limit", [1, 159, 161, 500, 10**9])
def test_a_limit_of_tokens(world: World, tmp_path: Path, limit: int) -> None:
    whole = made(world, tmp_path / "whole", world.padded, rows=0)
    part = made(world, tmp_path / "part", world.padded, rows=0, tokens=limit)
    assert len(part) == min(limit, len(whole))
    assert torch.allclose(
        part.rows(2, "mlp_in", 0, len(part)), whole.rows(2, "mlp_in", 0, len(part)), atol=1e-5
    )
    assert np.array_equal(part.token_ids, whole.token_ids[: len(part)])


class StopAt(JobControl):
    """Cancels when so many shards are whole."""

    def __init__(self, folder: Path, shards: int) -> None:
        super().__init__()
        self._file = folder / "tokens" / f"shard-{shards - 1:05d}.safetensors"

    def check(self) -> None:
        if self._file.is_file():
            raise Cancelled


def test_going_on_gives_the_same_bytes(world: World, tmp_path: Path) -> None:
    made(world, tmp_path / "whole")
    folder = tmp_path / "parts"
    for shards in (1, 3):
        with pytest.raises(Cancelled):
            extract(
                world.loaded,
                world.tokens,
                SETTINGS,
                folder,
                SilentReporter(),
                StopAt(folder, shards),
            )
        assert list(folder.rglob(".shard*"))
        assert keep_whole_shards(folder) == shards
        assert not list(folder.rglob(".*"))
        assert not (folder / "meta.json").exists()
        with pytest.raises(NotFound):
            ActivationSet(folder)
    (folder / "L0.mlp_in" / "shard-00003.safetensors").write_bytes(b"left by a crash")
    notes = RecordingReporter()
    extract(world.loaded, world.tokens, SETTINGS, folder, notes, JobControl())
    assert bytes_of(folder) == bytes_of(tmp_path / "whole")
    assert "Goes on after 3 whole shards." in [e.values.get("sentence") for e in notes.events]


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are written on threads, as beside a GPU."""
    monkeypatch.setattr(extraction, "DirectLines", lambda check: ThreadLines(3, 10_000, check))


@pytest.mark.usefixtures("beside")
def test_threads_write_the_same_bytes(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"rows": 0, "dtype": "fp16", "shard_bytes": 8 * 20 * 32 * 2}
    threaded = made(world, tmp_path / "threads", world.padded, **changes)
    monkeypatch.undo()
    made(world, tmp_path / "direct", world.padded, **changes)
    assert len(threaded.meta["shards"]) > 2
    assert bytes_of(tmp_path / "threads") == bytes_of(tmp_path / "direct")


@pytest.mark.usefixtures("beside")
def test_threads_forget_a_batch_that_did_not_fit(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halve_and_compare(world, tmp_path, monkeypatch, dataclasses.replace(SETTINGS, dtype="fp16"))


@pytest.mark.usefixtures("beside")
def test_a_thread_that_finds_the_disk_full_ends_the_extraction(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, left = ShardFile.finish, iter(range(6))

    def full(self: ShardFile) -> Any:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return finish(self)

    monkeypatch.setattr(ShardFile, "finish", full)
    with pytest.raises(DiskFull):
        made(world, tmp_path / "set", dtype="fp16", shard_bytes=16 * 20 * 32 * 2)
    monkeypatch.undo()
    assert keep_whole_shards(tmp_path / "set") == 1
    assert len(made(world, tmp_path / "set", dtype="fp16", shard_bytes=16 * 20 * 32 * 2)) == 1000


def test_a_gpu_is_asked_for_the_same_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_statistics, "_GPU_CHUNK", 7 * 12)
    generator = torch.Generator().manual_seed(3)
    now, later = (HookStatistics(HookPoint(0, "mlp_in"), 12, 10, 64) for _ in range(2))
    for number in range(3):
        x_TD = torch.randn(40, 12, generator=generator) * torch.rand(12, generator=generator) ** 8
        if number:
            x_TD[5:12, 3] = float("nan")  # a whole chunk among them
            x_TD[20, 0] = float("inf")
        positions = np.arange(40, dtype=np.int32)
        places = Places(positions + 100, positions // 8, positions)
        collect = later.measure_later(x_TD, places)
        now.add(now.measure(x_TD, places))
        later.add(collect())
    found, wanted = later.result(), now.result()
    assert wanted["non_finite"] == 16
    assert 0 < wanted["near_zero_share"] < 1
    for name in ("mean", "variance"):
        assert np.allclose(found.pop(name), wanted.pop(name), rtol=1e-9, atol=1e-12)
    outliers, expected = found.pop("outliers"), wanted.pop("outliers")
    assert [o["dimension"] for o in outliers] == [o["dimension"] for o in expected] != []
    assert found == wanted


def test_kept_shards_of_other_settings_are_refused(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    with pytest.raises(Cancelled):
        extract(world.loaded, world.tokens, SETTINGS, folder, SilentReporter(), StopAt(folder, 1))
    with pytest.raises(Mismatch, match="other settings"):
        made(world, folder, top_k=11)


def test_a_cancel_before_the_first_shard_leaves_nothing(world: World, tmp_path: Path) -> None:
    control = JobControl()
    control.cancel()
    with pytest.raises(Cancelled):
        extract(world.loaded, world.tokens, SETTINGS, tmp_path / "set", SilentReporter(), control)
    assert keep_whole_shards(tmp_path / "set") == 0
    assert not (tmp_path / "set").exists()


def test_out_of_memory_halves_the_batch_and_loses_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halve_and_compare(world, tmp_path, monkeypatch, SETTINGS)


def halve_and_compare(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: ExtractSettings
) -> None:
    expected = made(world, tmp_path / "expected", **vars(settings))
    run = MultiCapture.run

    def crowded(self: MultiCapture, ids_BS: torch.Tensor, take: Any) -> None:
        def broken(i: int, x: torch.Tensor) -> None:
            take(i, x)
            if len(ids_BS) > 2 and i == 1:  # in the middle: some hooks have been written
                raise OutOfMemory("too much")

        run(self, ids_BS, broken)

    monkeypatch.setattr(MultiCapture, "run", crowded)
    notes = RecordingReporter()
    extract(world.loaded, world.tokens, settings, tmp_path / "set", notes, JobControl())
    stored = ActivationSet(tmp_path / "set")
    assert stored.meta["batch"] == 2
    assert stored.damaged_files(SilentReporter(), JobControl()) == []
    for point in stored.points:  # of the first two, some rows had been written before
        assert torch.allclose(
            stored.rows(*point, 0, 1000), expected.rows(*point, 0, 1000), atol=1e-2, rtol=1e-3
        ), point
    files = [
        path for path in (tmp_path / "set").rglob("*.safetensors") if path.parent.name[0] == "L"
    ]
    assert sum(load_file(path)["activations"].numel() for path in files) == 4 * 1000 * 32
    found, wanted = (s.statistics()["hooks"]["L0.resid_post"] for s in (stored, expected))
    assert np.allclose(found["mean"], wanted["mean"], atol=1e-6)
    assert found["tokens"] == 1000
    told = [str(e.values.get("sentence")) for e in notes.events if e.kind == "note"]
    assert "Out of memory: 2 rows at a time from here." in told


def test_one_row_that_does_not_fit(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self: MultiCapture, ids_BS: torch.Tensor, take: Any) -> None:
        raise OutOfMemory("too much")

    monkeypatch.setattr(MultiCapture, "run", never)
    with pytest.raises(OutOfMemory, match="One row of 20 tokens"):
        made(world, tmp_path / "set")


def test_a_disk_that_fills_up_keeps_whole_shards(world: World, tmp_path: Path) -> None:
    room = iter([10**9, 10**9, 1000])
    with pytest.raises(DiskFull, match=r"Needs 168\.\d kB .* 1\.0 kB are free"):
        extract(
            world.loaded,
            world.tokens,
            SETTINGS,
            tmp_path / "set",
            SilentReporter(),
            JobControl(),
            lambda: next(room),
        )
    assert keep_whole_shards(tmp_path / "set") == 2


def test_checksums_find_damage(world: World, tmp_path: Path) -> None:
    stored = made(world, tmp_path / "set")
    assert stored.n_files == 20
    assert stored.damaged_files(SilentReporter(), JobControl()) == []
    with (tmp_path / "set" / "L2.mlp_in" / "shard-00001.safetensors").open("r+b") as stream:
        stream.seek(500)
        stream.write(b"\xff")
    (tmp_path / "set" / "tokens" / "shard-00002.safetensors").unlink()
    os.truncate(tmp_path / "set" / "L0.mlp_in" / "shard-00003.safetensors", 200)
    assert stored.damaged_files(SilentReporter(), JobControl()) == [
        "L2.mlp_in/shard-00001.safetensors",
        "tokens/shard-00002.safetensors",
        "L0.mlp_in/shard-00003.safetensors",
    ]
    with pytest.raises(Damaged):
        stored.rows(0, "mlp_in", 980, 990)
    with pytest.raises(NotFound):
        stored.tokens(650, 660)
    with pytest.raises(InvalidInput, match="nothing of layer 1, mlp_in"):
        stored.rows(1, "mlp_in", 0, 1)


def test_a_processor_reads_few_rows_of_a_large_model_at_a_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = sum(p.numel() for p in world.loaded.blocks.modules[0].parameters())
    assert calm_batch(world.loaded, 20, 512) == 512
    monkeypatch.setattr(extraction, "_BLOCK_FLOP", 2 * weights * 20 * 37)
    assert calm_batch(world.loaded, 20, 512) == 32
    assert calm_batch(world.loaded, 10**6, 512) == 1


_CHILD = """
import sys
from pathlib import Path
from tests.ml_activations.test_extract import SETTINGS
from tests.helpers.tiny import tiny_loaded
from mistudio.core.control import JobControl
from mistudio.core.events import SilentReporter
from mistudio.ml.activations.extract import extract
from mistudio.ml.data.token_store import TokenStore

class Slow(JobControl):
    def check(self):
        import time
        time.sleep(0.02)

home, out = Path(sys.argv[1]), Path(sys.argv[2])
extract(tiny_loaded(home / "model"), TokenStore(home / "packed" / "tokens" / "tok"), SETTINGS, out,
        SilentReporter(), Slow())
"""


def test_a_killed_process_loses_no_whole_shard(world: World, tmp_path: Path) -> None:
    made(world, tmp_path / "whole")
    folder = tmp_path / "killed"
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(world.folder), str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert child.stderr is not None
    second = folder / "tokens" / "shard-00001.safetensors"
    end = time.monotonic() + 60
    while not second.exists() and child.poll() is None and time.monotonic() < end:
        time.sleep(0.005)  # until the process is where it is to be killed
    child.send_signal(signal.SIGKILL)
    child.wait()
    told = child.stderr.read()
    child.stderr.close()
    assert second.exists(), told
    assert not (folder / "meta.json").exists()
    stored = made(world, folder)
    assert len(stored) == 1000
    assert bytes_of(folder) == bytes_of(tmp_path / "whole")


def test_the_benchmark_reads_the_same_tokens_and_leaves_nothing(
    world: World, tmp_path: Path
) -> None:
    settings = ExtractSettings(layers=(0, 1), hooks=("resid_post",), rows=4, batch=2)
    found = bench_extract(world.loaded, world.tokens, settings, tmp_path / "scratch", 2)
    assert found["tokens"] == int((world.tokens.mask[:4] != 2).sum())
    assert found["ratio"] > 0
    assert found["tokens_per_s"] > 0
    assert list((tmp_path / "scratch").iterdir()) == []
