"""The activation stream: right activations, right tokens, mixed, counted, and exact to resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from mistudio.core.control import JobControl
from mistudio.core.errors import Cancelled, DiskFull, InvalidInput, Mismatch, OutOfMemory
from mistudio.core.events import RecordingReporter
from mistudio.ml.activations.capture import Capture
from mistudio.ml.activations.masking import default_forward_batch, iterate_rows, keep_mask
from mistudio.ml.activations.multi_capture import HookPoint
from mistudio.ml.activations.readers import Take
from mistudio.ml.activations.statistics import (
    OneHook,
    StatisticsSettings,
    StreamStatistics,
    measure_hooks,
    reference_statistics,
)
from mistudio.ml.activations.stream import ActivationStream, open_stream
from mistudio.ml.collective import Collective
from mistudio.ml.data.row_table import RowTable
from mistudio.ml.data.token_store import TokenStore
from tests.helpers.processes import in_threads
from tests.helpers.tiny import STORIES, tiny_loaded, write_tokens


class Setup(NamedTuple):
    capture: Capture
    tokens: TokenStore
    statistics: StreamStatistics


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    folder = tmp_path_factory.mktemp("stream")
    loaded = tiny_loaded(folder / "model")
    texts = [f"{story} {i}" for i in range(6) for story in STORIES]
    tokens = write_tokens(folder / "data", texts, loaded.tokenizer, 32)
    capture = Capture(loaded, 2, "resid_post")
    return Setup(capture, tokens, reference_statistics(capture, tokens, StatisticsSettings()))


def stream(setup: Setup, folder: Path, **changes: object) -> ActivationStream:
    settings: dict[str, object] = {"batch": 256, "window": 4000, "seed": 1}
    capture = setup.capture
    point = HookPoint(capture.layer, capture.hook)
    return open_stream(
        capture.loaded, point, setup.tokens, setup.statistics, folder=folder,
        **{**settings, **changes},  # type: ignore[arg-type]
    )  # fmt: skip


def direct(setup: Setup, rows: range) -> tuple[np.ndarray, np.ndarray]:
    """Residual stream behind block 2 from transformers itself, fp64, and the content mask."""
    ids = torch.from_numpy(np.array(setup.tokens.ids[rows.start : rows.stop])).long()
    with torch.no_grad():
        hidden = setup.capture.loaded.model(ids, output_hidden_states=True).hidden_states[3]
    mask = np.array(setup.tokens.mask[rows.start : rows.stop]) == 0
    return hidden.double().numpy(), mask


def test_statistics_equal_a_direct_computation(setup: Setup) -> None:
    tokens = setup.tokens
    x, mask = direct(setup, range(tokens.rows("train").start, tokens.rows("calibration").stop))
    kept = x[mask]
    found = setup.statistics
    assert found.n_tokens == len(kept)
    assert found.median_norm == pytest.approx(np.median(np.linalg.norm(kept, axis=1)), rel=1e-6)
    assert found.mean_D == pytest.approx(kept.mean(0), abs=1e-5)
    square = (kept**2).sum(1).mean()
    assert found.scale == pytest.approx(np.sqrt(32 / square), rel=1e-6)
    assert found.variance == pytest.approx(32 / square * kept.var(0).sum(), rel=1e-6)
    assert found.dropped["special"] + found.dropped["padding"] == int((~mask).sum())


def test_statistics_prefer_calibration_text(setup: Setup) -> None:
    rows = setup.tokens.rows("calibration")
    kept = int((setup.tokens.mask[rows.start : rows.stop] == 0).sum())
    settings = StatisticsSettings(min_tokens=kept - 40, forward_batch=1)
    few = reference_statistics(setup.capture, setup.tokens, settings)
    assert kept - 40 <= few.n_tokens <= kept


def test_statistics_of_rows_that_do_not_fit_are_measured_fewer_at_a_time(setup: Setup) -> None:
    class Small(OneHook):
        most = 3

        def read(self, table: RowTable, rows: np.ndarray, take: Take) -> None:
            if len(rows) > self.most:
                raise OutOfMemory("too much")
            super().read(table, rows, take)

    reader = Small(setup.capture)
    settings = StatisticsSettings(forward_batch=16)
    found = measure_hooks(reader, setup.tokens, reader.points, settings)[reader.points[0]]
    assert found.n_tokens == setup.statistics.n_tokens
    assert found.variance == pytest.approx(setup.statistics.variance, rel=1e-6)
    Small.most = 0
    with pytest.raises(OutOfMemory):
        measure_hooks(reader, setup.tokens, reader.points, settings)


def test_statistics_survive_json(setup: Setup) -> None:
    again = StreamStatistics.from_dict(json.loads(json.dumps(setup.statistics.to_dict())))
    assert np.array_equal(again.mean_D, setup.statistics.mean_D)
    assert again.to_dict() == setup.statistics.to_dict()


@pytest.mark.parametrize("cut", [1.0, 1.1, 3.0])
def test_norm_cut_is_applied_to_every_statistic(setup: Setup, cut: float) -> None:
    settings = StatisticsSettings(norm_cut=cut, forward_batch=3)
    found = reference_statistics(setup.capture, setup.tokens, settings)
    rows = range(setup.tokens.rows("train").start, setup.tokens.rows("calibration").stop)
    x, mask = direct(setup, rows)
    kept = x[mask]
    norms = np.linalg.norm(kept, axis=1)
    kept = kept[norms <= cut * np.median(norms)]
    assert abs(found.n_tokens - len(kept)) <= 1  # a token may sit on the limit
    assert found.mean_D == pytest.approx(kept.mean(0), abs=1e-3)
    assert found.dropped["norm"] == len(norms) - found.n_tokens


def test_statistics_report_and_stop(setup: Setup) -> None:
    report, control = RecordingReporter(), JobControl()
    reference_statistics(setup.capture, setup.tokens, StatisticsSettings(), report, control)
    assert report.events[-1].values["phase"] == "Measuring activations"
    control.cancel()
    with pytest.raises(Cancelled):
        reference_statistics(setup.capture, setup.tokens, StatisticsSettings(), report, control)


def test_mask_gives_each_token_one_reason() -> None:
    x_BSD = torch.ones(1, 6, 4)
    x_BSD[0, 2, 1] = torch.inf
    x_BSD[0, 3] = 100.0
    x_BSD[0, 4, 0] = torch.nan
    x_BSD[0, 0] = torch.nan  # special comes first
    mask = np.array([[1, 0, 0, 0, 2, 0]], dtype=np.uint8)
    kept = keep_mask(x_BSD, mask, norm_limit=20.0)
    assert kept.keep_BS.tolist() == [[False, True, False, False, False, True]]
    assert kept.dropped == {"padding": 1, "special": 1, "non_finite": 1, "norm": 1}
    kept = keep_mask(x_BSD, mask, norm_limit=None, mask_special=False)
    assert kept.dropped == {"padding": 1, "special": 0, "non_finite": 2, "norm": 0}
    assert int(kept.keep_BS.sum()) == 3


def test_rows_come_in_the_order_asked_for(setup: Setup) -> None:
    batches = list(iterate_rows(setup.capture, setup.tokens, [5, 2, 9], 2, norm_limit=None))
    assert [b.rows.tolist() for b in batches] == [[5, 2], [9]]
    x, mask = direct(setup, range(9, 10))
    assert batches[1].x_BSD.double().numpy() == pytest.approx(x, abs=1e-4)
    assert np.array_equal(batches[1].keep_BS.numpy(), mask)
    assert default_forward_batch(128) == 16


def test_batches_are_the_models_activations(setup: Setup, tmp_path: Path) -> None:
    with stream(setup, tmp_path) as source:
        for _ in range(3):
            x_BD = next(source)
            row_B, position_B = source.last_positions.T
            x, mask = direct(setup, setup.tokens.rows("all"))
            assert x_BD.dtype == torch.float32
            assert x_BD.numpy() == pytest.approx(x[row_B, position_B], rel=2e-3, abs=2e-2)
            assert mask[row_B, position_B].all()
            assert np.array_equal(source.last_docs, setup.tokens.docs[row_B, position_B])
            assert set(row_B) <= set(setup.tokens.rows("train"))


@pytest.mark.parametrize("window", [4000, 1_000_000])
def test_an_epoch_visits_every_token_once(setup: Setup, tmp_path: Path, window: int) -> None:
    with stream(setup, tmp_path, batch=64, window=window) as source:
        seen = []
        while source.epoch == 0:
            next(source)
            if source.epoch == 0:
                seen.append(source.last_positions)
        seen = np.concatenate(seen)
        rows = setup.tokens.rows("train")
        usable = int((setup.tokens.mask[rows.start : rows.stop] == 0).sum())
        assert len(np.unique(seen, axis=0)) == len(seen)
        assert usable - len(seen) < 64 * source.windows_per_epoch
        assert source.windows_per_epoch == max(1, usable // window)


@pytest.mark.parametrize("window", [3000, 1_000_000])
def test_restored_stream_continues_to_the_byte(setup: Setup, tmp_path: Path, window: int) -> None:
    states, batches = [], []
    with stream(setup, tmp_path / "a", window=window) as source:
        for _ in range(150):
            states.append(json.loads(json.dumps(source.state())))
            batches.append(next(source).numpy().tobytes())
        counts, epochs = source.counts, source.epoch
    assert epochs >= 1
    for at in (0, 1, 13, 14, 75, 149):
        with stream(setup, tmp_path / "b", window=window) as source:
            source.restore(states[at])
            for expected in batches[at : at + 4]:
                assert next(source).numpy().tobytes() == expected
            if at == 149:
                assert (source.counts, source.epoch) == (counts, epochs)


def test_seed_and_epoch_change_the_order(setup: Setup, tmp_path: Path) -> None:
    with stream(setup, tmp_path / "a") as a, stream(setup, tmp_path / "b", seed=2) as b:
        assert not torch.equal(next(a), next(b))
    with stream(setup, tmp_path / "c", window=10**6) as source:
        first = next(source)
        while source.epoch == 0:
            again = next(source)
        assert not torch.equal(first, again)


def test_foreign_state_is_refused(setup: Setup, tmp_path: Path) -> None:
    with stream(setup, tmp_path / "a") as a, stream(setup, tmp_path / "b", batch=128) as b:
        with pytest.raises(Mismatch, match="batch was 256, is 128"):
            b.restore(a.state())
        with pytest.raises(Mismatch, match="seed was None"):
            b.restore({})


def test_batches_mix_documents(setup: Setup, tmp_path: Path) -> None:
    """Chi-square of documents in a window's batches against chance, and no serial correlation."""
    with stream(setup, tmp_path, window=10**6) as source:
        batches = []
        for _ in range(40):
            next(source)
            batches.append(source.last_docs)
    docs = np.unique(np.concatenate(batches))
    group_of = np.arange(len(docs)) // 40  # neighbours together: expected counts above 5
    table = np.zeros((len(batches), group_of[-1] + 1))
    for i, batch in enumerate(batches):
        np.add.at(table[i], group_of[np.searchsorted(docs, batch)], 1)
    expected = table.sum(0) / len(batches)
    assert expected.min() > 5
    statistic = float(((table - expected) ** 2 / expected).sum())
    freedom = (len(batches) - 1) * (len(expected) - 1)
    # Drawing without replacement mixes a little better than chance, so only excess is a fault.
    assert chi2.sf(statistic, freedom) > 0.001
    order = np.concatenate(batches).astype(float)
    correlation = np.corrcoef(order[:-1], order[1:])[0, 1]
    assert abs(correlation) < 4 / np.sqrt(len(order))
    assert len(set(batches[0])) > 80


