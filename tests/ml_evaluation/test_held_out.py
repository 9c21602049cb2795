"""The figures that are followed while an SAE is trained, against NumPy's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mistudio.core.errors import Cancelled
from mistudio.ml.evaluation.held_out import HeldBatch, measure_held
from mistudio.ml.sae.base import SparseAutoencoder

D, OUT, LATENTS, TOKENS = 12, 7, 40, 500


def sae_of(architecture: str, encoder: str = "sae") -> SparseAutoencoder:
    draw = torch.Generator().manual_seed(4)
    out = D if encoder == "sae" else OUT
    return SparseAutoencoder(
        W_enc_DF=torch.randn(D, LATENTS, generator=draw),
        b_enc_F=torch.randn(LATENTS, generator=draw) - 2.0,
        W_dec_FO=0.1 * torch.randn(LATENTS, out, generator=draw),
        b_dec_O=torch.randn(out, generator=draw),
        architecture=architecture,
        k=3 if architecture == "topk" else None,
        threshold_F=torch.linspace(0.0, 9.0, LATENTS) if architecture == "jumprelu" else None,
        apply_b_dec_to_input=encoder == "sae",
        W_skip_OD=torch.randn(out, D, generator=draw) if encoder == "skip_transcoder" else None,
        encoder=encoder,
    )


def tokens_of(sae: SparseAutoencoder) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(5)
    x_TD = torch.randn(TOKENS, D, generator=draw) + 0.5
    return x_TD, x_TD if sae.encoder == "sae" else torch.randn(TOKENS, OUT, generator=draw)


def batches(sae: SparseAutoencoder, size: int) -> Iterator[HeldBatch]:
    x_TD, y_TO = tokens_of(sae)
    for low in range(0, TOKENS, size):
        at = slice(low, low + size)
        yield HeldBatch(x_TD[at], y_TO[at], np.arange(TOKENS)[at] // 10, docs_of(TOKENS)[at])


def docs_of(tokens: int) -> np.ndarray:
    """Documents of 1, 2, 3, … tokens."""
    return np.repeat(np.arange(tokens), np.arange(1, tokens + 1))[:tokens]


def by_numpy(sae: SparseAutoencoder) -> dict[str, Any]:
    """The figures of the formulas, dense and in float64."""
    y, made, f = dense(sae)
    fvu = np.square(y - made).sum() / np.square(y - y.mean(0)).sum()
    silent = float((~(f != 0).any(0)).mean())
    found = {"ev": 1 - fvu, "l0": (f != 0).sum(1).mean(), "dead": silent, "n": TOKENS}
    return {**found, "documents": len(set(docs_of(TOKENS))), "dead_bound": 3 / TOKENS}


def dense(sae: SparseAutoencoder) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets, what is made of them, and latents of all tokens, in float64."""
    x, y = (t.double().numpy() for t in tokens_of(sae))
    W_enc, b_enc = sae.W_enc_DF.double().numpy(), sae.b_enc_F.double().numpy()
    W_dec, b_dec = sae.W_dec_FO.double().numpy(), sae.b_dec_O.double().numpy()
    h = (x - b_dec if sae.apply_b_dec_to_input else x) @ W_enc + b_enc
    f = np.maximum(h, 0)
    if sae.threshold_F is not None:
        f = np.where(h > sae.threshold_F.double().numpy(), f, 0)
    if sae.k is not None:
        kth = np.sort(f, axis=1)[:, -sae.k][:, None]
        f = np.where(f >= kth, f, 0)
    made = f @ W_dec + b_dec
    if sae.W_skip_OD is not None:
        made = made + x @ sae.W_skip_OD.double().numpy().T
    return y, made, f


def drawn_again(sae: SparseAutoencoder, counts_RG: np.ndarray) -> dict[str, list[float]]:
    """The 95 % intervals of ev and l0 when document g is there counts[r, g] times, token by
    token."""
    y, made, f = dense(sae)
    found = []
    for count_G in counts_RG:
        tokens = np.repeat(np.arange(TOKENS), count_G[docs_of(TOKENS)])
        target = y[tokens]
        lost = np.square(target - made[tokens]).sum() / np.square(target - target.mean(0)).sum()
        found.append((1 - lost, (f[tokens] != 0).sum(1).mean()))
    low, high = np.percentile(np.array(found), [2.5, 97.5], axis=0)
    return {"ev": [low[0], high[0]], "l0": [low[1], high[1]]}


