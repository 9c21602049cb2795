"""Measure an SAE on held-out vectors that belong to no language model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mistudio.core.control import JobControl
from mistudio.core.errors import InvalidInput, Mismatch
from mistudio.core.events import Reporter
from mistudio.ml.activations.masking import REASONS, add_counts, keep_mask
from mistudio.ml.activations.readers import RowReader
from mistudio.ml.data.row_table import RowTable
from mistudio.ml.evaluation.bootstrap import DocumentGroups, with_intervals
from mistudio.ml.evaluation.definitions import RECONSTRUCTION
from mistudio.ml.evaluation.firing import FiringSums
from mistudio.ml.evaluation.measure import spread_rows
from mistudio.ml.evaluation.reconstruction import ReconstructionSums, encoder_decoder_cosine
from mistudio.ml.sae.base import SparseAutoencoder

_ROWS = 2048


def evaluate_vectors(
    sae: SparseAutoencoder,
    reader: RowReader,
    table: RowTable,
    *,
    norm_limit: float | None,
    max_tokens: int,
    report: Reporter,
    control: JobControl,
) -> dict[str, Any]:
    """Every metric that needs no language model, as `evaluate` names them; each row is a document.

    Raises `Mismatch` for an SAE of another width, `InvalidInput` if no vector can be used.
    """
    if sae.d_in != reader.widths[0]:
        raise Mismatch(
            f"The SAE reads activations of width {sae.d_in}, these have {reader.widths[0]}."
        )
    sae = sae.to(reader.device)
    rows = spread_rows(table.rows("evaluation"), max_tokens)
    groups = DocumentGroups(table, rows)
    sums, firing = ReconstructionSums(sae.d_out, groups.groups), FiringSums(sae.n_latents)
    dropped = dict.fromkeys(REASONS, 0)
    for low in range(0, len(rows), _ROWS):
        control.check()
        chosen = rows[low : low + _ROWS]
        held: list[torch.Tensor] = []
        reader.read(table, chosen, lambda _i, x_BSD, held=held: held.append(x_BSD.float()))
        kept = keep_mask(held[0], table.mask[chosen], norm_limit=norm_limit)
        add_counts(dropped, kept.dropped)
        keep_BS = kept.keep_BS.cpu().numpy()
        group_T = groups.of(np.asarray(table.docs[chosen]), keep_BS)[keep_BS]
        x_TD = held[0][kept.keep_BS]
        codes = sae.encode_sparse(x_TD)
        sums.add(x_TD, sae.decode_sparse(codes, x_TD), codes, group_T)
        firing.add(codes, chosen[keep_BS[:, 0]])
        report.progress((low + len(chosen)) / len(rows), "Evaluating", rate=f"{sums.tokens:,}")
    if sums.tokens == 0:
        raise InvalidInput("No held-out vector can be used: all are masked or not finite.")
    values, intervals = with_intervals(RECONSTRUCTION, sums.per_group())
    return {
        "n": sums.tokens,
        "documents": groups.counted,
        **values,
        **firing.metrics(),
        "enc_dec_cos": encoder_decoder_cosine(sae),
        "dropped": dropped,
        "part": "evaluation",
        "intervals": intervals,
    }
