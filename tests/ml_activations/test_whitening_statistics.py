"""The covariance that a whitening needs: what is summed, when, and how it is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from mistudio.core.errors import Damaged, InvalidInput, NotFound
from mistudio.ml.activations import statistics
from mistudio.ml.activations.capture import Capture
from mistudio.ml.activations.statistics import (
    OneHook,
    StatisticsSettings,
    StreamStatistics,
    measure_hooks,
)
from mistudio.ml.activations.statistics_file import load_statistics, save_statistics
from mistudio.ml.data.token_store import TokenStore
from mistudio.ml.whitening import Whitener
from tests.helpers.tiny import STORIES, tiny_loaded, write_tokens


class Setup(NamedTuple):
    capture: Capture
    tokens: TokenStore


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    folder = tmp_path_factory.mktemp("whitening")
    loaded = tiny_loaded(folder / "model")
    tokens = write_tokens(folder / "data", STORIES * 4, loaded.tokenizer, 32)
    return Setup(Capture(loaded, 2, "resid_post"), tokens)


def measure(setup: Setup, whiten: bool = True, **options: float) -> StreamStatistics:
    reader = OneHook(setup.capture)
    settings = StatisticsSettings(**options)  # type: ignore[arg-type]
    whitened = reader.points if whiten else []
    return measure_hooks(reader, setup.tokens, reader.points, settings, whitened=whitened)[
        reader.points[0]
    ]


def kept_tokens(setup: Setup, limit: float) -> torch.Tensor:
    """Tokens below the norm limit, by transformers itself."""
    rows = range(setup.tokens.rows("train").start, setup.tokens.rows("calibration").stop)
    ids = torch.from_numpy(np.array(setup.tokens.ids[rows.start : rows.stop])).long()
    with torch.no_grad():
        hidden = setup.capture.loaded.model(ids, output_hidden_states=True).hidden_states[3]
    x = hidden[torch.from_numpy(np.array(setup.tokens.mask[rows.start : rows.stop]) == 0)]
    return x[torch.linalg.vector_norm(x.double(), dim=1) <= limit]


@pytest.mark.parametrize("cut", [10.0, 1.05])
def test_it_is_that_of_the_kept_tokens(setup: Setup, cut: float) -> None:
    found = measure(setup, norm_cut=cut, forward_batch=3)
    x = kept_tokens(setup, found.norm_limit)
    assert found.n_tokens == len(x)
    assert (found.dropped["norm"] > 0) == (cut == 1.05)
    whitening = found.whitening
    assert whitening is not None
    covariance = (whitening.basis_DC * whitening.variance_C) @ whitening.basis_DC.T
    expected = np.cov(x.T.double().numpy(), bias=True)
    np.testing.assert_allclose(covariance.numpy(), expected, atol=1e-6 * abs(expected).max())
    z = Whitener(whitening, torch.device("cpu"))(x).double().numpy()
    share = whitening.variance_C / (whitening.variance_C + 1e-3 * whitening.variance_C.mean())
    np.testing.assert_allclose(np.cov(z.T, bias=True), np.diag(share), atol=1e-4)


def test_without_it_nothing_is_summed_for_it(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure(setup)
    monkeypatch.delattr(statistics.Whitening, "of")
    plain = measure(setup, whiten=False)
    assert plain.whitening is None
    assert plain.to_dict() == whole.to_dict()  # and the other figures do not depend on it


def test_too_few_tokens_are_told(setup: Setup) -> None:
    one_row = {"min_tokens": 8, "forward_batch": 1}
    assert measure(setup, whiten=False, **one_row).n_tokens <= 32
    with pytest.raises(InvalidInput, match="more tokens than the hook is wide"):
        measure(setup, **one_row)


def test_files_give_back_every_bit(setup: Setup, tmp_path: Path) -> None:
    found, path = measure(setup), tmp_path / "statistics.json"
    save_statistics(path, found)
    again = load_statistics(path)
    assert again.to_dict() == found.to_dict()
    assert again.whitening is not None
    assert found.whitening is not None
    for name, tensor in found.whitening.tensors().items():
        assert torch.equal(again.whitening.tensors()[name], tensor), name
    assert len(path.read_text()) < 5000  # the matrix is beside it
    (tmp_path / "statistics.safetensors").write_bytes(b"torn")
    with pytest.raises(Damaged):
        load_statistics(path)
    (tmp_path / "statistics.safetensors").unlink()
    with pytest.raises(NotFound):
        load_statistics(path)
    path.write_text(json.dumps(found.to_dict()))  # as it was written before there was any
    assert load_statistics(path).to_dict() == found.to_dict()
    path.write_text("{")
    with pytest.raises(Damaged):
        load_statistics(path)


def test_directions_are_measured_only_where_tokens_are_enough(setup: Setup) -> None:
    reader = OneHook(setup.capture)

    def found(least: int, **asked: list[object]) -> StreamStatistics:
        settings = StatisticsSettings(min_tokens=least, forward_batch=1)
        made = measure_hooks(reader, setup.tokens, reader.points, settings, **asked)  # type: ignore[arg-type]
        return made[reader.points[0]]

    points: list[object] = list(reader.points)
    few, enough = setup.capture.d // 2, 4 * setup.capture.d
    assert found(few, directed=points).whitening is None
    with pytest.raises(InvalidInput, match="more tokens than the hook is wide"):
        found(few, whitened=points)
    directed, whitened = found(enough, directed=points), found(enough, whitened=points)
    assert directed.whitening is not None
    assert whitened.whitening is not None
    assert torch.equal(directed.whitening.basis_DC, whitened.whitening.basis_DC)
    assert found(enough).whitening is None
