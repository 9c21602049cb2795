"""Products of gradients and decoder rows, token by token or latent by latent."""

from __future__ import annotations

import pytest
import torch

from mistudio.ml.sae import sparse_gradient
from mistudio.ml.sae.selection import codes_from_dense


@pytest.mark.parametrize("shape", [(7, 90), (90, 7), (1, 50)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_either_order_gives_the_same_bits(
    shape: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, latents = shape
    generator = torch.Generator().manual_seed(0)
    f_BF = torch.relu(torch.randn(tokens, latents, generator=generator, dtype=dtype) - 0.7)
    grad_BO = torch.randn(tokens, 24, generator=generator, dtype=dtype)
    W_dec_FO = torch.randn(latents, 24, generator=generator, dtype=dtype)
    codes = codes_from_dense(f_BF)
    found = []
    for wide in (0, 1000):
        monkeypatch.setattr(sparse_gradient, "WIDE", wide)
        found.append(sparse_gradient.value_gradient(codes, grad_BO, W_dec_FO))
    assert torch.equal(found[0], found[1])
    expected = (grad_BO @ W_dec_FO.T)[codes.rows, codes.ids]
    torch.testing.assert_close(found[0], expected)
    assert len(expected) > 5
