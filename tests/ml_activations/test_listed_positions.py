"""Positions that are skipped count in no statistic and come in no batch."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from mistudio.core.errors import InvalidInput
from mistudio.ml.activations.capture import Capture
from mistudio.ml.activations.masking import keep_mask
from mistudio.ml.activations.multi_capture import HookPoint
from mistudio.ml.activations.readers import LiveReader
from mistudio.ml.activations.statistics import (
    StatisticsSettings,
    StreamStatistics,
    reference_statistics,
)
from mistudio.ml.activations.stream import ActivationStream
from mistudio.ml.activations.windows import Feed, Windows
from mistudio.ml.collective import Collective
from mistudio.ml.data.listed_rows import listed, text_rows, with_listed
from mistudio.ml.data.row_table import MixedTokens, RowTable, usable_tokens
from mistudio.ml.data.token_store import PADDING, TokenStore
from tests.helpers.processes import in_threads
from tests.helpers.tiny import STORIES, tiny_loaded, write_tokens

SKIPPED = (0, 3, 4, 31)
LAYER = 2


class Setup(NamedTuple):
    capture: Capture
    tokens: TokenStore
    more: TokenStore


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    folder = tmp_path_factory.mktemp("listed")
    loaded = tiny_loaded(folder / "model")
    texts = [f"{story} {i}" for i in range(3) for story in STORIES]
    first = write_tokens(folder / "first", texts, loaded.tokenizer, 32, start_token="on")
    more = write_tokens(folder / "more", texts[:100], loaded.tokenizer, 32)
    return Setup(Capture(loaded, LAYER, "resid_post"), first, more)


def by_hand(setup: Setup, mask_special: bool) -> np.ndarray:
    """Kept activations of the training and calibration rows by transformers itself, fp64."""
    tokens = setup.tokens
    rows = [*tokens.rows("train"), *tokens.rows("calibration")]
    ids = torch.from_numpy(np.array(tokens.ids[rows])).long()
    with torch.no_grad():
        model = setup.capture.loaded.model
        hidden = model(ids, output_hidden_states=True).hidden_states[LAYER + 1]
    mask = np.array(tokens.mask[rows])
    keep = (mask == 0) if mask_special else (mask != PADDING)
    keep[:, list(SKIPPED)] = False
    return hidden.double().numpy()[keep]


@pytest.mark.parametrize("mask_special", [True, False])
def test_statistics_are_those_of_the_other_positions(setup: Setup, mask_special: bool) -> None:
    settings = StatisticsSettings(mask_special=mask_special)
    found = reference_statistics(setup.capture, with_listed(setup.tokens, SKIPPED), settings)
    kept = by_hand(setup, mask_special)
    square = (kept**2).sum(1).mean()
    assert found.n_tokens == len(kept)
    assert found.median_norm == pytest.approx(np.median(np.linalg.norm(kept, axis=1)), rel=1e-6)
    assert found.mean_D == pytest.approx(kept.mean(0), abs=1e-5)
    assert found.scale == pytest.approx(np.sqrt(32 / square), rel=1e-6)
    assert found.variance == pytest.approx(32 / square * kept.var(0).sum(), rel=1e-6)
    whole = reference_statistics(setup.capture, setup.tokens, settings)
    assert "listed" not in whole.dropped
    assert whole.n_tokens - found.n_tokens == found.dropped["listed"] > 0
    assert whole.dropped["special"] == found.dropped["special"]
    assert StreamStatistics.from_dict(found.to_dict()).dropped == found.dropped


def test_each_token_has_one_reason() -> None:
    x_BSD = torch.ones(1, 6, 4)
    x_BSD[0, 3] = torch.nan
    mask = np.array([[1, 0, 0, 0, 0, 2]], dtype=np.uint8)
    marked = listed(mask, (0, 1, 3, 5, 9))
    assert marked.tolist() == [[5, 4, 0, 4, 0, 2]]
    assert mask.tolist() == [[1, 0, 0, 0, 0, 2]]
    kept = keep_mask(x_BSD, marked, norm_limit=None)
    assert kept.keep_BS.tolist() == [[False, False, True, False, True, False]]
    base = {"padding": 1, "non_finite": 0, "norm": 0}
    assert kept.dropped == {**base, "special": 1, "listed": 2}
    kept = keep_mask(x_BSD, marked, norm_limit=None, mask_special=False)
    assert kept.keep_BS.tolist() == [[False, False, True, False, True, False]]
    assert kept.dropped == {**base, "special": 0, "listed": 3}
    assert listed(mask, ()) is mask


def test_the_mask_is_marked_however_it_is_read(setup: Setup) -> None:
    plain, table = setup.tokens, with_listed(setup.tokens, SKIPPED)
    whole = np.array(plain.mask[0 : len(plain)])
    for row in whole:
        row[[p for p in SKIPPED if row[p] != PADDING]] += 4
    rows, positions = np.array([5, 0, 7]), np.array([0, 4, 5])
    assert table.mask[rows].tolist() == whole[rows].tolist()
    assert table.mask[2:9].tolist() == whole[2:9].tolist()
    assert table.mask[3].tolist() == whole[3].tolist()
    assert table.mask[3, 2:6].tolist() == whole[3, 2:6].tolist()
    assert table.mask[rows, positions].tolist() == whole[rows, positions].tolist()
    assert table.mask[rows].dtype == np.uint8
    assert with_listed(plain, ()) is plain


def opened(setup: Setup, table: RowTable, folder: Path, **options: object) -> Windows:
    point = HookPoint(LAYER, "resid_post")
    statistics = reference_statistics(setup.capture, table, StatisticsSettings())
    return Windows(
        LiveReader(setup.capture.loaded, [point]),
        table,
        [Feed(point, statistics)],
        window=1500,
        seed=1,
        folder=folder,
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("mixed", [False, True])
def test_an_epoch_has_every_other_token_once(setup: Setup, tmp_path: Path, mixed: bool) -> None:
    stores = [setup.tokens, setup.more] if mixed else [setup.tokens]
    table = text_rows(stores, [1.0, 2.0], SKIPPED)
    assert isinstance(table, MixedTokens) == mixed
    mask = np.concatenate([s.mask[list(s.rows("train"))] for s in stores])
    content = mask == 0
    content[:, list(SKIPPED)] = False
    assert usable_tokens(table, "train") == content.sum()
    unlisted = np.delete(mask, SKIPPED, axis=1)
    assert usable_tokens(table, "train", mask_special=False) == (unlisted != PADDING).sum()
    assert (unlisted == 1).any()
    with opened(setup, table, tmp_path) as windows:
        stream = ActivationStream(windows, 0, batch=64)
        assert windows.usable_tokens == content.sum()
        seen: list[tuple[int, int]] = []
        while stream.epoch == 0:
            x_BD = next(stream)
            if stream.epoch == 0:
                places = stream.last_positions
                assert not set(places[:, 1]) & set(SKIPPED)
                seen += map(tuple, places.tolist())
                row, position = places[0]
                ids = torch.from_numpy(table.ids[[row]].astype(np.int64))
                assert torch.allclose(x_BD[0], setup.capture(ids)[0, position], atol=2e-2)
        if not mixed:
            assert (
                len(set(seen)) == len(seen) > content.sum() - 64 * windows.order.windows_per_epoch
            )
            counts = stream._counts_before  # those of the whole epoch
            assert counts["listed"] == (mask[:, list(SKIPPED)] == 0).sum()
            assert counts["special"] == (mask == 1).sum()


def test_what_is_counted_is_that_of_all_processes(setup: Setup, tmp_path: Path) -> None:
    table = with_listed(setup.tokens, SKIPPED)
    with opened(setup, table, tmp_path / "alone") as windows:
        windows.bring(0, 0)
        alone = windows.window(0).counts

    models = [tiny_loaded(tmp_path / f"model-{rank}") for rank in range(2)]  # each with its hooks

    def work(collective: Collective) -> dict[str, int]:
        folder = tmp_path / str(collective.rank)
        own = setup._replace(capture=Capture(models[collective.rank], LAYER, "resid_post"))
        with opened(own, table, folder, collective=collective) as shared:
            shared.bring(0, 0)
            return dict(shared.window(0).counts)

    assert alone["listed"] > 0
    assert in_threads(work) == [alone, alone]


def test_a_position_of_a_stream_is_as_it_was(setup: Setup, tmp_path: Path) -> None:
    with opened(setup, setup.tokens, tmp_path) as windows:
        stream = ActivationStream(windows, 0, batch=64)
        next(stream)
        counts = {"padding", "special", "non_finite", "norm", "leftover"}
        assert set(stream.state()["counts"]) == set(stream.counts) == counts


def test_a_text_of_which_nothing_is_left(setup: Setup) -> None:
    table = with_listed(setup.tokens, range(32))
    with pytest.raises(InvalidInput, match="at positions that are skipped"):
        reference_statistics(setup.capture, table, StatisticsSettings())
