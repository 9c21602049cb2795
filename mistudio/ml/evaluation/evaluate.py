"""Measure an SAE on held-out documents: reconstruction, sparsity, cost to the language model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from mistudio.core.control import JobControl
from mistudio.core.errors import InvalidInput, Mismatch
from mistudio.core.events import Reporter
from mistudio.ml.activations.capture import Capture
from mistudio.ml.activations.masking import default_forward_batch, keep_mask
from mistudio.ml.data.token_store import TokenStore
from mistudio.ml.evaluation.language_model_loss import (
    LossSums,
    ThreeForwards,
    rows_per_pass,
    scored_positions,
)
from mistudio.ml.evaluation.reconstruction import (
    GROUPS,
    Bootstrap,
    ReconstructionSums,
    encoder_decoder_cosine,
)
from mistudio.ml.loading import LoadedModel
from mistudio.ml.sae.base import SparseAutoencoder


def evaluate(
    sae: SparseAutoencoder,
    loaded: LoadedModel,
    tokens: TokenStore,
    layer: int,
    hook: str,
    *,
    norm_limit: float | None,
    mask_special: bool = True,
    max_tokens: int,
    report: Reporter,
    control: JobControl,
    part: str = "evaluation",
    max_loss_tokens: int | None = None,
    with_loss: bool = True,
) -> dict[str, Any]:
    """Every metric over kept tokens of `part`, as JSON values.

    `norm_limit` and `mask_special` are those of the training (`StreamStatistics.norm_limit`), so
    that the same tokens count. At most about `max_tokens` tokens are read, in rows spread evenly
    over the part; the language model's loss is measured on the first of these up to
    `max_loss_tokens` (default: all). "intervals" holds 95 % bootstrap intervals over documents of
    ev, l0 and ce_loss_score; "n" and "ce_n" the tokens behind the figures. Raises `Mismatch` for
    an SAE of another width, `InvalidInput` if no token can be used.
    """
    capture = Capture(loaded, layer, hook)
    if sae.d_in != capture.d:
        raise Mismatch(
            f"The SAE reads activations of width {sae.d_in}, this hook gives {capture.d}."
        )
    sae = sae.to(loaded.device)
    rows = spread_rows(tokens.rows(part), math.ceil(max_tokens / tokens.context))
    group_of, groups = _document_groups(tokens, rows)
    sums = ReconstructionSums(sae.d_out, sae.n_latents, groups)
    losses = LossSums(groups)
    forwards = ThreeForwards(loaded, capture.module)
    loss_rows = 0
    if with_loss:
        limit = max_tokens if max_loss_tokens is None else max_loss_tokens
        loss_rows = min(len(rows), math.ceil(limit / tokens.context))
    dropped: dict[str, int] = {}

    done = 0
    while done < len(rows):
        control.check()
        both = done < loss_rows
        step = default_forward_batch(tokens.context)
        if both:
            step = min(
                step, loss_rows - done, rows_per_pass(tokens.context, loaded.facts.vocab_size)
            )
        chosen = rows[done : done + step]
        ids_BS = torch.from_numpy(tokens.ids[chosen].astype(np.int64))
        mask_BS = tokens.mask[chosen]
        if both:
            x_BSD, logits_BSV = forwards.clean(ids_BS)
        else:
            x_BSD, logits_BSV = capture(ids_BS), None
        kept = keep_mask(x_BSD, mask_BS, norm_limit=norm_limit, mask_special=mask_special)
        for reason, count in kept.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
        x_TD = x_BSD[kept.keep_BS].float()
        codes = sae.encode_sparse(x_TD)
        recon_TO = sae.decode_sparse(codes)
        group_BS = group_of(tokens.docs[chosen])
        sums.add(x_TD, recon_TO, codes, group_BS[kept.keep_BS.cpu().numpy()])
        if logits_BSV is not None:
            scored_BS = scored_positions(kept.keep_BS, mask_BS)
            found = forwards.losses(ids_BS, logits_BSV, kept.keep_BS, scored_BS, recon_TO)
            losses.add(group_BS[scored_BS.cpu().numpy()], **found)
        done += len(chosen)
        report.progress(done / len(rows), "Evaluating", rate=f"{sums.tokens:,} tokens")
    if sums.tokens == 0:
        raise InvalidInput("No held-out token can be used: all are special, masked or not finite.")

    present = sums.count_G > 0
    bootstrap = Bootstrap(int(present.sum()))
    intervals: dict[str, Any] = sums.intervals(bootstrap, present)
    found_loss: dict[str, Any] = {}
    if with_loss:
        measured = losses.count_G > 0
        found_loss = losses.metrics()
        intervals |= losses.intervals(Bootstrap(int(measured.sum())), measured)
    return {
        **sums.metrics(),
        **found_loss,
        "enc_dec_cos": encoder_decoder_cosine(sae),
        "dropped": dropped,
        "part": part,
        "intervals": intervals,
    }


def spread_rows(rows: range, count: int) -> np.ndarray:
    """At most `count` of the rows, evenly spread, ascending."""
    if count >= len(rows):
        return np.array(rows, dtype=np.int64)
    return np.array([rows[i * len(rows) // count] for i in range(count)], dtype=np.int64)


def _document_groups(tokens: TokenStore, rows: np.ndarray) -> tuple[Any, int]:
    """A function from document numbers to groups 0..G-1, and G. Document -1 is never counted."""
    documents = np.unique(tokens.docs[rows])
    documents = documents[documents >= 0]
    groups = max(1, min(GROUPS, len(documents)))

    def group_of(docs_BS: np.ndarray) -> np.ndarray:
        return np.searchsorted(documents, np.maximum(docs_BS, 0)) % groups

    return group_of, groups