def test_masked_tokens_are_counted_and_never_returned(setup: Setup, tmp_path: Path) -> None:
    module = setup.capture.module

    def spoil(_m: object, _i: object, output: torch.Tensor) -> torch.Tensor:
        if output.shape[1] < 5:  # the probe
            return output
        spoiled = output.clone()
        spoiled[:, 3, 0] = torch.nan
        spoiled[:, 4] *= 1000
        return spoiled

    handle = module.register_forward_hook(spoil)
    try:
        with stream(setup, tmp_path, window=10**6) as source:
            batches = [next(source) for _ in range(20)]
            positions = source.last_positions
            counts = source.counts
    finally:
        handle.remove()
    assert all(bool(x_BD.isfinite().all()) for x_BD in batches)
    assert not np.isin(positions[:, 1], (3, 4)).any()
    mask = setup.tokens.mask[: setup.tokens.rows("train").stop]
    assert counts["non_finite"] == int((mask[:, 3] == 0).sum())
    assert counts["norm"] == int((mask[:, 4] == 0).sum())
    assert counts["special"] == int((mask == 1).sum())


def test_large_activations_fit_into_half_precision(setup: Setup, tmp_path: Path) -> None:
    module = setup.capture.module
    handle = module.register_forward_hook(lambda _m, _i, output: output * 1e5)
    try:
        statistics = reference_statistics(setup.capture, setup.tokens, StatisticsSettings())
        large = Setup(setup.capture, setup.tokens, statistics)
        with stream(large, tmp_path) as source:
            x_BD = next(source)
    finally:
        handle.remove()
    with stream(setup, tmp_path) as source:
        assert torch.allclose(x_BD, next(source) * 1e5, rtol=2e-3, atol=1e3)


