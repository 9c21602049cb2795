"""Pooled metrics against brute force in float64."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from mistudio.ml.evaluation.bootstrap import RESAMPLES, Bootstrap, with_intervals
from mistudio.ml.evaluation.definitions import RECONSTRUCTION
from mistudio.ml.evaluation.firing import FiringSums
from mistudio.ml.evaluation.reconstruction import LEGACY_BATCH, ReconstructionSums
from mistudio.ml.sae.selection import SparseCodes, codes_from_dense

D, F, TOKENS, PER_DOCUMENT, PER_ROW = 12, 40, 5000, 50, 32


class Made(NamedTuple):
    y: torch.Tensor
    recon: torch.Tensor
    f: torch.Tensor


def made_up() -> Made:
    """Targets with an offset, reconstructions, dense codes; the first target is zero."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(TOKENS, D, generator=generator) + 3
    y[0] = 0
    recon = 0.9 * y + 0.3 * torch.randn(TOKENS, D, generator=generator) + 0.1
    f = torch.relu(torch.randn(TOKENS, F, generator=generator) - 1)
    f[:, 7] = 0
    f[:, 8] = 0
    f[40:44, 8] = 1.0
    return Made(y, recon, f)


def sums_of(made: Made, batch: int) -> ReconstructionSums:
    sums = ReconstructionSums(D, TOKENS // PER_DOCUMENT)
    for at in range(0, TOKENS, batch):
        part = slice(at, at + batch)
        group = np.arange(TOKENS)[part] // PER_DOCUMENT
        sums.add(made.y[part], made.recon[part], codes_from_dense(made.f[part]), group)
    return sums


def measured(made: Made, batch: int = TOKENS) -> dict[str, Any]:
    return with_intervals(RECONSTRUCTION, sums_of(made, batch).per_group())[0]


def fired(made: Made, batch: int) -> dict[str, Any]:
    firing = FiringSums(F)
    for at in range(0, TOKENS, batch):
        part = slice(at, at + batch)
        firing.add(codes_from_dense(made.f[part]), np.arange(TOKENS)[part] // PER_ROW)
    return firing.metrics()


def brute_force(made: Made) -> dict[str, float]:
    """The definitions, token by token, in NumPy."""
    y, recon, f = (tensor.numpy().astype(np.float64) for tensor in made)
    e = y - recon
    total = np.square(y - y.mean(0)).sum()
    some = np.linalg.norm(y, axis=1) > 0
    legacy = []
    for at in (0, LEGACY_BATCH):  # what is left is less than half a batch
        one = slice(at, at + LEGACY_BATCH)
        spread = np.square(y[one] - y[one].mean(0)).sum(1)
        legacy.append(1 - np.square(e[one]).sum(1) / spread)
    lengths = np.linalg.norm(recon, axis=1), np.linalg.norm(y, axis=1)
    return {
        "fvu": np.square(e).sum() / total,
        "ev": 1 - np.square(e).sum() / total,
        "ev_legacy": float(np.concatenate(legacy).mean()),
        "ev_zero": 1 - np.square(e).sum() / np.square(y).sum(),
        "fve_centred": 1 - e.var(0).sum() / y.var(0).sum(),
        "nmse": float(np.mean(np.square(e).sum(1)[some] / np.square(y).sum(1)[some])),
        "mse": float(np.mean([row @ row for row in e])),
        "l0": float(np.mean([np.count_nonzero(row) for row in f])),
        "l1": float(np.abs(f).sum() / TOKENS),
        "cossim": float(np.mean((y * recon).sum(1)[some] / (lengths[0] * lengths[1])[some])),
        "l2_ratio": float(np.mean(lengths[0][some] / lengths[1][some])),
        "relative_reconstruction_bias": np.square(recon).sum() / (y * recon).sum(),
    }


def test_every_figure_equals_its_definition() -> None:
    made = made_up()
    expected, found = brute_force(made), measured(made)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-9), name


def test_firing_figures_equal_their_definitions() -> None:
    made = made_up()
    found = fired(made, TOKENS)
    active = made.f.numpy() != 0
    density = active.mean(0)
    assert found["never_fired"] == 1
    assert found["dead"] == 1 / F
    assert found["dead_bound"] == 3 / TOKENS
    for name, share in (
        ("density_below_1e-6", (density < 1e-6).mean()),
        ("density_below_1e-5", (density < 1e-5).mean()),
        ("density_above_1e-2", (density > 1e-2).mean()),
        ("density_above_1e-1", (density > 1e-1).mean()),
    ):
        assert found[name] == pytest.approx(share), name
    edges = np.array(found["density_histogram_edges"])
    bins = np.histogram(np.log10(density[density > 0]), edges)[0]
    assert found["density_histogram"] == bins.tolist()
    assert sum(bins) == F - 1
    l0 = np.sort(active.sum(1))
    for percent in (5, 50, 95):
        assert found[f"l0_p{percent}"] == l0[TOKENS * percent // 100 - 1]
    prompts = [active[at : at + PER_ROW] for at in range(0, TOKENS, PER_ROW)]
    per_latent = [
        active[:, i].sum() / sum(rows[:, i].any() for rows in prompts)
        for i in range(F)
        if active[:, i].any()
    ]
    assert per_latent[7] == 4  # latent 8 fires four times in one row; latent 7 never
    assert found["consistent_activation_heuristic"] == pytest.approx(np.mean(per_latent))


@pytest.mark.parametrize("batch", [7, 130, 777])
def test_no_figure_depends_on_the_batches(batch: int) -> None:
    made = made_up()
    whole, cut = measured(made), measured(made, batch)
    for name, value in whole.items():
        assert cut[name] == pytest.approx(value, rel=1e-12), name
    assert fired(made, batch) == fired(made, TOKENS)


def test_a_constant_error_lowers_ev_but_not_the_centred_one() -> None:
    made = made_up()
    plain, shifted = (measured(made._replace(recon=made.recon + by)) for by in (0.0, 1.0))
    assert shifted["ev"] < plain["ev"] - 0.1
    assert shifted["fve_centred"] == pytest.approx(plain["fve_centred"], abs=1e-6)
    gap = shifted["fve_centred"] - shifted["ev"]
    bias = (made.y.double() - made.recon.double() - 1.0).mean(0).square().sum()
    total = made.y.double().var(0, unbiased=False).sum()
    assert gap == pytest.approx(float(bias / total), rel=1e-5)


def test_scale_changes_no_share() -> None:
    made = made_up()
    # a power of two is exact in float32
    large = made._replace(y=made.y * 1024, recon=made.recon * 1024)
    first, second = measured(made), measured(large)
    for name in ("ev", "ev_legacy", "ev_zero", "fve_centred", "nmse", "cossim", "l2_ratio"):
        assert second[name] == pytest.approx(first[name], rel=1e-12), name
    assert second["mse"] == pytest.approx(1024**2 * first["mse"], rel=1e-12)


def test_selected_zeros_are_not_counted() -> None:
    values, ids = torch.tensor([2.0, 0.0, 0.0, 1.0]), torch.tensor([0, 1, 2, 1])
    codes = SparseCodes(values, ids, torch.tensor([0, 2, 4]))
    y = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    sums, firing = ReconstructionSums(2, 1), FiringSums(3)
    sums.add(y, y, codes, np.zeros(2))
    firing.add(codes, np.zeros(2))
    found = with_intervals(RECONSTRUCTION, sums.per_group())[0]
    assert (found["l0"], found["l1"]) == (1, 1.5)
    assert firing.firings_F.tolist() == [1, 1, 0]
    assert firing.metrics()["never_fired"] == 1
    assert (firing.metrics()["l0_p5"], firing.metrics()["l0_p95"]) == (1, 1)


def test_intervals_are_those_of_documents_drawn_again() -> None:
    made = made_up()
    per_group = sums_of(made, 500).per_group()
    found, intervals = with_intervals(RECONSTRUCTION, per_group)
    assert intervals.keys() == found.keys()
    for name, bounds in intervals.items():
        assert bounds is not None
        assert bounds[0] < found[name] < bounds[1], name
    assert with_intervals(RECONSTRUCTION, per_group)[1] == intervals
    documents = TOKENS // PER_DOCUMENT
    weights = np.random.default_rng(0).multinomial(
        documents, np.full(documents, 1 / documents), size=RESAMPLES
    )
    y, recon = made.y.numpy().astype(np.float64), made.recon.numpy().astype(np.float64)
    drawn = []
    for times in weights[:200]:  # each document as often as it was drawn
        w = np.repeat(times, PER_DOCUMENT)[:, None]
        mean = (w * y).sum(0) / w.sum()
        drawn.append(1 - (w * np.square(y - recon)).sum() / (w * np.square(y - mean)).sum())
    bootstrap = Bootstrap(per_group["n"] > 0)
    ours = RECONSTRUCTION["ev"](bootstrap.draw(per_group))[:200]
    assert ours == pytest.approx(np.array(drawn), rel=1e-9)


def test_one_document_has_no_interval() -> None:
    sums = ReconstructionSums(D, 1)
    made = made_up()
    sums.add(made.y, made.recon, codes_from_dense(made.f), np.zeros(TOKENS))
    assert set(with_intervals(RECONSTRUCTION, sums.per_group())[1].values()) == {None}


def test_perfect_absent_and_undefined_reconstruction() -> None:
    made = made_up()
    assert measured(made._replace(recon=made.y))["ev"] == 1
    mean = made.y.double().mean(0).float().expand_as(made.y)
    nothing = measured(made._replace(recon=mean, f=made.f * 0), 50)
    assert nothing["ev"] == pytest.approx(0, abs=1e-6)
    assert nothing["l0"] == 0
    same = measured(made._replace(y=torch.full_like(made.y, 0.1)))
    assert (same["ev"], same["fve_centred"], same["ev_legacy"]) == (None, None, None)


def test_memory_does_not_grow_with_tokens() -> None:
    made = made_up()
    sums, firing = sums_of(made, 100), FiringSums(F)

    def held() -> int:
        waiting = sum(t.nbytes for parts in sums._legacy._waiting for t in parts)
        counts = sum(v.nbytes for v in vars(firing).values() if isinstance(v, torch.Tensor))
        return waiting + counts + sum(values.nbytes for values in sums.per_group().values())

    most = LEGACY_BATCH * (D + 2) * 8
    before = held()
    for _ in range(5):
        sums.add(made.y, made.recon, codes_from_dense(made.f), np.arange(TOKENS) // PER_DOCUMENT)
        firing.add(codes_from_dense(made.f), np.arange(TOKENS) // PER_ROW)
    assert held() <= before + most
