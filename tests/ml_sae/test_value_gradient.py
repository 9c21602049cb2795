"""Products of gradients and decoder rows, token by token or latent by latent."""

from __future__ import annotations

import pytest
import torch

from mistudio.ml.sae import sparse_gradient
from mistudio.ml.sae.selection import codes_from_dense, kept_codes


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
    by_latent = sparse_gradient.sort_by_latent(codes, latents)
    found = []
    for wide in (0, 1000):
        monkeypatch.setattr(sparse_gradient, "WIDE", wide)
        found.append(sparse_gradient.value_gradient(codes, by_latent, grad_BO, W_dec_FO))
    assert torch.equal(found[0], found[1])
    expected = (grad_BO @ W_dec_FO.T)[codes.rows, codes.ids]
    torch.testing.assert_close(found[0], expected)
    assert len(expected) > 5


@pytest.mark.parametrize("threshold", [-1.0, 1.0, 9.0])
def test_some_entries_are_sorted_as_they_would_be_alone(threshold: float) -> None:
    generator = torch.Generator().manual_seed(0)
    f_BF = torch.relu(torch.randn(30, 12, generator=generator))
    codes = codes_from_dense(f_BF)
    part, _ = kept_codes(codes, codes.values, codes.values > threshold)
    found = sparse_gradient.sort_by_latent(codes, 12).only(codes.values > threshold)
    alone = sparse_gradient.sort_by_latent(part, 12)
    assert all(torch.equal(one, other) for one, other in zip(found, alone, strict=True))
    every = sparse_gradient.sort_by_latent(codes, 12)
    counts_F, last_row_F = every.counted(codes.values > threshold)
    assert torch.equal(counts_F, alone.counts)
    assert torch.equal(last_row_F[counts_F > 0], alone.last_rows[counts_F > 0])


@pytest.mark.parametrize("part_rows", [1, 5, 8, 100])
def test_a_large_table_is_added_up_in_parts(
    part_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    f_BF = torch.relu(torch.randn(9, 23, generator=generator, dtype=torch.float64))
    f_BF[3] = 0.0
    f_BF[:, 10:16] = 0.0  # a part without any entry
    table_FO = torch.randn(23, 6, generator=generator, dtype=torch.float64)
    codes = codes_from_dense(f_BF)
    other = torch.randn(codes.values.shape, generator=generator, dtype=torch.float64)
    monkeypatch.setattr(sparse_gradient, "CACHED_BYTES", 0)
    monkeypatch.setattr(sparse_gradient, "LEAST_ENTRIES", 0)
    monkeypatch.setattr(sparse_gradient, "PART_BYTES", part_rows * 6 * 8)
    plain = []
    monkeypatch.setattr(
        sparse_gradient,
        "weighted_rows",
        lambda *given, real=sparse_gradient.weighted_rows: plain.append(given) or real(*given),
    )
    found = sparse_gradient.weighted_rows_of(table_FO, codes, [codes.values, other])
    assert len(plain) == 2 * -(-23 // part_rows)
    dense_BF = torch.zeros_like(f_BF)
    dense_BF[codes.rows, codes.ids] = other
    torch.testing.assert_close(found[0], f_BF @ table_FO)
    torch.testing.assert_close(found[1], dense_BF @ table_FO)
    monkeypatch.setattr(sparse_gradient, "MOST_PARTS", 0)
    again = sparse_gradient.weighted_rows_of(table_FO, codes, [codes.values])
    torch.testing.assert_close(again[0], f_BF @ table_FO)