@pytest.mark.parametrize("encoder", ["sae", "transcoder", "skip_transcoder"])
@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "standard"])
def test_they_are_those_of_the_formulas(architecture: str, encoder: str) -> None:
    sae = sae_of(architecture, encoder)
    found = measure_held(sae, batches(sae, 64), lambda: None)
    assert found is not None
    wanted = by_numpy(sae)
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-5)
    # pooled: where the tokens are cut says nothing
    again = measure_held(sae, batches(sae, TOKENS), lambda: None)
    assert again is not None
    assert [again[name] for name in wanted] == pytest.approx([found[n] for n in wanted], rel=1e-6)
    assert again["intervals"]["ev"] == pytest.approx(found["intervals"]["ev"], rel=1e-6)


@pytest.mark.parametrize("encoder", ["sae", "skip_transcoder"])
def test_intervals_are_those_of_documents_drawn_again(encoder: str) -> None:
    sae = sae_of("topk", encoder)
    # a latent less on some documents, so that L0 is not always k
    sae = replace(sae, b_enc_F=sae.b_enc_F - 4.0)
    found = measure_held(sae, batches(sae, 64), lambda: None)
    assert found is not None
    groups = len(set(docs_of(TOKENS)))
    share = np.full(groups, 1 / groups)
    wanted = drawn_again(sae, np.random.default_rng(0).multinomial(groups, share, size=1000))
    for name in ("ev", "l0"):
        low, high = wanted[name]
        assert found["intervals"][name] == pytest.approx([low, high], rel=1e-5)
        assert low < found[name] < high
    # of other draws too, up to what the draws themselves vary
    other = drawn_again(sae, np.random.default_rng(7).multinomial(groups, share, size=1000))
    for name, (low, high) in wanted.items():
        assert other[name] == pytest.approx([low, high], abs=0.15 * (high - low))


def test_beyond_a_thousand_documents_they_are_drawn_in_groups() -> None:
    sae = sae_of("topk")
    x_TD, _ = tokens_of(sae)
    x_TD = x_TD.repeat(5, 1)
    single = np.arange(5 * TOKENS)
    found = measure_held(sae, [HeldBatch(x_TD, x_TD, single, single)], lambda: None)
    whole = measure_held(sae, [HeldBatch(x_TD, x_TD, single, single % 1000)], lambda: None)
    assert found is not None
    assert whole is not None
    assert (found["documents"], whole["documents"]) == (5 * TOKENS, 1000)
    assert found["intervals"] == whole["intervals"]


def test_how_often_latents_fire() -> None:
    tokens, times = 200_001, (0, 1, 300, 4_000, 100_000)
    x_TD = torch.zeros(tokens, 5)
    for latent, count in enumerate(times):
        x_TD[:count, latent] = 1.0
    eye, none = torch.eye(5), torch.zeros(5)
    sae = SparseAutoencoder(eye, none, eye, none, "standard")
    none_T = np.zeros(tokens, dtype=np.int64)
    found = measure_held(sae, [HeldBatch(x_TD, x_TD, none_T, none_T)], lambda: None)
    assert found is not None
    shares = [f"density_{name}" for name in ("below_1e-6", "below_1e-5", "above_1e-2")]
    assert [found[name] for name in (*shares, "density_above_1e-1")] == [0.2, 0.4, 0.4, 0.2]
    assert (found["dead"], found["dead_bound"]) == (0.2, 3 / tokens)
    counts = found["density_histogram"]
    # quarters of a decade from 1e-7: log10 of the rates is −5.30, −2.82, −1.70, −0.30
    assert [place for place, count in enumerate(counts) if count] == [6, 16, 21, 26]
    assert sum(counts) == 4


def test_what_is_not_defined_is_none_and_nothing_held_out_gives_nothing() -> None:
    sae = sae_of("topk")
    same = HeldBatch(
        torch.ones(20, D),
        torch.ones(20, D),
        np.zeros(20, dtype=np.int64),
        np.zeros(20, dtype=np.int64),
    )
    found = measure_held(sae, [same], lambda: None)
    assert found is not None
    assert (found["ev"], found["n"]) == (None, 20)
    assert found["intervals"] == {"ev": None, "l0": None}, "of one document there is none"
    assert measure_held(sae, [], lambda: None) is None


def test_a_latent_that_never_fires_is_silent_and_a_check_ends_it() -> None:
    sae = sae_of("standard")
    b_enc_F = torch.full((LATENTS,), -1e6)
    b_enc_F[:10] = 1e6
    found = measure_held(replace(sae, b_enc_F=b_enc_F), batches(sae, 100), lambda: None)
    assert found is not None
    assert (found["l0"], found["dead"]) == (10.0, 0.75)

    seen: list[int] = []

    def check() -> None:
        seen.append(1)
        if len(seen) == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        measure_held(sae, batches(sae, 100), check)
    assert len(seen) == 3
