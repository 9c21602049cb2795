"""Pooled metrics against direct formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mistudio.ml.evaluation.reconstruction import Bootstrap, ReconstructionSums
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.selection import codes_from_dense


def made_up() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Targets with an offset, reconstructions, dense codes."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(200, 12, generator=generator) + 3
    recon = y + 0.3 * torch.randn(200, 12, generator=generator)
    f = torch.relu(torch.randn(200, 40, generator=generator) - 1)
    f[:, 7] = 0
    return y, recon, f


def sums_of(
    y: torch.Tensor, recon: torch.Tensor, f: torch.Tensor, batch: int
) -> ReconstructionSums:
    sums = ReconstructionSums(12, 40, 10)
    for at in range(0, len(y), batch):
        part = slice(at, at + batch)
        group = np.arange(len(y))[part] // 20
        sums.add(y[part], recon[part], codes_from_dense(f[part]), group)
    return sums


def test_metrics_equal_their_definitions() -> None:
    y, recon, f = made_up()
    found = sums_of(y, recon, f, 200).metrics()
    y, recon, f = y.double(), recon.double(), f.double()
    e = y - recon
    variation = (y - y.mean(0)).square().sum()
    expected = {
        "fvu": e.square().sum() / variation,
        "ev": 1 - e.square().sum() / variation,
        "ev_zero": 1 - e.square().sum() / y.square().sum(),
        "fve_centred": 1 - e.var(0).sum() / y.var(0).sum(),
        "ev_legacy": (1 - e.square().sum(1) / (y - y.mean(0)).square().sum(1)).mean(),
        "nmse": (e.square().sum(1) / y.square().sum(1)).mean(),
        "mse": e.square().sum(1).mean(),
        "l0": (f > 0).sum(1).double().mean(),
        "l1": f.sum(1).mean(),
        "cossim": torch.cosine_similarity(y, recon, dim=1).mean(),
        "l2_ratio": (recon.norm(dim=1) / y.norm(dim=1)).mean(),
        "relative_reconstruction_bias": recon.square().sum() / (y * recon).sum(),
        "density_above_1e-1": ((f > 0).double().mean(0) > 0.1).double().mean(),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), rel=1e-9), name
    assert found["n"] == 200
    assert found["never_fired"] == int(((f > 0).sum(0) == 0).sum()) >= 1
    assert sum(found["density_histogram"]) == 40 - found["never_fired"]
    l0 = np.sort((f > 0).sum(1).numpy())
    assert (found["l0_p5"], found["l0_p50"], found["l0_p95"]) == (l0[9], l0[99], l0[189])


def test_pooled_figures_do_not_depend_on_the_batches() -> None:
    y, recon, f = made_up()
    first, second = sums_of(y, recon, f, 200).metrics(), sums_of(y, recon, f, 13).metrics()
    for name, value in first.items():
        if name != "ev_legacy":
            assert second[name] == pytest.approx(value, rel=1e-12), name
    assert second["ev_legacy"] != pytest.approx(first["ev_legacy"], rel=1e-6)


def test_a_constant_error_lowers_ev_but_not_the_centred_one() -> None:
    y, recon, f = made_up()
    plain, shifted = (sums_of(y, recon + by, f, 50).metrics() for by in (0.0, 0.5))
    assert shifted["ev"] < plain["ev"] - 0.1
    assert shifted["fve_centred"] == pytest.approx(plain["fve_centred"], abs=1e-6)
    gap = shifted["fve_centred"] - shifted["ev"]
    bias = (y.double() - recon.double() - 0.5).mean(0).square().sum()
    total = y.double().var(0, unbiased=False).sum()
    assert gap == pytest.approx(float(bias / total), rel=1e-5)


def test_intervals_hold_the_figure_and_shrink_with_documents() -> None:
    y, recon, f = made_up()
    sums = sums_of(y, recon, f, 50)
    present = sums.count_G > 0
    intervals = sums.intervals(Bootstrap(int(present.sum())), present)
    for name in ("ev", "l0"):
        interval = intervals[name]
        assert interval is not None
        assert interval[0] < sums.metrics()[name] < interval[1]
    again = sums.intervals(Bootstrap(int(present.sum())), present)
    assert again == intervals


def test_perfect_and_absent_reconstruction() -> None:
    y, _, f = made_up()
    assert sums_of(y, y, f, 50).metrics()["ev"] == 1
    nothing = sums_of(y, y.mean(0).expand_as(y), f * 0, 50).metrics()
    assert nothing["ev"] == pytest.approx(0, abs=1e-6)
    assert (nothing["l0"], nothing["never_fired"]) == (0, 40)


def test_sae_dtype_does_not_matter_for_counts() -> None:
    W = torch.eye(12)
    sae = SparseAutoencoder(W, torch.zeros(12), W, torch.zeros(12), "topk", k=12)
    y = torch.rand(30, 12) + 0.1
    sums = ReconstructionSums(12, 12, 1)
    codes = sae.encode_sparse(y)
    sums.add(y, sae.decode_sparse(codes), codes, np.zeros(30, dtype=int))
    assert sums.metrics()["ev"] == pytest.approx(1)
    assert sums.metrics()["l0"] == 12
