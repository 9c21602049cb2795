"""Tokens with very many latents: what is stored is cut, what is counted is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mistudio.ml.features import harvest as pass_
from mistudio.ml.features.exact_counts import strongest
from mistudio.ml.features.feature_store import FeatureStore
from mistudio.ml.sae.matching_pursuit import Pursuit
from tests.ml_features.conftest import LATENTS, Workbench

MOST = 3
EXACTLY = ("count", "active_samples", "max", "max_row", "max_position", "flags")


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pass_.TILE_TOKENS, "cpu", 16 * 16)


def test_counts_stay_exact_where_entries_are_left_out(workbench: Workbench, tmp_path: Path) -> None:
    workbench.harvest(tmp_path / "all")
    workbench.harvest(tmp_path / "cut", most_entries=MOST)
    whole, cut = FeatureStore(tmp_path / "all"), FeatureStore(tmp_path / "cut")
    per_token = np.diff(np.load(tmp_path / "all" / "csr_splits.npy"))
    stored = np.diff(np.load(tmp_path / "cut" / "csr_splits.npy"))
    assert per_token.max() > MOST
    assert stored.tolist() == np.minimum(per_token, MOST).tolist()
    for name in EXACTLY:
        if name == "flags":
            continue
        assert cut.statistics[name].tolist() == whole.statistics[name].tolist(), name
    for name in ("sum", "sum_squares", "mean_active", "mean_all", "frequency"):
        np.testing.assert_allclose(cut.statistics[name], whole.statistics[name], rtol=1e-12)
    assert whole.summary["truncated"] is None
    assert cut.summary["truncated"] == {
        "most_entries": MOST,
        "tokens": int((per_token > MOST).sum()),
        "dropped": int((per_token - stored).sum()),
    }
    assert not list((tmp_path / "cut").glob("exact-*"))


def test_what_is_kept_of_a_token_is_its_strongest(workbench: Workbench, tmp_path: Path) -> None:
    workbench.harvest(tmp_path / "all")
    workbench.harvest(tmp_path / "cut", most_entries=MOST)
    dense = {}
    for name in ("all", "cut"):
        store = FeatureStore(tmp_path / name)
        splits = np.load(tmp_path / name / "csr_splits.npy")
        dense[name] = np.zeros((splits.size - 1, LATENTS))
        for feature in range(LATENTS):
            tokens, values = store.entries(feature)
            dense[name][tokens, feature] = values
    limit = np.sort(dense["all"], axis=1)[:, -MOST][:, None]
    kept = dense["cut"] > 0
    assert (dense["cut"][kept] == dense["all"][kept]).all()
    assert (dense["all"][kept] >= np.broadcast_to(limit, kept.shape)[kept]).all()


def test_ties_keep_the_earlier_latents() -> None:
    counts = np.array([4, 0, 2])
    bits = np.array([5, 7, 5, 5, 1, 1], np.uint16)
    assert strongest(counts, bits, 2).tolist() == [True, True, False, False, True, True]


def test_a_cut_store_survives_a_kill(
    workbench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = workbench.harvest(tmp_path / "whole", most_entries=MOST).store_hash
    encode, calls = pass_._encode, iter(range(100))

    class Killed(BaseException):
        """Stands for a process that ends at once."""

    def dies(*arguments: object) -> object:
        if next(calls) == 4:
            raise Killed
        return encode(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(pass_, "_encode", dies)
        patch.setattr(pass_.shutil, "rmtree", lambda *_args, **_options: None)
        with pytest.raises(Killed):
            workbench.harvest(tmp_path / "cut", most_entries=MOST, checkpoint_s=0.0)
    assert workbench.harvest(tmp_path / "cut", most_entries=MOST).store_hash == expected


def test_a_pursuit_is_counted_whole_and_known_by_when_it_is_done(
    workbench: Workbench, tmp_path: Path
) -> None:
    def harvested(pursuit: Pursuit, **settings: int) -> FeatureStore:
        sae = replace(
            workbench.sae,
            architecture="matching_pursuit",
            threshold_F=None,
            W_enc_DF=workbench.sae.W_dec_FO.T,
            pursuit=pursuit,
        )
        workbench._replace(sae=sae).harvest(tmp_path / "set", **settings)
        return FeatureStore(tmp_path / "set")

    long = harvested(Pursuit(0.0, 2 * MOST), most_entries=MOST)
    count, shown = long.statistics["count"].copy(), long.summary["truncated"]
    assert shown["tokens"] > 0
    assert count.sum() == np.load(tmp_path / "set" / "csr_splits.npy")[-1] + shown["dropped"]
    short = harvested(Pursuit(0.0, MOST), most_entries=MOST)
    assert short.summary["truncated"] is None
    assert short.statistics["count"].sum() < count.sum()
