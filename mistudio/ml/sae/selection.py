"""Exact selection of the largest pre-activations: k per row, or one of each group of a row."""

from __future__ import annotations

from typing import NamedTuple

import torch

GROUP = 16  # latents whose maximum is looked at first
LANES = 8  # booleans in one int64


class SparseCodes(NamedTuple):
    """Active latents of B tokens as flat arrays, row after row; no entry is zero.

    `values` [n] floating, `ids` [n] int64 latent of each value, `row_splits` [B+1] int64: row t
    owns the entries row_splits[t] to row_splits[t+1].
    """

    values: torch.Tensor
    ids: torch.Tensor
    row_splits: torch.Tensor

    @property
    def rows(self) -> torch.Tensor:
        """The row of each entry, int64 [n]."""
        counts = self.row_splits.diff()
        index = torch.arange(counts.numel(), device=counts.device)
        return torch.repeat_interleave(index, counts, output_size=self.ids.numel())

    @property
    def l0(self) -> torch.Tensor:
        """Active latents per row, int64 [B]."""
        return self.row_splits.diff()


def top_k_per_row(h_BF: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of each row as (values [B, k], ids [B, k]), in no particular order.

    Looks at maxima of groups first: any value outside the k groups with the largest maxima is
    exceeded by k others, so only those groups hold candidates.
    """
    rows, width = h_BF.shape
    groups = width // GROUP
    if width % GROUP or groups < 4 * k or h_BF.stride(1) != 1:
        return torch.topk(h_BF, k, dim=1, sorted=False)
    view_BGJ = h_BF.view(rows, GROUP, groups)
    chosen_BK = torch.topk(view_BGJ.amax(1), k, dim=1, sorted=False).indices
    offsets_G1 = torch.arange(0, width, groups, device=h_BF.device)[:, None]
    ids_BC = (chosen_BK[:, None, :] + offsets_G1).reshape(rows, GROUP * k)
    values_BK, at_BK = torch.topk(h_BF.gather(1, ids_BC), k, dim=1, sorted=False)
    return values_BK, ids_BC.gather(1, at_BK)


def max_per_group(h_BF: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest of each of k equal groups of consecutive latents as (values [..., k], ids
    [..., k]), in the order of the groups."""
    values_BK, at_BK = h_BF.unflatten(-1, (k, -1)).max(dim=-1)
    return values_BK, at_BK + torch.arange(k, device=h_BF.device) * (h_BF.shape[-1] // k)


def above(
    h_BF: torch.Tensor, bound: float, mask_BF: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Every entry greater than `bound` as (rows [n], values [n], ids [n]), by row and then by id.

    Where few entries are, eight at a time are passed over as one word of the mask. `mask_BF` is
    memory for that, where the caller has some: fresh pages take longer than the comparison.
    """
    width = h_BF.shape[1]
    mask = torch.gt(h_BF, bound, out=mask_BF).view(-1)
    if mask.numel() % LANES:
        at = mask.nonzero().squeeze(1)
    else:
        words = mask.view(torch.int64)
        hit = words.nonzero().squeeze(1)
        lane = picked(words, hit).view(torch.bool).nonzero().squeeze(1)
        at = picked(hit, lane // LANES).mul_(LANES).add_(lane % LANES)
    rows = torch.div(at, width, rounding_mode="floor")
    return rows, picked(h_BF.reshape(-1), at), at - rows * width


def picked(values_N: torch.Tensor, at_M: torch.Tensor) -> torch.Tensor:
    """values_N[at_M], which on a CPU takes three times as long."""
    return values_N.index_select(0, at_M)


def kept_codes(
    codes: SparseCodes, values: torch.Tensor, kept: torch.Tensor
) -> tuple[SparseCodes, torch.Tensor]:
    """Entries where `kept` [n] holds, with new values [n], and their positions among all."""
    at = kept.nonzero().squeeze(1)
    splits = splits_of(picked(codes.rows, at), codes.row_splits.numel() - 1)
    return SparseCodes(picked(values, at), picked(codes.ids, at), splits), at


def codes_from_dense(f_BF: torch.Tensor) -> SparseCodes:
    """The non-zero entries of a dense code matrix."""
    row, ids = f_BF.nonzero(as_tuple=True)
    return SparseCodes(f_BF[row, ids], ids, splits_of(row, f_BF.shape[0]))


def codes_from_top(values_BK: torch.Tensor, ids_BK: torch.Tensor) -> SparseCodes:
    """The positive entries of a per-row selection; a selected zero or less is inactive."""
    positive_BK = values_BK > 0
    splits = torch.zeros(values_BK.shape[0] + 1, dtype=torch.int64, device=ids_BK.device)
    torch.cumsum(positive_BK.sum(1), 0, out=splits[1:])
    return SparseCodes(values_BK[positive_BK], ids_BK[positive_BK], splits)


def splits_of(sorted_rows: torch.Tensor, rows: int) -> torch.Tensor:
    """Row boundaries [rows+1] of entries whose row numbers are sorted."""
    splits = torch.zeros(rows + 1, dtype=torch.int64, device=sorted_rows.device)
    torch.cumsum(torch.bincount(sorted_rows, minlength=rows), 0, out=splits[1:])
    return splits
