"""Sums and products over the active latents only: no matrix of tokens by latents is ever formed.

Weight gradients are segment sums over the entries sorted by
latent (embedding_bag over tokens), which needs no scatter and adds in a fixed order.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn import functional

from mistudio.ml.sae.selection import SparseCodes, picked, splits_of

CACHED_BYTES = 32 << 20  # of a table, that a CPU's cache is taken to hold (measured)
PART_BYTES = 9 << 20  # of a larger one, whose rows are added up at a time
LEAST_ENTRIES = 8  # of a token and a part: fewer cost less than a further sum of tokens
MOST_PARTS = 255  # a byte
WIDE = 4  # decoder rows a token, above which products are formed latent by latent (measured)
SLICE_BYTES = 8 << 20  # of a weight gradient formed at a time: stays in cache and off fresh pages


class ByLatent(NamedTuple):
    """The entries of `SparseCodes` sorted by latent, tokens ascending within a latent.

    `order` [n] takes entries into this order, `rows` [n] is the token of each, `splits` [F+1] says
    which entries a latent owns.
    """

    order: torch.Tensor
    rows: torch.Tensor
    splits: torch.Tensor

    @property
    def counts(self) -> torch.Tensor:
        """Firings of each latent, int64 [F]."""
        return self.splits.diff()

    @property
    def last_rows(self) -> torch.Tensor:
        """The token of each latent's last entry, int64 [F]; meaningless where it has none."""
        if self.rows.numel() == 0:
            return torch.zeros_like(self.splits[1:])
        return self.rows[(self.splits[1:] - 1).clamp_min(0)]

    def only(self, kept_N: torch.Tensor) -> ByLatent:
        """That of the entries for which `kept_N` holds, which is in their first order."""
        here_N = self.sorted(kept_N)
        at = here_N.nonzero().squeeze(1)
        before = torch.zeros(here_N.numel() + 1, dtype=torch.int64, device=here_N.device)
        torch.cumsum(here_N, 0, out=before[1:])
        number_N = torch.cumsum(kept_N, 0) - 1  # of an entry among those that are kept
        order = picked(number_N, picked(self.order, at))
        return ByLatent(order, picked(self.rows, at), picked(before, self.splits))

    def counted(self, kept_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`counts` and `last_rows` of the entries for which `kept_N` holds."""
        here_N = self.sorted(kept_N)
        counts_F = sum_by_latent(self, here_N.double()).long()
        rows_N = ((self.rows + 1) * here_N).double()
        last_F = torch.segment_reduce(rows_N, "max", offsets=self.splits, initial=1.0)
        return counts_F, last_F.long() - 1

    def sorted(self, entries_N: torch.Tensor) -> torch.Tensor:
        """What belongs to the entries, in this order."""
        return picked(entries_N, self.order)


def sort_by_latent(codes: SparseCodes, n_latents: int) -> ByLatent:
    """Sort entries by latent; a stable sort keeps the order of tokens."""
    keys = codes.ids.int() if n_latents < 2**31 else codes.ids
    order = torch.sort(keys, stable=True).indices
    splits = torch.zeros(n_latents + 1, dtype=torch.int64, device=codes.ids.device)
    torch.cumsum(torch.bincount(codes.ids, minlength=n_latents), 0, out=splits[1:])
    return ByLatent(order, picked(codes.rows, order), splits)


def weighted_rows(table_FO: torch.Tensor, codes: SparseCodes) -> torch.Tensor:
    """Row t of the result [B, O] is the sum of value times table row over the entries of row t."""
    return functional.embedding_bag(
        codes.ids,
        table_FO,
        codes.row_splits,
        mode="sum",
        per_sample_weights=codes.values,
        include_last_offset=True,
    )


def weighted_rows_of(
    table_FO: torch.Tensor, codes: SparseCodes, values: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """`weighted_rows` with several values of the same entries in place of the codes' own.

    Where a CPU's cache cannot hold the table but holds part of it, the entries of each part are
    added up after another, which is up to twice as quick.
    """
    rows, (latents, width) = codes.row_splits.numel() - 1, table_FO.shape
    row_bytes = width * table_FO.element_size()
    parts = -(-latents * row_bytes // PART_BYTES)
    large = table_FO.device.type == "cpu" and latents * row_bytes > CACHED_BYTES
    if not large or parts > MOST_PARTS or codes.ids.numel() < LEAST_ENTRIES * rows * parts:
        return [weighted_rows(table_FO, codes._replace(values=each)) for each in values]
    size = -(-latents // parts)
    part_N = torch.div(codes.ids, size, rounding_mode="floor")
    order = torch.sort(part_N.to(torch.uint8), stable=True).indices
    splits = splits_of(part_N.mul_(rows).add_(codes.rows), parts * rows)
    ids = picked(codes.ids, order)
    ordered = [picked(each, order) for each in values]
    found = [torch.zeros(rows, width, dtype=table_FO.dtype) for _ in values]
    for part in range(parts):
        own = splits[part * rows : (part + 1) * rows + 1]
        at, first = slice(int(own[0]), int(own[-1])), part * size
        for sum_BO, each in zip(found, ordered, strict=True):
            codes = SparseCodes(each[at], ids[at] - first, own - own[0])
            sum_BO.add_(weighted_rows(table_FO[first : first + size], codes))
    return found


def value_gradient(
    codes: SparseCodes, by_latent: ByLatent, grad_BO: torch.Tensor, W_dec_FO: torch.Tensor
) -> torch.Tensor:
    """⟨grad of the token, decoder row of the latent⟩ for each entry [n].

    `by_latent` is that of the codes. Where the decoder is much the larger one, the products are
    formed latent by latent: what is fetched again and again is then the gradient. They are the same
    to the bit.
    """
    if codes.ids.numel() == 0:
        return torch.zeros_like(codes.values)
    latents = W_dec_FO.shape[0]
    if grad_BO.device.type != "cpu" or latents <= WIDE * grad_BO.shape[0]:
        return _products(codes.row_splits, codes.ids, codes.values, grad_BO, W_dec_FO)
    found = _products(by_latent.splits, by_latent.rows, codes.values, W_dec_FO, grad_BO)
    return torch.empty_like(found).index_copy_(0, by_latent.order, found)


def _products(
    splits: torch.Tensor,
    columns: torch.Tensor,
    like: torch.Tensor,
    rows_RO: torch.Tensor,
    table_CO: torch.Tensor,
) -> torch.Tensor:
    """⟨row, table row⟩ of each entry [n] of a CSR pattern, in the dtype of `like` [n]."""
    with warnings.catch_warnings():
        # CSR is called "beta" by torch; the pattern is valid by construction
        warnings.filterwarnings("ignore", message="Sparse (CSR|invariant)", category=UserWarning)
        pattern = torch.sparse_csr_tensor(
            splits,
            columns,
            torch.zeros_like(like),
            size=(rows_RO.shape[0], table_CO.shape[0]),
            check_invariants=False,
        )
        return torch.sparse.sampled_addmm(pattern, rows_RO, table_CO.T, beta=0.0).values()


def weight_gradient(
    by_latent: ByLatent,
    weights: torch.Tensor,
    table_BD: torch.Tensor,
    out_FD: torch.Tensor,
    *,
    along_F: torch.Tensor | None = None,
    directions_FD: torch.Tensor | None = None,
) -> None:
    """out_F = Σ weight · table row over the latent's entries, less along_F · directions_F.

    `weights` [n] is in the order of `by_latent`. The subtraction removes the part of a decoder
    gradient that would only change the length of its row.
    """
    n_latents, width = out_FD.shape
    step = max(1, SLICE_BYTES // (width * out_FD.element_size()))
    for start in range(0, n_latents, step):
        stop = min(start + step, n_latents)
        splits = by_latent.splits[start : stop + 1]
        low, high = (int(splits[0]), int(splits[-1]))
        part_FD = functional.embedding_bag(
            by_latent.rows[low:high],
            table_BD,
            splits - low,
            mode="sum",
            per_sample_weights=weights[low:high],
            include_last_offset=True,
        )
        if along_F is None or directions_FD is None:
            out_FD[start:stop] = part_FD
        else:
            torch.addcmul(
                part_FD,
                along_F[start:stop, None],
                directions_FD[start:stop],
                value=-1,
                out=out_FD[start:stop],
            )


def sum_by_latent(by_latent: ByLatent, values: torch.Tensor) -> torch.Tensor:
    """Σ of `values` [n], given in the order of `by_latent`, per latent [F]."""
    return torch.segment_reduce(values, "sum", offsets=by_latent.splits, initial=0.0)
