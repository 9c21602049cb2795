"""One pass over held-out documents that measures any number of SAEs of the same hook.

A transcoder is measured against the activations it is to give, of the same forward pass, and takes
their place in the language model's loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mistudio.core.control import JobControl
from mistudio.core.errors import InvalidInput, Mismatch
from mistudio.core.events import Reporter
from mistudio.ml.activations.masking import add_counts, default_forward_batch, keep_pair
from mistudio.ml.activations.pair_capture import PairCapture
from mistudio.ml.data.row_table import RowTable
from mistudio.ml.evaluation.bootstrap import DocumentGroups
from mistudio.ml.evaluation.firing import FiringSums
from mistudio.ml.evaluation.language_model_loss import (
    LossSums,
    PatchedForwards,
    rows_per_pass,
    scored_positions,
)
from mistudio.ml.evaluation.reconstruction import ReconstructionSums
from mistudio.ml.features.code_log import CodeLog
from mistudio.ml.loading import LoadedModel
from mistudio.ml.sae.base import SparseAutoencoder


@dataclass(frozen=True)
class TextPart:
    """Which tokens count: those of `part` of a tokenisation, under the mask of the training.

    At most about `max_tokens` are read, in rows spread evenly over the part; the language model's
    loss is measured on rows spread over these, up to `max_loss_tokens` (None: all of them, 0: not
    at all). `norm_limit_out` is for what a transcoder is to give.
    """

    tokens: RowTable
    norm_limit: float | None
    mask_special: bool
    max_tokens: int
    max_loss_tokens: int | None = None
    part: str = "evaluation"
    norm_limit_out: float | None = None


@dataclass(frozen=True)
class Measured:
    """The sums of one SAE."""

    sae: SparseAutoencoder
    reconstruction: ReconstructionSums
    firing: FiringSums
    losses: LossSums
    log: CodeLog | None = None
    """the activations of the first tokens, if they were asked for"""


@dataclass(frozen=True)
class Measurement:
    """The sums of every SAE over the same tokens and groups of documents."""

    saes: list[Measured]
    documents: int
    loss_documents: int
    dropped: dict[str, int]


def measure(
    saes: Sequence[SparseAutoencoder],
    loaded: LoadedModel,
    layer: int,
    hook: str,
    text: TextPart,
    report: Reporter,
    control: JobControl,
    hook_out: str | None = None,
    keep_codes: int = 0,
) -> Measurement:
    """Sums over the kept tokens of a text for each SAE, and the activations of `keep_codes` tokens.

    Transcoders read `hook` and are to give `hook_out`. Raises `Mismatch` for an SAE of another
    width, `InvalidInput` if no token can be used.
    """
    capture = PairCapture(loaded, layer, hook, hook_out or hook)
    for sae in saes:
        check_widths(sae, capture)
    tokens = text.tokens
    rows, loss_rows = _rows(text)
    groups, loss_groups = DocumentGroups(tokens, rows), DocumentGroups(tokens, rows)
    found = [_empty(sae.to(loaded.device), groups.groups, keep_codes) for sae in saes]
    forwards = PatchedForwards(loaded, capture.written)
    dropped: dict[str, int] = {}
    done = 0
    while done < len(rows):
        control.check()
        both = done < loss_rows
        step = default_forward_batch(tokens.context)
        if both:
            most = rows_per_pass(tokens.context, loaded.facts.vocab_size)
            step = min(step, loss_rows - done, most)
        chosen = rows[done : done + step]
        ids_BS = torch.from_numpy(tokens.ids[chosen].astype(np.int64))
        docs_BS, mask_BS = np.asarray(tokens.docs[chosen]), tokens.mask[chosen]
        logits_BSV = None
        if not both:
            x_BSD, y_BSO = capture(ids_BS)
        elif capture.is_pair:
            x_BSD, y_BSO, logits_BSV = forwards.clean_pair(ids_BS, capture.read)
        else:
            x_BSD, logits_BSV = forwards.clean(ids_BS)
            y_BSO = x_BSD
        kept = keep_pair(
            x_BSD,
            y_BSO,
            mask_BS,
            norm_limits=(text.norm_limit, text.norm_limit_out),
            mask_special=text.mask_special,
        )
        add_counts(dropped, kept.dropped)
        keep_BS = kept.keep_BS.cpu().numpy()
        y_TO = y_BSO[kept.keep_BS].float()
        group_T = groups.of(docs_BS, keep_BS)[keep_BS]
        row_T = np.broadcast_to(chosen[:, None], keep_BS.shape)[keep_BS]
        recons_TO: list[torch.Tensor] = []
        for one in found:
            x_TD = one.sae.in_context(x_BSD)[kept.keep_BS].float()
            recons_TO.append(_add(one, x_TD, y_TO, group_T, row_T))
        if logits_BSV is not None:
            scored_BS = scored_positions(kept.keep_BS, mask_BS)
            scored = scored_BS.cpu().numpy()
            group = loss_groups.of(docs_BS, scored)[scored]
            losses = forwards.losses(ids_BS, logits_BSV, kept.keep_BS, scored_BS, recons_TO)
            for one, per_token in zip(found, losses, strict=True):
                one.losses.add(group, **per_token)
        done += len(chosen)
        counted = found[0].reconstruction.tokens
        report.progress(done / len(rows), "Evaluating", rate=f"{counted:,} tokens")
    if found[0].reconstruction.tokens == 0:
        raise InvalidInput("No held-out token can be used: all are special, masked or not finite.")
    return Measurement(found, groups.counted, loss_groups.counted, dropped)


def spread_rows(rows: Sequence[int], count: int) -> np.ndarray:
    """At most `count` of the rows, evenly spread, ascending."""
    if count >= len(rows):
        return np.array(rows, dtype=np.int64)
    return np.array([rows[i * len(rows) // count] for i in range(count)], dtype=np.int64)


def _rows(text: TextPart) -> tuple[np.ndarray, int]:
    """The rows to read, those for the language model's loss first, and how many these are."""
    context = text.tokens.context
    rows = spread_rows(text.tokens.rows(text.part), math.ceil(text.max_tokens / context))
    limit = text.max_tokens if text.max_loss_tokens is None else text.max_loss_tokens
    first = spread_rows(range(len(rows)), math.ceil(limit / context))
    rest = np.setdiff1d(np.arange(len(rows)), first)
    return rows[np.concatenate((first, rest))], len(first)


