"""Decides which tokens count: the one rule for training, evaluation and feature finding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch

from mistudio.ml.activations.capture import Capture, check_ids
from mistudio.ml.data.row_table import RowTable
from mistudio.ml.data.token_store import LISTED, PADDING, SPECIAL

REASONS: tuple[str, ...] = ("padding", "special", "non_finite", "norm")
AT_LISTED = "listed"  # a reason that is counted only where positions are left out


class Kept(NamedTuple):
    """Which tokens count, and how many do not for each reason (each token has one)."""

    keep_BS: torch.Tensor  # bool, on the device of the activations
    dropped: dict[str, int]  # keys are `REASONS`, and `AT_LISTED` if there are such tokens


class RowBatch(NamedTuple):
    """Activations of some rows of a token store."""

    rows: np.ndarray  # int64 [B], row numbers
    x_BSD: torch.Tensor  # native dtype, on the model's device
    keep_BS: torch.Tensor  # bool, same device
    dropped: dict[str, int]


def keep_mask(
    x_BSD: torch.Tensor,
    mask_BS: np.ndarray,
    *,
    norm_limit: float | None,
    mask_special: bool = True,
) -> Kept:
    """Tokens that count, for activations and the store's mask of the same rows.

    Left out are padding, special tokens if `mask_special`, listed positions, activations with a
    value that is not finite, and those whose norm exceeds `norm_limit` (None: no limit), in this
    order.
    """
    mask = torch.from_numpy(np.array(mask_BS)).to(x_BSD.device)
    padding = mask == PADDING
    special = mask & SPECIAL != 0 if mask_special else torch.zeros_like(padding)
    listed = (mask & LISTED != 0) & ~special
    keep = ~(padding | special | listed)
    norm_BS = torch.linalg.vector_norm(x_BSD, dim=-1, dtype=torch.float32)
    # An overflowing norm counts as not finite too: no limit could be compared with it.
    finite = norm_BS.isfinite()
    broken = keep & ~finite
    keep = keep & finite
    far = keep & (norm_BS > norm_limit) if norm_limit is not None else torch.zeros_like(keep)
    left_out = (padding, special, broken, far, listed)
    counts = torch.stack([mask.sum() for mask in left_out]).tolist()
    dropped = dict(zip((*REASONS, AT_LISTED), counts, strict=True))
    if not dropped[AT_LISTED]:
        del dropped[AT_LISTED]
    return Kept(keep & ~far, dropped)


def add_counts(total: dict[str, int], more: Mapping[str, int]) -> None:
    """Add counts by reason to those of `total`."""
    for reason, count in more.items():
        total[reason] = total.get(reason, 0) + count


def keep_pair(
    x_BSD: torch.Tensor,
    y_BSO: torch.Tensor,
    mask_BS: np.ndarray,
    *,
    norm_limits: tuple[float | None, float | None],
    mask_special: bool = True,
) -> Kept:
    """Tokens that count for a transcoder: those that do both by what it reads and by its target.

    An attention sink's norm is huge only behind the MLP that makes it, so one side does not tell.
    """
    kept = keep_mask(x_BSD, mask_BS, norm_limit=norm_limits[0], mask_special=mask_special)
    if y_BSO is x_BSD:
        return kept
    left_BS = np.where(kept.keep_BS.cpu().numpy(), mask_BS, PADDING)
    also = keep_mask(y_BSO, left_BS, norm_limit=norm_limits[1], mask_special=False)
    dropped = {
        reason: count + (also.dropped[reason] if reason in ("non_finite", "norm") else 0)
        for reason, count in kept.dropped.items()
    }
    return Kept(also.keep_BS, dropped)


def iterate_rows(
    capture: Capture,
    tokens: RowTable,
    rows: Iterable[int],
    forward_batch: int,
    *,
    norm_limit: float | None = None,
    mask_special: bool = True,
) -> Iterator[RowBatch]:
    """Activations of rows in the given order, `forward_batch` rows to a forward pass.

    Raises `InvalidInput` if the tokens are not of the model's vocabulary.
    """
    numbers = np.fromiter(rows, dtype=np.int64)
    vocab_size = capture.loaded.facts.vocab_size
    for low in range(0, len(numbers), forward_batch):
        chosen = numbers[low : low + forward_batch]
        ids_BS = torch.from_numpy(tokens.ids[chosen].astype(np.int64))
        check_ids(ids_BS, vocab_size)
        x_BSD = capture(ids_BS)
        kept = keep_mask(
            x_BSD, tokens.mask[chosen], norm_limit=norm_limit, mask_special=mask_special
        )
        yield RowBatch(chosen, x_BSD, kept.keep_BS, kept.dropped)


def default_forward_batch(context: int) -> int:
    """Rows per forward pass that make about 2,048 tokens."""
    return max(1, 2048 // context)
