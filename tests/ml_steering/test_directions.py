"""Directions against brute-force NumPy, signs, held-out separation, which tokens are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mistudio.core.errors import InvalidInput
from mistudio.ml.loading import LoadedModel
from mistudio.ml.steering import read_prompts as reading
from mistudio.ml.steering.directions import direction, separation
from mistudio.ml.steering.read_prompts import read_prompts
from tests.helpers.tiny import tiny_loaded

D = 6


def groups(count: int = 20, shift: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    common = random.normal(size=(count, D)) * [3, 1, 1, 1, 1, 1]
    gap = np.zeros(D)
    gap[2] = shift
    spread = random.normal(size=(count, 1)) * np.array([0, 0, 0, 0, 2.0, 0])
    noise = random.normal(size=(count, D)) * 0.1
    return common + gap + spread + noise, common - gap - spread


def eigenvector(points: np.ndarray, *, centre: bool) -> tuple[np.ndarray, float]:
    """The largest eigenvector of a covariance written out as sums."""
    mean = points.mean(0) if centre else np.zeros(points.shape[1])
    covariance = np.zeros((points.shape[1],) * 2)
    for point in points:
        covariance += np.outer(point - mean, point - mean)
    values, vectors = np.linalg.eigh(covariance)
    return vectors[:, -1], values[-1] / values.sum()


def test_the_mean_is_the_difference_of_means() -> None:
    p, n = groups()
    found = direction(p, n[:13], "mean")
    expected = sum(p) / 20 - sum(n[:13]) / 13
    np.testing.assert_allclose(found.v_D, expected, rtol=1e-12)
    assert found.explained is None
    assert found.votes is None
    assert direction(p, n, "mean").votes == np.mean(
        [(a - b) @ (p - n).mean(0) > 0 for a, b in zip(p, n, strict=True)]
    )


def test_pca_equals_the_covariance_written_out() -> None:
    p, n = groups(shift=1.5)
    expected, share = eigenvector(p - n, centre=True)
    found = direction(p, n, "pca")
    assert abs(found.v_D @ expected) == pytest.approx(1, abs=1e-12)
    assert found.explained == pytest.approx(share, rel=1e-10)
    middle = (p + n) / 2
    points = np.concatenate([p - middle, n - middle])
    expected, share = eigenvector(points, centre=True)
    centred = direction(p, n, "pca-centred")
    assert abs(centred.v_D @ expected) == pytest.approx(1, abs=1e-12)
    assert centred.explained == pytest.approx(share, rel=1e-10)
    # the mean of the differences counts in one and not in the other
    assert abs(centred.v_D @ found.v_D) < 0.999
    assert abs(centred.v_D[2]) > abs(found.v_D[2])


@pytest.mark.parametrize("method", ["pca", "pca-centred"])
def test_most_pairs_project_higher_on_the_positive_side(method: str) -> None:
    p, n = groups(shift=2.0)
    there, back = direction(p, n, method), direction(n, p, method)
    np.testing.assert_allclose(there.v_D, -back.v_D, atol=1e-12)
    assert there.votes is not None
    assert there.votes >= 0.5
    assert np.mean((p - n) @ there.v_D > 0) >= 0.5


def test_lists_without_a_direction_are_refused() -> None:
    p, n = groups()
    with pytest.raises(InvalidInput, match="no direction"):
        direction(p, p, "mean")
    with pytest.raises(InvalidInput, match="20 positive and 19 negative"):
        direction(p, n[1:], "pca")
    with pytest.raises(InvalidInput, match="no direction"):
        direction(n + 1.0, n, "pca")  # all differences alike: nothing varies
    assert direction(n + 1.0, n, "pca-centred").explained == pytest.approx(1)


def test_separation_is_measured_on_prompts_that_were_not_fitted() -> None:
    random = np.random.default_rng(0)
    wide = 200  # more dimensions than prompts: the fitted ones always separate
    p, n = random.normal(size=(24, wide)), random.normal(size=(24, wide))
    found = separation(p, n, "mean", direction(p, n, "mean").v_D)
    assert found.own == 1.0
    assert found.held_out is not None
    assert 0.2 < found.held_out < 0.8
    assert found.n_held_out == (6, 6)
    kept = np.arange(24) % 4 != 3
    v = p[kept].mean(0) - n[kept].mean(0)
    pairs = [(a @ v > b @ v) for a in p[~kept] for b in n[~kept]]
    assert found.held_out == pytest.approx(np.mean(pairs))
    assert separation(p[:11], n, "mean", v).held_out is None
    same = (np.arange(24) // 2, np.arange(24))  # each held-out positive was fitted on too
    assert separation(p, n, "mean", v, same).held_out is None


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder: Path = tmp_path_factory.mktemp("model")
    return tiny_loaded(folder, add_bos=True)


PROMPTS = ["The fox", "Every morning it went out to find berries, and", "winter"]


def stream(model: LoadedModel, prompt: str, layer: int) -> tuple[torch.Tensor, list[int]]:
    ids = model.tokenizer(prompt)["input_ids"]
    caught = []
    handle = model.blocks.modules[layer].register_forward_hook(
        lambda _m, _i, out: caught.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        model.model(input_ids=torch.tensor([ids]))
    handle.remove()
    return caught[0][0].double(), ids


def test_last_and_mean_without_special_tokens(model: LoadedModel) -> None:
    last = read_prompts(model, 1, "resid_post", PROMPTS, "last")
    mean = read_prompts(model, 1, "resid_post", PROMPTS, "mean")
    kept = 0
    norms = [stream(model, prompt, 1)[0][1:].norm(dim=1) for prompt in PROMPTS]
    median = float(torch.cat(norms).median())
    assert last.median_norm == pytest.approx(median, rel=1e-5)
    for index, prompt in enumerate(PROMPTS):
        x, ids = stream(model, prompt, 1)
        assert ids[0] == model.tokenizer.bos_token_id
        np.testing.assert_allclose(last.x_ND[index], x[-1].numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(mean.x_ND[index], x[1:].mean(0).numpy(), rtol=1e-4, atol=1e-5)
        kept += len(ids) - 1
    assert mean.tokens == kept


def test_a_token_of_extreme_norm_does_not_count(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms = stream(model, PROMPTS[1], 1)[0][1:].norm(dim=1)
    cut = float(norms.sort().values[-2] / norms.median()) * 1.0001
    monkeypatch.setattr(reading, "NORM_CUT", cut)
    found = read_prompts(model, 1, "resid_post", [PROMPTS[1]], "mean")
    x = stream(model, PROMPTS[1], 1)[0][1:]
    expected = x[norms <= cut * norms.median()].mean(0)
    assert found.tokens == len(norms) - 1
    np.testing.assert_allclose(found.x_ND[0], expected.numpy(), rtol=1e-4, atol=1e-5)


def test_prompts_that_cannot_be_read_are_refused(model: LoadedModel) -> None:
    with pytest.raises(InvalidInput, match="only special tokens"):
        read_prompts(model, 1, "resid_post", [""])
    with pytest.raises(InvalidInput, match="at most 512"):
        read_prompts(model, 1, "resid_post", ["berries " * 600])


def test_batches_hold_every_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BATCH_TOKENS", 10)
    assert reading._batches([1, 2, 3, 3, 30]) == [(0, 3), (3, 4), (4, 5)]
