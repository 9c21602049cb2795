"""A harvest against a dense pass of the whole model; batches, kills and errors leave no trace."""

from __future__ import annotations

import dataclasses
import errno
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mistudio.core.control import JobControl
from mistudio.core.errors import Cancelled, DiskFull, Mismatch
from mistudio.core.events import RecordingReporter
from mistudio.ml.data.token_store import CONTENT
from mistudio.ml.features import finish, harvest, partial
from mistudio.ml.features.feature_store import EXTREME, KEPT, PADDING, SPECIAL, FeatureStore
from mistudio.ml.features.rows import plan_rows, read_rows
from tests.ml_features.conftest import LATENTS, LAYER, Workbench


@pytest.fixture(scope="module")
def folder(workbench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store") / "fs"
    workbench.harvest(folder)
    return folder


def _dense_oracle(workbench: Workbench, store: FeatureStore) -> tuple[np.ndarray, np.ndarray]:
    """Activations [row, position, feature] and which tokens count, by the whole model."""
    rows_R2, length = np.load(store.folder / "rows.npy"), store.row_length
    acts, kept = np.zeros((len(rows_R2), length, LATENTS)), np.zeros((len(rows_R2), length), bool)
    for index, (row, start) in enumerate(rows_R2):
        ids = torch.from_numpy(workbench.tokens.ids[row, start : start + length].astype("int64"))
        with torch.inference_mode():
            states = workbench.loaded.model(ids[None], output_hidden_states=True).hidden_states
        acts[index, : len(ids)] = workbench.sae.encode(states[LAYER + 1][0]).numpy()
        kept[index, : len(ids)] = workbench.tokens.mask[row, start : start + length] == CONTENT
    acts[~kept] = 0
    return acts, kept


def test_store_equals_a_dense_pass(workbench: Workbench, folder: Path) -> None:
    store = FeatureStore(folder)
    acts, kept = _dense_oracle(workbench, store)
    assert store.kept_tokens == kept.sum()
    assert (np.load(folder / "mask.npy").reshape(kept.shape) == KEPT).tolist() == kept.tolist()
    flat = acts.reshape(-1, LATENTS)
    found = np.zeros_like(flat)
    for feature in range(LATENTS):
        tokens, values = store.entries(feature)
        found[tokens, feature] = values
    differ = (found > 0) != (flat > 0)
    assert differ.sum() <= 2  # a value within rounding of its threshold
    np.testing.assert_allclose(found[~differ], flat[~differ], rtol=1e-3)
    assert store.statistics["count"].tolist() == (found > 0).sum(0).tolist()
    np.testing.assert_allclose(store.statistics["max"], found.max(0), rtol=1e-7)
    assert store.summary["l0"] == pytest.approx((found > 0).sum() / kept.sum())
    assert store.flags(5) == ["dead"]
    splits = np.load(folder / "csr_splits.npy")
    assert np.diff(splits).tolist() == (found > 0).sum(1).tolist()
    features = np.load(folder / "csr_features.npy")
    assert features[splits[7] : splits[8]].tolist() == np.flatnonzero(found[7]).tolist()


def test_special_tokens_do_not_count(workbench: Workbench, folder: Path) -> None:
    mask = np.load(folder / "mask.npy")
    ids = np.load(folder / "ids.npy")
    special = {workbench.loaded.tokenizer.bos_token_id, workbench.loaded.tokenizer.eos_token_id}
    assert set(ids[mask == SPECIAL].tolist()) == special
    assert not special & set(ids[mask == KEPT].tolist())
    summary = FeatureStore(folder).summary
    assert summary["masked"]["special"] == (mask == SPECIAL).sum() > 0
    assert summary["n_all"] == (mask != PADDING).sum()


def test_rows_are_chunks_drawn_from_all_parts(workbench: Workbench) -> None:
    tokens = workbench.tokens
    plan = plan_rows(tokens.mask, 16, 10**6, 0)
    assert plan.length == 16
    pairs = {tuple(pair) for pair in plan.rows_R2.tolist()}
    content = tokens.mask != PADDING
    expected = {
        (row, start)
        for row, start in itertools.product(range(len(tokens)), (0, 16, 32))
        if content[row, start : start + 16].any()
    }
    assert pairs == expected
    fewer = plan_rows(tokens.mask, 16, 20, 0)
    assert fewer.rows_R2.tolist() == plan.rows_R2[:20].tolist()
    assert fewer.available == len(expected)
    assert plan_rows(tokens.mask, 16, 20, 1).rows_R2.tolist() != fewer.rows_R2.tolist()
    assert plan_rows(tokens.mask, 128, 5, 0).length == tokens.context
    last = np.array([[0, 32]], np.int32)
    block = read_rows(tokens.ids, tokens.mask, last, 16, height=2)
    assert block.ids_RS[0, :8].tolist() == tokens.ids[0, 32:].tolist()
    assert (block.mask_RS[0, 8:] == PADDING).all()
    assert (block.mask_RS[1] == PADDING).all()


def test_store_does_not_depend_on_checkpoints(
    workbench: Workbench, folder: Path, tmp_path: Path
) -> None:
    facts = workbench.harvest(tmp_path / "fs", checkpoint_s=0.0)
    assert facts.store_hash == FeatureStore(folder).store_hash


def test_a_tile_does_not_depend_on_those_behind_it(
    workbench: Workbench, folder: Path, tmp_path: Path
) -> None:
    """Fewer rows of the same seed: the same bits, although the last tile is filled up."""
    workbench.harvest(tmp_path / "fs", rows=37)
    short, whole = (np.load(f / "csr_splits.npy") for f in (tmp_path / "fs", folder))
    assert short.tolist() == whole[: short.size].tolist()
    for name in ("csr_features", "csr_values"):
        part, all_of_it = (np.load(f / f"{name}.npy") for f in (tmp_path / "fs", folder))
        assert part.tobytes() == all_of_it[: part.size].tobytes()


BATCHES = (8, 32, 128)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(harvest.TILE_TOKENS, "cpu", 16 * 16)


class _Killed(BaseException):
    """Stands for a process that ends at once."""


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("moment", [2, 5, 9])
def test_resume_after_a_kill_gives_the_same_store(
    workbench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    expected = workbench.harvest(tmp_path / "whole").store_hash
    encode, calls = harvest._encode, itertools.count()

    def dies(*arguments: Any) -> Any:
        if next(calls) == moment:
            raise _Killed
        return encode(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(harvest, "_encode", dies)
        patch.setattr(harvest.shutil, "rmtree", lambda *_args, **_options: None)  # no clean-up
        with pytest.raises(_Killed):
            workbench.harvest(tmp_path / "cut", checkpoint_s=0.0)
    unfinished = partial.partial_folder(tmp_path / "cut")
    assert unfinished.is_dir()
    assert not (tmp_path / "cut").exists()
    with (unfinished / "csr_values.npy").open("ab") as stream:
        stream.write(b"written after the checkpoint")
    report = RecordingReporter()
    facts = workbench.harvest(tmp_path / "cut", report=report)
    assert facts.store_hash == expected
    assert any("Going on after" in str(e.values.get("sentence")) for e in report.events)
    assert not unfinished.exists()


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("batch", BATCHES)
def test_store_does_not_depend_on_the_batch(
    workbench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """Nor on a kill, after which another batch goes on: to the bit, and without a clean-up."""
    expected = workbench.harvest(tmp_path / "tiles").store_hash
    shapes: list[tuple[int, ...]] = []
    encode, looks = harvest._encode, itertools.count()

    def noted(*arguments: Any) -> Any:
        shapes.append(arguments[2].ids_RS.shape)
        return encode(*arguments)

    class Dies(JobControl):
        def check(self) -> None:
            if next(looks) == 1:
                raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(harvest, "_encode", noted)
        facts = workbench.harvest(tmp_path / "fs", batch_size=batch)
        assert set(shapes) == {(16, 16)}
        patch.setattr(harvest.shutil, "rmtree", lambda *_args, **_options: None)
        with pytest.raises(_Killed):
            workbench.harvest(tmp_path / "cut", batch_size=batch, control=Dies(), checkpoint_s=0.0)
    assert facts.store_hash == expected
    report = RecordingReporter()
    other = BATCHES[BATCHES.index(batch) - 1]
    again = workbench.harvest(tmp_path / "cut", batch_size=other, report=report)
    assert again.store_hash == expected
    step = max(16, batch)
    told = [str(e.values.get("sentence")) for e in report.events]
    assert any(f"Going on after {step} of" in sentence for sentence in told)


def _rounded_entries(store: FeatureStore) -> tuple[np.ndarray, np.ndarray]:
    """Token and feature of each entry as one number, and values as they are stored."""
    splits = np.load(store.folder / "csr_splits.npy")
    token = np.repeat(np.arange(splits.size - 1), np.diff(splits))
    values = np.load(store.folder / "csr_values.npy").astype(np.float32) * store.scale
    return token * LATENTS + np.load(store.folder / "csr_features.npy"), values


@pytest.mark.parametrize("batch", [7, *BATCHES])
def test_free_shapes_differ_by_rounding_and_are_marked(
    workbench: Workbench, folder: Path, tmp_path: Path, batch: int
) -> None:
    """After rounding to fp16 at most one entry in a thousand differs, by one step of fp16; where
    the strongest examples are strictly ordered they are the same ones."""
    workbench.harvest(tmp_path / "fast", fast=True, batch_size=batch)
    strict, fast = FeatureStore(folder), FeatureStore(tmp_path / "fast")
    assert fast.summary["fast"] is True
    assert fast.summary["tile_rows"] == batch
    assert strict.summary["fast"] is False
    (at, expected), (found_at, found) = _rounded_entries(strict), _rounded_entries(fast)
    allowed = at.size // 1000
    assert np.setxor1d(at, found_at).size <= allowed
    common, here, there = np.intersect1d(at, found_at, return_indices=True)
    differ = expected[here] != found[there]
    assert differ.sum() <= allowed
    np.testing.assert_allclose(found[there], expected[here], rtol=2**-10)
    assert common.size > 1000
    strictly = 0
    for feature in range(LATENTS):
        one, two = strict.examples(feature), fast.examples(feature)
        assert len(one) == len(two)
        apart = [a.value > b.value * (1 + 2**-9) for a, b in itertools.pairwise(one)]
        for a, b, alone in zip(one, two, map(min, apart, [True, *apart]), strict=False):
            if alone:
                strictly += 1
                assert (a.row, a.position) == (b.row, b.position)
    assert strictly > 15


def test_free_shapes_are_those_of_the_batch(
    workbench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    encode = harvest._encode

    def noted(*arguments: Any) -> Any:
        seen.append(len(arguments[2].ids_RS))
        return encode(*arguments)

    monkeypatch.setattr(harvest, "_encode", noted)
    workbench.harvest(tmp_path / "fs", fast=True, batch_size=64, rows=150)
    rows = len(np.load(tmp_path / "fs" / "rows.npy"))
    assert seen == [64] * (rows // 64) + ([rows % 64] if rows % 64 else [])
    assert rows % 64


@pytest.mark.usefixtures("small_tiles")
def test_a_partial_store_of_other_settings_is_not_continued(
    workbench: Workbench, tmp_path: Path
) -> None:
    unfinished = partial.PartialStore(
        partial.partial_folder(tmp_path / "fs"), "another key", np.dtype(np.uint16)
    )
    unfinished.progress.tiles = 3
    unfinished.checkpoint()
    unfinished.close(finished=False)
    expected = workbench.harvest(tmp_path / "whole").store_hash
    assert workbench.harvest(tmp_path / "fs").store_hash == expected


def test_cancel_and_full_disk_leave_nothing(
    workbench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = JobControl()
    control.cancel()
    with pytest.raises(Cancelled):
        workbench.harvest(tmp_path / "fs", control=control)
    assert list(tmp_path.iterdir()) == []

    def full(*_arguments: Any, **_options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(finish, "transpose", full)
    with pytest.raises(DiskFull, match="Free some space"):
        workbench.harvest(tmp_path / "fs")
    assert list(tmp_path.iterdir()) == []


def test_extreme_norms_do_not_count(workbench: Workbench, tmp_path: Path) -> None:
    low = workbench._replace(sae=workbench.sae.with_metadata(median_norm=0.5))
    low.harvest(tmp_path / "fs", norm_cut=10.0)
    mask = np.load(tmp_path / "fs" / "mask.npy")
    summary = FeatureStore(tmp_path / "fs").summary
    assert summary["median_norm"] == 0.5
    assert summary["masked"]["extreme"] == (mask == EXTREME).sum() > 0


def test_parts_that_do_not_fit_are_refused(workbench: Workbench, tmp_path: Path) -> None:
    sae = workbench.sae
    narrow = dataclasses.replace(
        sae, W_enc_DF=sae.W_enc_DF[:8], W_dec_FO=sae.W_dec_FO[:, :8], b_dec_O=sae.b_dec_O[:8]
    )
    with pytest.raises(Mismatch, match="width 8"):
        workbench._replace(sae=narrow).harvest(tmp_path / "fs")
    assert list(tmp_path.iterdir()) == []


def test_small_values_never_become_zero(tmp_path: Path) -> None:
    store = partial.PartialStore(tmp_path / "p", "key", np.dtype(np.uint16))
    values = np.array([1e-30, 1.0, 3.0, 1e9], np.float32)
    ids = np.zeros((1, 2), np.int32)
    store.append(ids, ids.astype(np.uint8), np.array([3, 1]), np.arange(4), values)
    exponent = store.progress.exponent
    assert exponent is not None
    assert store.progress.clipped == 0
    store.append(ids, ids.astype(np.uint8), np.array([1, 0]), np.arange(1), values[3:] * 1e4)
    assert store.progress.clipped == 1
    store.close()
    stored = np.load(tmp_path / "p" / "csr_values.npy").astype(float)
    assert (stored > 0).all()
    assert np.isfinite(stored).all()
    assert stored[3] * 2.0**-exponent == pytest.approx(1e9, rel=1e-3)
