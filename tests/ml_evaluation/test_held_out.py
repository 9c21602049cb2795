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
        yield HeldBatch(x_TD[at], y_TO[at], np.arange(TOKENS)[at] // 10)


def by_numpy(sae: SparseAutoencoder) -> dict[str, Any]:
    """The figures of the formulas, dense and in float64."""
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
    fvu = np.square(y - made).sum() / np.square(y - y.mean(0)).sum()
    silent = float((~(f != 0).any(0)).mean())
    return {"ev": 1 - fvu, "l0": (f != 0).sum(1).mean(), "dead": silent, "n": TOKENS}


@pytest.mark.parametrize("encoder", ["sae", "transcoder", "skip_transcoder"])
@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "standard"])
def test_they_are_those_of_the_formulas(architecture: str, encoder: str) -> None:
    sae = sae_of(architecture, encoder)
    found = measure_held(sae, batches(sae, 64), lambda: None)
    assert found == pytest.approx(by_numpy(sae), rel=1e-5)
    # pooled: where the tokens are cut says nothing
    again = measure_held(sae, batches(sae, TOKENS), lambda: None)
    assert again == pytest.approx(found, rel=1e-6)


def test_what_is_not_defined_is_none_and_nothing_held_out_gives_nothing() -> None:
    sae = sae_of("topk")
    same = HeldBatch(torch.ones(20, D), torch.ones(20, D), np.zeros(20, dtype=np.int64))
    found = measure_held(sae, [same], lambda: None)
    assert found is not None
    assert (found["ev"], found["n"]) == (None, 20)
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
