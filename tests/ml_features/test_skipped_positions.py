"""A harvest leaves positions out: counted among all tokens, without an activation, and told."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from mistudio.core.errors import Mismatch
from mistudio.ml.activations.pair_capture import PairCapture
from mistudio.ml.features.feature_store import KEPT, LISTED, PADDING, SPECIAL, FeatureStore
from mistudio.ml.features.harvest_settings import HarvestSettings
from mistudio.ml.features.own_text import fire, tokenize
from mistudio.ml.features.own_values import counted
from mistudio.ml.features.text_windows import WindowReader
from tests.ml_features.conftest import HOOK, LATENTS, LAYER, Workbench

SKIPPED = (0, 2, 3, 15, 30)  # the last is none of a row of 16 tokens
INSIDE = SKIPPED[:4]


@pytest.fixture(scope="module")
def plain(workbench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    folder = tmp_path_factory.mktemp("plain") / "fs"
    workbench.harvest(folder)
    return FeatureStore(folder)


@pytest.fixture(scope="module")
def skipping(workbench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    folder = tmp_path_factory.mktemp("skipping") / "fs"
    workbench.harvest(folder, skip_positions=SKIPPED)
    return FeatureStore(folder)


def test_activations_are_those_of_the_other_positions(
    plain: FeatureStore, skipping: FeatureStore
) -> None:
    before, after = np.array(plain.mask), np.array(skipping.mask)
    assert (before == SPECIAL).tolist() == (after == SPECIAL).tolist(), "these stay special"
    wanted = before.copy()
    wanted[:, list(INSIDE)] = np.where(before == KEPT, LISTED, before)[:, list(INSIDE)]
    assert after.tolist() == wanted.tolist()
    for feature in range(LATENTS):
        tokens, values = plain.entries(feature)
        stays = ~np.isin(tokens % 16, INSIDE)
        found = skipping.entries(feature)
        assert found[0].tolist() == tokens[stays].tolist()
        assert found[1].tolist() == values[stays].tolist()


def test_what_is_left_out_is_counted(plain: FeatureStore, skipping: FeatureStore) -> None:
    one, other = plain.summary, skipping.summary
    listed = int((np.array(skipping.mask) == LISTED).sum())
    assert other["n_all"] == one["n_all"] == int((np.array(plain.mask) != PADDING).sum())
    assert other["n_tokens"] == one["n_tokens"] - listed
    assert other["masked"] == {**one["masked"], "at_skipped_positions": listed}
    assert other["settings"]["skip_positions"] == list(SKIPPED)
    frequency = skipping.statistics["frequency"]
    assert frequency == pytest.approx(skipping.statistics["count"] / other["n_tokens"])
    assert one["key"] != other["key"]


def test_without_positions_nothing_is_told_of_them(plain: FeatureStore) -> None:
    older = asdict(HarvestSettings(context=16, rows=150, top_k=4))
    del older["skip_positions"]
    assert plain.summary["settings"] == older
    assert set(plain.summary["masked"]) == {"special", "extreme", "not_finite"}


def test_examples_show_them_as_left_out(skipping: FeatureStore) -> None:
    feature = int(skipping.statistics["count"].argmax())
    pieces = [p for example in skipping.examples(feature) for p in example.pieces]
    plain = [p for p in pieces if not p.special]
    places = [{position % 16 for position in range(p.lo, p.hi)} for p in plain]
    assert {p.kept for p, at in zip(plain, places, strict=True) if at <= {*INSIDE}} == {False}
    assert {p.kept for p, at in zip(plain, places, strict=True) if not at & {*INSIDE}} == {True}
    assert {p.value for p in plain if not p.kept} == {0.0}


def test_windows_still_begin_with_the_start_token(
    workbench: Workbench, skipping: FeatureStore
) -> None:
    reader = WindowReader(skipping, 8)
    feature = int(skipping.statistics["count"].argmax())
    windows = reader.top(feature, 20)
    bos = workbench.loaded.tokenizer.bos_token_id
    starts = {int(skipping.token_row(int(row))[0]) == bos for row in windows.rows_W}
    assert starts == {True, False}, "some rows are the middle of a longer one"
    for row, ids in zip(windows.rows_W.tolist(), windows.ids_WS, strict=True):
        assert (ids[0] == bos) == (skipping.token_row(row)[0] == bos)


def test_what_is_read_again_leaves_them_out(workbench: Workbench, skipping: FeatureStore) -> None:
    x_BSD = torch.ones(2, 20, 32)
    mask_BS = np.zeros((2, 20), np.uint8)
    keep = counted(x_BSD, x_BSD, mask_BS, skipping).numpy()
    wanted = np.ones((2, 20), bool)
    wanted[:, list(INSIDE)] = False
    assert keep.tolist() == wanted.tolist()
    capture = PairCapture(workbench.loaded, LAYER, HOOK, HOOK)
    text = tokenize(workbench.loaded, "The crow went out to find the old bell by the mill.", 99)
    fired = fire(capture, workbench.sae, skipping, text)
    left_out = set(np.flatnonzero(~fired.keep_T).tolist())
    assert left_out == {p for p in SKIPPED if p < len(text.ids_T)}
    assert not set(fired.token_of().tolist()) & left_out


def test_a_row_of_which_nothing_is_left(workbench: Workbench, tmp_path: Path) -> None:
    with pytest.raises(Mismatch, match="all positions of a row of 16 tokens"):
        workbench.harvest(tmp_path / "fs", skip_positions=tuple(range(20)))
    assert list(tmp_path.iterdir()) == []
