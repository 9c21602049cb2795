"""A harvest from stored activations is the live one, to the bit where the precision allows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mistudio.core.control import JobControl
from mistudio.core.errors import InvalidInput, Mismatch
from mistudio.core.events import RecordingReporter
from mistudio.ml.activations.extract import ExtractSettings, extract
from mistudio.ml.activations.shards import ActivationSet
from mistudio.ml.features import harvest as pass_
from mistudio.ml.features.feature_store import FeatureStore
from mistudio.ml.features.harvest import HarvestSettings, harvest
from mistudio.ml.features.rows import RowBlock
from tests.ml_features.conftest import HOOK, LATENTS, LAYER, Workbench

CONTEXT, HEIGHT = 40, 4


@pytest.fixture(autouse=True)
def _few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pass_.TILE_TOKENS, "cpu", HEIGHT * CONTEXT)


def stored_set(workbench: Workbench, folder: Path, **settings: object) -> ActivationSet:
    wanted = ExtractSettings((LAYER,), (HOOK,), batch=HEIGHT, **settings)  # type: ignore[arg-type]
    folder.mkdir()
    extract(workbench.loaded, workbench.tokens, wanted, folder, RecordingReporter(), JobControl())
    return ActivationSet(folder)


def harvested(
    workbench: Workbench, folder: Path, stored: ActivationSet | None = None, context: int = CONTEXT
) -> FeatureStore:
    harvest(
        workbench.loaded, workbench.sae, LAYER, HOOK, workbench.tokens, workbench.text,
        HarvestSettings(context=context, rows=60, top_k=4), folder, RecordingReporter(),
        JobControl(), stored=stored,
    )  # fmt: skip
    return FeatureStore(folder)


def test_a_set_in_full_precision_gives_the_same_store(workbench: Workbench, tmp_path: Path) -> None:
    live = harvested(workbench, tmp_path / "live")
    stored = stored_set(workbench, tmp_path / "fp32", dtype="fp32")
    assert harvested(workbench, tmp_path / "from32", stored).store_hash == live.store_hash


def test_8_32_and_128_rows_read_together_differ_by_rounding_at_most(
    workbench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last bits of a product depend on its shape, which is why a harvest's tile is fixed; from
    stored activations the store is the live one to the bit at each."""
    stored = stored_set(workbench, tmp_path / "fp32", dtype="fp32")
    stores: list[FeatureStore] = []
    heights: list[int] = []
    encode = pass_._encode

    def counted(source: object, sae: object, block: RowBlock, *rest: object) -> object:
        heights.append(len(block.ids_RS))
        return encode(source, sae, block, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(pass_, "_encode", counted)
    for rows in (8, 32, 128):
        monkeypatch.setitem(pass_.TILE_TOKENS, "cpu", rows * CONTEXT)
        pair: list[FeatureStore] = []
        for name, activations in (("live", None), ("stored", stored)):
            heights.clear()
            pair.append(harvested(workbench, tmp_path / f"{name}{rows}", activations))
            assert set(heights) == {rows}
        assert pair[0].store_hash == pair[1].store_hash
        stores.append(pair[0])
    first = stores[0]
    for other in stores[1:]:
        for name in ("ids.npy", "mask.npy", "csr_splits.npy", "csr_features.npy"):
            assert (np.load(other.folder / name) == np.load(first.folder / name)).all(), name
        for feature in range(LATENTS):
            np.testing.assert_allclose(
                other.entries(feature)[1], first.entries(feature)[1], rtol=2e-3
            )
        assert other.statistics["count"].tolist() == first.statistics["count"].tolist()
        np.testing.assert_allclose(other.statistics["sum"], first.statistics["sum"], rtol=1e-4)


def test_a_set_in_half_precision_differs_by_its_rounding(
    workbench: Workbench, tmp_path: Path
) -> None:
    live = harvested(workbench, tmp_path / "live")
    stored = stored_set(workbench, tmp_path / "fp16", dtype="fp16")
    half = harvested(workbench, tmp_path / "from16", stored)
    assert half.store_hash != live.store_hash
    assert np.load(half.folder / "mask.npy").tolist() == np.load(live.folder / "mask.npy").tolist()
    # a frequent token close to a threshold moves one feature's sum by much, but few features
    difference = np.abs(half.statistics["sum"] - live.statistics["sum"])
    difference /= live.statistics["sum"].max()
    assert difference.max() <= 0.1
    assert np.median(difference) <= 0.005
    assert half.statistics["count"].sum() == pytest.approx(live.statistics["count"].sum(), rel=0.02)


def test_only_rows_that_are_stored_are_read(workbench: Workbench, tmp_path: Path) -> None:
    stored = stored_set(workbench, tmp_path / "few", dtype="fp32", rows=9)
    store = harvested(workbench, tmp_path / "fs", stored)
    rows = np.load(store.folder / "rows.npy")
    assert sorted(rows[:, 0].tolist()) == list(range(9))
    assert store.summary["rows_available"] == 9


def test_what_a_set_does_not_hold_is_refused(workbench: Workbench, tmp_path: Path) -> None:
    stored = stored_set(workbench, tmp_path / "set", dtype="fp32", rows=4)
    with pytest.raises(Mismatch, match="whole rows of 40 tokens"):
        harvested(workbench, tmp_path / "fs", stored, context=16)
    with pytest.raises(InvalidInput, match="nothing of layer 2"):
        harvest(
            workbench.loaded, workbench.sae, 2, HOOK, workbench.tokens, workbench.text,
            HarvestSettings(context=CONTEXT), tmp_path / "fs", RecordingReporter(), JobControl(),
            stored=stored,
        )  # fmt: skip
    stored.meta["tokens_hash"] = "another"
    with pytest.raises(Mismatch, match="another text"):
        harvested(workbench, tmp_path / "fs", stored)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_an_sae_that_does_not_fit_is_doubted(workbench: Workbench, tmp_path: Path) -> None:
    """Against a plain computation of the explained variance of the first rows."""
    report = RecordingReporter()
    harvest(
        workbench.loaded, workbench.sae, LAYER, HOOK, workbench.tokens, workbench.text,
        HarvestSettings(context=CONTEXT, rows=8, top_k=4), tmp_path / "fs", report, JobControl(),
        expected_ev=0.99,
    )  # fmt: skip
    fit = FeatureStore(tmp_path / "fs").summary["fit"]
    kept, x = _kept_activations(workbench, tmp_path / "fs")
    made = workbench.sae.reconstruct(x).numpy().astype(float)
    y = x.numpy().astype(float)
    expected = 1 - ((y - made) ** 2).sum() / ((y - y.mean(0)) ** 2).sum()
    assert fit["n"] == kept.sum()
    assert fit["ev"] == pytest.approx(expected, rel=1e-5)
    assert fit["ev"] < 0.94
    said = [str(e.values.get("sentence")) for e in report.events]
    assert any("0.990 as it was measured" in sentence for sentence in said)


def _kept_activations(workbench: Workbench, folder: Path) -> tuple[np.ndarray, object]:
    import torch

    from mistudio.ml.activations.capture import Capture

    store = FeatureStore(folder)
    kept = np.load(folder / "mask.npy").reshape(-1, store.row_length) == 0
    rows = np.load(folder / "rows.npy")[:, 0]
    ids = torch.from_numpy(workbench.tokens.ids[rows].astype("int64"))
    x = Capture(workbench.loaded, LAYER, HOOK)(ids)
    return kept, x[torch.from_numpy(kept)]


def test_an_sae_that_fits_is_not_doubted(workbench: Workbench, tmp_path: Path) -> None:
    report = RecordingReporter()
    workbench.harvest(tmp_path / "fs", report=report)
    assert FeatureStore(tmp_path / "fs").summary["n_features"] == LATENTS
    said = [str(e.values.get("sentence")) for e in report.events]
    assert not any("explains" in sentence for sentence in said)