def _empty(sae: SparseAutoencoder, groups: int, keep_codes: int) -> Measured:
    return Measured(
        sae,
        ReconstructionSums(sae.d_out, groups),
        FiringSums(sae.n_latents),
        LossSums(groups),
        CodeLog(sae.n_latents, keep_codes) if keep_codes else None,
    )


def check_widths(sae: SparseAutoencoder, capture: PairCapture) -> None:
    """Raise `Mismatch` unless an SAE fits what is read and what it is to give."""
    if sae.d_in != capture.d_in:
        raise Mismatch(
            f"The SAE reads activations of width {sae.d_in}, this hook gives {capture.d_in}."
        )
    if sae.d_out != capture.d_out:
        raise Mismatch(
            f"The transcoder gives activations of width {sae.d_out}, its hook has {capture.d_out}."
        )
    if capture.is_pair and not sae.is_transcoder:
        raise Mismatch("Only a transcoder can give the activations of another hook.")


def _add(
    one: Measured,
    x_TD: torch.Tensor,
    y_TO: torch.Tensor,
    group_T: np.ndarray,
    row_T: np.ndarray,
) -> torch.Tensor:
    """Take kept activations into the sums of one SAE; returns what it makes of them."""
    codes = one.sae.encode_sparse(x_TD)
    recon_TO = one.sae.decode_sparse(codes, x_TD)
    one.reconstruction.add(y_TO, recon_TO, codes, group_T)
    one.firing.add(codes, row_T)
    if one.log is not None:
        one.log.add(codes)
    return recon_TO
