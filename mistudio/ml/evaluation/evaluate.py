"""Measure an SAE on held-out documents: reconstruction, sparsity, cost to the language model."""

from __future__ import annotations

from typing import Any

from mistudio.core.control import JobControl
from mistudio.core.events import Reporter
from mistudio.ml.data.row_table import RowTable
from mistudio.ml.evaluation.bootstrap import with_intervals
from mistudio.ml.evaluation.definitions import LOSS, RECONSTRUCTION
from mistudio.ml.evaluation.measure import Measured, TextPart, measure
from mistudio.ml.evaluation.reconstruction import encoder_decoder_cosine
from mistudio.ml.loading import LoadedModel
from mistudio.ml.sae.base import SparseAutoencoder


def evaluate(
    sae: SparseAutoencoder,
    loaded: LoadedModel,
    tokens: RowTable,
    layer: int,
    hook: str,
    *,
    hook_out: str | None = None,
    norm_limit: float | None,
    norm_limit_out: float | None = None,
    mask_special: bool = True,
    max_tokens: int,
    report: Reporter,
    control: JobControl,
    part: str = "evaluation",
    max_loss_tokens: int | None = None,
    with_loss: bool = True,
) -> dict[str, Any]:
    """Every metric over kept tokens of `part`, as JSON values.

    A transcoder reads `hook` and is measured against `hook_out`.
    `norm_limit` and `mask_special` are those of the training (`StreamStatistics.norm_limit`), so
    that the same tokens count; `TextPart` tells which tokens are read. "intervals" holds 95 %
    bootstrap intervals over documents of every figure that is a ratio of sums; "n" and "documents"
    what the figures rest on, "ce_n" and "ce_documents" those of the language model's loss. Raises
    `Mismatch` for an SAE of another width, `InvalidInput` if no token can be used.
    """
    loss_tokens = max_loss_tokens if with_loss else 0
    text = TextPart(tokens, norm_limit, mask_special, max_tokens, loss_tokens, part, norm_limit_out)
    found = measure([sae], loaded, layer, hook, text, report, control, hook_out)
    one = found.saes[0]
    values, intervals = with_intervals(RECONSTRUCTION, one.reconstruction.per_group())
    result: dict[str, Any] = {
        "n": one.reconstruction.tokens,
        "documents": found.documents,
        **values,
        **unbounded(one),
    }
    if with_loss:
        values, loss_intervals = with_intervals(LOSS, one.losses.per_group())
        result |= {"ce_n": one.losses.tokens, "ce_documents": found.loss_documents, **values}
        intervals |= loss_intervals
    return {**result, "dropped": found.dropped, "part": part, "intervals": intervals}


def unbounded(one: Measured) -> dict[str, Any]:
    """Figures that no drawing of documents bounds: counts of latents, and the weights' own."""
    return {**one.firing.metrics(), "enc_dec_cos": encoder_decoder_cosine(one.sae)}