def test_interrupted_filling_can_be_repeated(setup: Setup, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []

    def interrupt(done: int, total: int) -> None:
        calls.append((done, total))
        if len(calls) == 3:
            raise KeyboardInterrupt

    with stream(setup, tmp_path / "a", on_fill=interrupt, forward_batch=8) as source:
        before = source.state()
        with pytest.raises(KeyboardInterrupt):
            next(source)
        assert source.state() == before
        assert calls[:3] == [(0, calls[0][1]), (8, calls[0][1]), (16, calls[0][1])]
        with stream(setup, tmp_path / "b", forward_batch=8) as undisturbed:
            assert torch.equal(next(source), next(undisturbed))
            assert source.counts == undisturbed.counts


def test_too_little_text(setup: Setup, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="fewer than one batch of 1,000,000"):
        stream(setup, tmp_path, batch=1_000_000)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InvalidInput, match="Too few tokens are left after masking"):
        next(stream(setup, tmp_path, batch=4096, window=10**6, norm_cut=0.5))


def test_wrong_width_and_vocabulary(setup: Setup, tmp_path: Path) -> None:
    narrow = tiny_loaded(tmp_path / "narrow", hidden_size=16)
    with pytest.raises(Mismatch, match="statistics have width 32, the hook 16"):
        stream(setup._replace(capture=Capture(narrow, 0, "resid_post")), tmp_path)
    small = tiny_loaded(tmp_path / "small", vocab_size=300)
    with pytest.raises(InvalidInput, match="do not belong to this model"):
        reference_statistics(Capture(small, 0, "resid_post"), setup.tokens, StatisticsSettings())


