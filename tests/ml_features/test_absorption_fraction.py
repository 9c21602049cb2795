"""The absorption fraction: against plain loops, its cases, and a planted absorber that is found."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mistudio.core.errors import InvalidInput, Mismatch, NotFound
from mistudio.ml.features.absorption_fraction import (
    LEAST_COSINE,
    LEAST_SHARE,
    NOBODY,
    absorption,
    carried,
    fraction,
)
from mistudio.ml.sae.base import SparseAutoencoder

WIDTH, LATENTS = 12, 30


def relu_sae(seed: int = 0) -> SparseAutoencoder:
    chance = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(LATENTS, WIDTH, generator=chance), dim=1)
    return SparseAutoencoder(
        rows.T.contiguous(),
        torch.full((LATENTS,), -0.2),
        rows,
        torch.randn(WIDTH, generator=chance) * 0.3,
        "standard",
    )


def by_loops(
    sae: SparseAutoencoder, x_D: np.ndarray, probe_D: np.ndarray, main: set[int]
) -> tuple[float, float, list[int], float, float]:
    unit_D = probe_D / np.linalg.norm(probe_D)
    rows_FD = sae.W_dec_FO.double().numpy()
    bias_D, encoder = sae.b_dec_O.double().numpy(), sae.W_enc_DF.double().numpy()
    f_F = np.maximum((x_D - bias_D) @ encoder + sae.b_enc_F.double().numpy(), 0)
    p = float((x_D - bias_D) @ unit_D)
    m = sum(float(f_F[i] * (rows_FD[i] @ unit_D)) for i in main)
    others = []
    for i in range(sae.n_latents):
        cosine = float(rows_FD[i] @ unit_D / np.linalg.norm(rows_FD[i]))
        if i not in main and cosine >= LEAST_COSINE and f_F[i] > 0:
            others.append((float(f_F[i] * (rows_FD[i] @ unit_D)), i))
    best = sorted(others, reverse=True)[:3]
    a = sum(value for value, _ in best)
    if p <= 0:
        told = math.nan
    elif a / p < LEAST_SHARE or m >= p:
        told = 0.0
    elif m <= 0:
        told = 1.0
    else:
        told = min(a, p - m) / (min(a, p - m) + m)
    return p, m, [i for _, i in best], a, told


def test_everything_is_what_plain_loops_find() -> None:
    sae, chance = relu_sae(), np.random.default_rng(1)
    x_ND = chance.normal(size=(300, WIDTH)).astype(np.float32).astype(np.float64)
    probe_D = chance.normal(size=WIDTH)
    found = carried(sae, torch.from_numpy(x_ND), probe_D, (3, 7))
    for n in range(len(x_ND)):
        p, m, who, a, told = by_loops(sae, x_ND[n], probe_D, {3, 7})
        assert found.projection_N[n] == pytest.approx(p, abs=1e-5)
        assert found.main_N[n] == pytest.approx(m, abs=1e-5)
        assert [k for k in found.absorber_NK[n] if k != NOBODY] == who
        assert found.absorbed_NK[n].sum() == pytest.approx(a, abs=1e-5)
        assert found.fraction_N[n] == pytest.approx(told, abs=1e-4, nan_ok=True)
    told_N = found.fraction_N
    kinds = (np.isnan(told_N), told_N == 0, (told_N > 0) & (told_N < 1), told_N == 1)
    assert all(kind.any() for kind in kinds)  # every case has been seen


def test_the_cases_of_the_fraction() -> None:
    p, m, a = (
        np.array(v) for v in ([2, 2, 2, 2, 2, -1.0], [1, 2, 0, -1, 1, 0.0], [1, 9, 1, 1, 0.7, 1])
    )
    assert fraction(p, m, a).tolist()[:5] == [0.5, 0.0, 1.0, 1.0, 0.0]
    assert math.isnan(fraction(p, m, a)[5])


def test_a_planted_absorber_is_found_on_prompts_the_probe_was_not_fitted_on() -> None:
    rows = torch.eye(8)
    rows[1] = torch.tensor([0.8, 0.6, 0, 0, 0, 0, 0, 0])  # holds the concept, dimension 0, too
    encoder = torch.eye(8)
    encoder[1, 0] = -9.0  # feature 0 is silent where feature 1's own sign, dimension 1, is there
    encoder[0, 1], encoder[1, 1] = 0.0, 1 / 0.6
    sae = SparseAutoencoder(encoder, torch.zeros(8), rows, torch.zeros(8), "standard")
    chance = np.random.default_rng(0)
    noise = np.abs(chance.normal(0, 0.01, (40, 8)))
    positive, negative = noise[:20], noise[20:]
    positive[:, 0] += 1.0
    positive[::4, :2] += (0.0, 0.75)  # a quarter of them: where feature 1 stands in
    found = absorption(sae, positive, negative, (0,))
    assert found.auroc == 1.0
    absorbed_N = np.arange(20) % 4 == 0
    assert (found.carried.fraction_N[absorbed_N] > 0.9).all()
    assert (found.carried.fraction_N[~absorbed_N] == 0).all()
    assert (found.carried.absorber_NK[absorbed_N, 0] == 1).all()


def test_what_cannot_be_measured_is_refused() -> None:
    sae, x = relu_sae(), np.random.default_rng(0).normal(size=(6, WIDTH))
    with pytest.raises(InvalidInput, match="at least 4 prompts"):
        absorption(sae, x[:3], x, (0,))
    with pytest.raises(NotFound, match="Feature 30 "):
        absorption(sae, x, x + 1, (30,))
    transcoder = SparseAutoencoder(
        sae.W_enc_DF, sae.b_enc_F, sae.W_dec_FO, sae.b_dec_O, "standard", encoder="transcoder"
    )
    with pytest.raises(Mismatch, match="transcoder"):
        absorption(transcoder, x, x + 1, (0,))
