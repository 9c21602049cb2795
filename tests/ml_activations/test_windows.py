"""Windows shared by hooks: rows by weight, stored values, memory that runs out, equal streams."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from mistudio.core.errors import InvalidInput, Mismatch, OutOfMemory
from mistudio.ml.activations.multi_capture import HookPoint
from mistudio.ml.activations.readers import LiveReader, RowReader, Take
from mistudio.ml.activations.row_order import RowOrder
from mistudio.ml.activations.statistics import StatisticsSettings, measure_hooks
from mistudio.ml.activations.stream import ActivationStream, open_stream
from mistudio.ml.activations.windows import Feed, Windows
from mistudio.ml.data.row_table import MixedTokens, RowTable, VectorTable
from mistudio.ml.data.token_store import RowGroup, TokenStore
from mistudio.ml.loading import LoadedModel
from tests.helpers.tiny import STORIES, tiny_loaded, write_tokens

POINTS = [HookPoint(1, "resid_post"), HookPoint(2, "mlp_out")]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return tiny_loaded(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory, loaded: LoadedModel) -> TokenStore:
    texts = [f"{story} {i}" for i in range(4) for story in STORIES]
    return write_tokens(tmp_path_factory.mktemp("text"), texts, loaded.tokenizer, 32)


def windows(
    reader: RowReader, table: RowTable, folder: Path, points: Sequence[HookPoint]
) -> Windows:
    found = measure_hooks(reader, table, points, StatisticsSettings(min_tokens=2000))
    feeds = [Feed(point, found[point]) for point in points]
    return Windows(reader, table, feeds, window=2000, seed=3, folder=folder)


def test_streams_that_share_windows_give_what_each_gives_alone(
    loaded: LoadedModel, tokens: TokenStore, tmp_path: Path
) -> None:
    reader = LiveReader(loaded, POINTS)
    with windows(reader, tokens, tmp_path / "shared", POINTS) as shared:
        streams = [ActivationStream(shared, i, batch=64) for i in range(2)]
        together: list[list[torch.Tensor]] = [[], []]
        while len(together[0]) < 60 or len(together[1]) < 60:
            wanted = min(stream.wanted for stream in streams)
            for got, stream in zip(together, streams, strict=True):
                while stream.wanted == wanted:
                    got.append(torch.as_tensor(next(stream)))
        statistics = [feed.statistics for feed in shared.feeds]
    for point, own, got in zip(POINTS, statistics, together, strict=True):
        folder = tmp_path / point.name
        with open_stream(
            loaded, point, tokens, own, batch=64, window=2000, seed=3, folder=folder
        ) as alone:
            assert all(torch.equal(torch.as_tensor(next(alone)), x) for x in got)


class Small:
    """A reader whose device holds few rows at a time."""

    def __init__(self, inner: RowReader, most: int) -> None:
        self._inner, self._most = inner, most
        self.points, self.widths, self.device = inner.points, inner.widths, inner.device

    def read(self, table: RowTable, rows: np.ndarray, take: Take) -> None:
        if len(rows) > self._most:
            # the first hook has been taken by then
            self._inner.read(table, rows, lambda i, x_BSD: None if i else take(i, x_BSD))
            raise OutOfMemory("too much")
        self._inner.read(table, rows, take)

    def holds(self, table: RowTable, rows: np.ndarray) -> np.ndarray:
        return self._inner.holds(table, rows)

    def rest(self) -> None:
        pass


def test_a_pass_that_does_not_fit_is_halved_and_loses_nothing(
    loaded: LoadedModel, tokens: TokenStore, tmp_path: Path
) -> None:
    whole = LiveReader(loaded, POINTS)
    told: list[str] = []
    with windows(whole, tokens, tmp_path / "a", POINTS) as plain:
        small = Windows(
            Small(whole, 5), tokens, plain.feeds, window=2000, seed=3, folder=tmp_path / "b",
            on_note=told.append,
        )  # fmt: skip
        with small:
            plain.bring(0, 0)
            small.bring(0, 0)
            for i in range(2):
                one, other = plain.window(i), small.window(i)
                assert (one.size, one.counts) == (other.size, other.counts)
                assert np.array_equal(one.place_N2[: one.size], other.place_N2[: one.size])
                torch.testing.assert_close(
                    one.file_NC[: one.size], other.file_NC[: one.size], atol=2e-3, rtol=2e-3
                )
    assert any("4 rows at a time" in sentence for sentence in told)
    with windows(whole, tokens, tmp_path / "c", POINTS) as plain:
        none = Windows(
            Small(whole, 0), tokens, plain.feeds, window=2000, seed=3, folder=tmp_path / "d"
        )
        with none, pytest.raises(OutOfMemory):
            none.bring(0, 0)


def test_rows_of_several_texts_come_by_weight_and_none_twice_in_a_window() -> None:
    groups = [RowGroup(np.arange(0, 400), 1.0), RowGroup(np.arange(400, 1000), 3.0)]
    order = RowOrder(groups, [10.0, 20.0], 2000, seed=1)
    rows = np.concatenate([order.rows(0, w) for w in range(order.windows_per_epoch)])
    for window in range(order.windows_per_epoch):
        chosen = order.rows(0, window)
        assert len(set(chosen.tolist())) == len(chosen)
        first = int((chosen < 400).sum()) * 10
        other = int((chosen >= 400).sum()) * 20
        assert other / first == pytest.approx(3.0, rel=0.05)
    assert not np.array_equal(order.rows(0, 0), order.rows(1, 0))
    assert np.array_equal(order.rows(1, 1), RowOrder(groups, [10.0, 20.0], 2000, 1).rows(1, 1))
    assert len(set(rows[rows >= 400].tolist())) == int((rows >= 400).sum())  # no row again so soon


def test_a_short_text_does_not_come_twice_in_a_window() -> None:
    groups = [RowGroup(np.arange(5), 1.0), RowGroup(np.arange(5, 1000), 1.0)]
    order = RowOrder(groups, [10.0, 10.0], 100_000, seed=1)
    assert sorted(order.rows(0, 0).tolist())[:5] == [0, 1, 2, 3, 4]
    assert len(order.rows(0, 0)) == 10


def test_mixed_tokens_read_as_their_parts(
    loaded: LoadedModel, tokens: TokenStore, tmp_path: Path
) -> None:
    texts = [f"Another: {story} {i}" for i in range(3) for story in STORIES]
    other = write_tokens(tmp_path, texts, loaded.tokenizer, 32)
    mixed = MixedTokens([tokens, other], [1.0, 2.0])
    rows = np.array([3, len(tokens) + 2, 0, len(tokens)])
    assert np.array_equal(mixed.ids[rows][1], other.ids[2])
    assert np.array_equal(mixed.ids[rows][2], tokens.ids[0])
    assert np.array_equal(mixed.mask[len(tokens) + 1], other.mask[1])
    ours, theirs = set(np.unique(tokens.docs)), set(np.unique(mixed.docs[len(tokens) :]))
    assert not (ours & theirs) - {-1}
    for part in ("train", "calibration", "evaluation"):
        chosen = np.array(mixed.rows(part))
        assert len(set(chosen.tolist())) == len(chosen)
        counted = [
            int((mixed.mask[chosen[side]] == 0).sum())
            for side in (chosen < len(tokens), chosen >= len(tokens))
        ]
        if len(chosen) > 30:
            assert counted[1] / counted[0] == pytest.approx(2.0, rel=0.15)
        allowed = {*tokens.rows(part), *(r + len(tokens) for r in other.rows(part))}
        assert set(chosen.tolist()) <= allowed
    short = write_tokens(tmp_path / "short", texts, loaded.tokenizer, 16)
    with pytest.raises(Mismatch, match="different contexts"):
        MixedTokens([tokens, short], [1.0, 1.0])
    with pytest.raises(InvalidInput, match="above 0"):
        MixedTokens([tokens, other], [1.0, 0.0])


def test_vectors_are_held_out_by_a_seeded_choice() -> None:
    table = VectorTable(1000, 0.1, seed=4)
    parts = [table.rows(part) for part in ("train", "calibration", "evaluation")]
    assert [len(part) for part in parts] == [900, 50, 50]
    assert sorted(row for part in parts for row in part) == list(range(1000))
    assert table.rows("evaluation") == VectorTable(1000, 0.1, seed=4).rows("evaluation")
    assert table.rows("evaluation") != VectorTable(1000, 0.1, seed=5).rows("evaluation")
    assert table.docs[np.array([7, 9])].tolist() == [[7], [9]]