def test_full_disk(setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(DiskFull, match="make room for the activations"):
        stream(setup, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_out_of_memory_is_a_sentence(setup: Setup) -> None:
    def explode(*_: object) -> None:
        raise torch.OutOfMemoryError

    handle = setup.capture.loaded.blocks.modules[0].register_forward_pre_hook(explode)
    try:
        with pytest.raises(OutOfMemory, match="2 rows of 5 tokens"):
            setup.capture(torch.ones(2, 5, dtype=torch.long))
    finally:
        handle.remove()


def test_window_file_goes_with_the_stream(setup: Setup, tmp_path: Path) -> None:
    with stream(setup, tmp_path) as source:
        next(source)
        assert [p.name for p in tmp_path.iterdir()] == ["window-L2.resid_post.bin"]
    assert list(tmp_path.iterdir()) == []


def test_processes_that_read_in_turns_hold_the_same_windows(setup: Setup, tmp_path: Path) -> None:
    """A window of 45 rows, 7 at a time, three readers: the last round is short for some."""
    rows_read = dict.fromkeys(range(3), 0)
    models = [tiny_loaded(tmp_path / f"model-{rank}") for rank in range(3)]  # each with its hooks

    def batches(collective: Collective) -> tuple[list[torch.Tensor], np.ndarray, dict[str, int]]:
        own = setup._replace(capture=Capture(models[collective.rank], 2, "resid_post"))
        place = tmp_path / str(collective.rank)
        with stream(own, place, collective=collective, forward_batch=7, window=1500) as one:
            inner = one.windows.reader.read

            def read(table: RowTable, rows: np.ndarray, take: Take) -> None:
                rows_read[collective.rank] += len(rows)
                inner(table, rows, take)

            one.windows.reader.read = read  # type: ignore[method-assign]
            found = [part for _, part in zip(range(8), one, strict=False)]
            assert all(isinstance(part, torch.Tensor) for part in found)
            return found, one.last_positions.copy(), one.counts  # type: ignore[return-value]

    many = in_threads(batches, 3)
    shares = list(rows_read.values())
    (alone,) = in_threads(batches, 1)
    assert max(shares) - min(shares) <= 14
    assert sum(shares) == rows_read[0] - shares[0]
    for found, places, counts in many:
        assert all(torch.equal(a, b) for a, b in zip(found, alone[0], strict=True))
        assert np.array_equal(places, alone[1])
        assert counts == alone[2]
