"""Co-activation over the whole SAE against dense NumPy, on planted and on random stores."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from mistudio.core.errors import Cancelled
from mistudio.ml.features.coactivation import MEASURES, coactivation, measures, strongest
from mistudio.ml.features.feature_store import FeatureStore
from tests.helpers.plain_store import write_plain_store
from tests.ml_features.conftest import Workbench

FEATURES, TOKENS = 512, 2_000


class Dense(NamedTuple):
    """A store and the activations [token, feature] it was made from; some tokens are masked."""

    store: FeatureStore
    acts_TF: np.ndarray
    kept_T: np.ndarray


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Dense:
    rng = np.random.default_rng(4)
    rate_F = 10 ** rng.uniform(-3, -0.3, FEATURES)
    acts_TF = rng.lognormal(0, 1, (TOKENS, FEATURES)) * (rng.random((TOKENS, FEATURES)) < rate_F)
    acts_TF[:, 1] = 0  # dead
    both = acts_TF[:, 3] > 0
    acts_TF[both, 2] = 1.5 * acts_TF[both, 3]  # a partner that is always there
    acts_TF[:, 7] = acts_TF[:, 6] = np.where(rng.random(TOKENS) < 0.02, 1.0, 0.0)  # equal ones
    kept_T = rng.random(TOKENS) < 0.9
    acts_TF[~kept_T] = 0
    acts_TF = acts_TF.astype(np.float16).astype(np.float64)
    folder = tmp_path_factory.mktemp("dense") / "fs"
    write_plain_store(folder, acts_TF, kept_T, exponent=3)
    return Dense(FeatureStore(folder), acts_TF / 8, kept_T)


def correlations(x_TF: np.ndarray, i: int) -> np.ndarray:
    """Pearson's correlation of column i with each, by its textbook form."""
    z_TF = x_TF - x_TF.mean(0)
    with np.errstate(invalid="ignore"):
        return z_TF[:, i] @ z_TF / len(x_TF) / (x_TF[:, i].std() * x_TF.std(0))


def brute_force(dense: Dense, i: int) -> dict[str, np.ndarray]:
    """Every measure of feature i with all, from the dense activations of the kept tokens."""
    x_TF = dense.acts_TF[dense.kept_T]
    assert np.isclose(correlations(x_TF, 0)[2], np.corrcoef(x_TF[:, 0], x_TF[:, 2])[0, 1])
    on_TF = (x_TF > 0).astype(float)
    n_F, shared_F = on_TF.sum(0), on_TF[:, i] @ on_TF
    with np.errstate(all="ignore"):
        return {
            "pearson": correlations(x_TF, i),
            "pmi": np.where(
                shared_F >= 5,
                np.log((shared_F / len(x_TF)) / (n_F[i] / len(x_TF) * n_F / len(x_TF))),
                np.nan,
            ),
            "jaccard": shared_F / ((on_TF[:, [i]] + on_TF) > 0).sum(0),
            "cosine": x_TF[:, i]
            @ x_TF
            / (np.linalg.norm(x_TF[:, i]) * np.linalg.norm(x_TF, axis=0)),
            "phi": correlations(on_TF, i),
            "p_j_i": shared_F / n_F[i],
            "p_i_j": shared_F / n_F,
        }


@pytest.mark.parametrize("feature", [0, 2, 6, 100])
@pytest.mark.parametrize("block", [90, 1 << 19])
def test_every_measure_equals_dense_numpy(dense: Dense, feature: int, block: int) -> None:
    found = coactivation(dense.store, feature, block=block)
    x_TF = dense.acts_TF[dense.kept_T]
    assert found.shared_F.tolist() == ((x_TF[:, [feature]] > 0) & (x_TF > 0)).sum(0).tolist()
    np.testing.assert_allclose(found.products_F, x_TF[:, feature] @ x_TF, rtol=1e-12)
    values, expected = measures(dense.store, found), brute_force(dense, feature)
    assert tuple(values) == MEASURES
    for name in MEASURES:
        np.testing.assert_allclose(values[name], expected[name], rtol=1e-9, atol=1e-12)
        order = np.lexsort((np.arange(FEATURES), -expected[name].round(9)))
        shares = (found.shared_F > 0) & (np.arange(FEATURES) != feature)
        wanted = [j for j in order if shares[j] and not np.isnan(expected[name][j])][:20]
        got = strongest(found, values[name].round(9), 20)
        assert got == wanted


def test_equal_partners_go_by_index_and_the_feature_is_left_out(dense: Dense) -> None:
    found = coactivation(dense.store, 6)
    pearson_F = measures(dense.store, found)["pearson"]
    assert strongest(found, pearson_F, 1) == [7]
    assert pearson_F[7] == pytest.approx(1.0)
    tied = np.where(found.shared_F > 0, 0.5, np.nan)
    others = np.flatnonzero(found.shared_F)
    assert strongest(found, tied, 3) == others[others != 6][:3].tolist()


def test_a_feature_that_never_fires_has_no_partners(dense: Dense) -> None:
    found = coactivation(dense.store, 1)
    assert found.shared_F.sum() == 0
    for values_F in measures(dense.store, found).values():
        assert strongest(found, values_F, 20) == []


def test_a_long_count_can_be_stopped(dense: Dense) -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        coactivation(dense.store, 2, block=1, check=check)
    assert calls == 3


def test_over_a_harvest(workbench: Workbench, tmp_path: Path) -> None:
    workbench.harvest(tmp_path / "fs")
    store = FeatureStore(tmp_path / "fs")
    mask = np.load(store.folder / "mask.npy")
    acts_TF = np.zeros((mask.size, store.n_features))
    for feature in range(store.n_features):
        tokens, values = store.entries(feature)
        acts_TF[tokens, feature] = values
    whole = Dense(store, acts_TF, mask == 0)
    found = measures(store, coactivation(store, 3))
    for name, expected_F in brute_force(whole, 3).items():
        np.testing.assert_allclose(found[name], expected_F, rtol=1e-9, atol=1e-12)
