"""Two SAEs of one hook on the same documents: figures, paired differences, shared features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from mistudio.core.control import JobControl
from mistudio.core.errors import Mismatch
from mistudio.core.events import Reporter
from mistudio.ml.evaluation.bootstrap import (
    Bootstrap,
    Definition,
    Sums,
    figures,
    plain,
    totals,
)
from mistudio.ml.evaluation.definitions import LOSS, RECONSTRUCTION
from mistudio.ml.evaluation.evaluate import unbounded
from mistudio.ml.evaluation.measure import TextPart, measure
from mistudio.ml.features.code_log import TokenCodes
from mistudio.ml.loading import LoadedModel
from mistudio.ml.sae.base import SparseAutoencoder

SHARED = 0.7  # decoder cosine from which two features count as the same
HISTOGRAM = np.linspace(-1.0, 1.0, 41)
CHUNK_ENTRIES = 1 << 24  # cosines held at a time (64 MB)


def compare(
    first: SparseAutoencoder,
    second: SparseAutoencoder,
    loaded: LoadedModel,
    layer: int,
    hook: str,
    text: TextPart,
    report: Reporter,
    control: JobControl,
    hook_out: str | None = None,
    *,
    keep_codes: int = 0,
    codes: list[TokenCodes] | None = None,
) -> dict[str, Any]:
    """Every figure of both SAEs and their difference, as JSON values.

    "metrics" maps a name to `a`, `b`, `difference` (b − a) and its 95 % `interval`, paired: each
    draw takes the same documents for both. Figures that are counts of latents have no interval.
    "overlap" is that of `decoder_overlap`, over latents that fired on these documents. The
    activations of both on the first `keep_codes` tokens are put into `codes`.
    """
    if (first.d_in, first.d_out) != (second.d_in, second.d_out):
        raise Mismatch("The two SAEs have different widths; compare SAEs of the same hook.")
    found = measure(
        [first, second], loaded, layer, hook, text, report, control, hook_out, keep_codes
    )
    a, b = found.saes
    if codes is not None:
        codes += [one.log.codes() for one in (a, b) if one.log is not None]
    metrics = paired(RECONSTRUCTION, a.reconstruction.per_group(), b.reconstruction.per_group())
    if a.losses.tokens:
        metrics |= paired(LOSS, a.losses.per_group(), b.losses.per_group())
    metrics |= side_by_side(unbounded(a), unbounded(b))
    return {
        "n": a.reconstruction.tokens,
        "documents": found.documents,
        "ce_n": a.losses.tokens,
        "ce_documents": found.loss_documents,
        "dropped": found.dropped,
        "part": text.part,
        "metrics": metrics,
        "overlap": decoder_overlap(
            a.sae.W_dec_FO[(a.firing.firings_F > 0).to(a.sae.device)],
            b.sae.W_dec_FO[(b.firing.firings_F > 0).to(b.sae.device)],
            control,
        ),
    }


def paired(definitions: Mapping[str, Definition], a: Sums, b: Sums) -> dict[str, Any]:
    """Figures of two sums over the same documents [G, ...], b − a and its interval, by name."""
    bootstrap = Bootstrap(a["n"] > 0)
    values_a, values_b = figures(definitions, totals(a)), figures(definitions, totals(b))
    draws_a = figures(definitions, bootstrap.draw(a))
    draws_b = figures(definitions, bootstrap.draw(b))
    return {
        name: _line(
            plain(float(values_a[name])),
            plain(float(values_b[name])),
            bootstrap.interval(draws_b[name] - draws_a[name]),
        )
        for name in definitions
    }


def side_by_side(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers among figures that have no interval, and b − a, by name."""
    return {
        name: _line(value, b[name], None)
        for name, value in a.items()
        if isinstance(value, (int, float)) and name != "dead_bound"
    }


def _line(a: float | None, b: float | None, interval: list[float] | None) -> dict[str, Any]:
    difference = None if a is None or b is None else b - a
    return {"a": a, "b": b, "difference": difference, "interval": interval}


def decoder_overlap(
    a_FO: torch.Tensor, b_GO: torch.Tensor, control: JobControl | None = None
) -> dict[str, Any]:
    """How far the decoder rows [F, d] of one SAE lie from those [G, d] of another.

    Of each row the largest cosine with any row of the other: `mean_a`, `mean_b` their means,
    `shared_a`, `shared_b` the shares of at least 0.7, `histogram_a` and `histogram_b` counts
    between `edges`; `pairs` counts features that are each other's nearest at 0.7 or more. Means
    and shares are None if an SAE has no row.
    """
    best_F, of_F, best_G, of_G = _nearest(_unit(a_FO), _unit(b_GO), control)
    mutual_F = (of_G[of_F] == torch.arange(len(of_F))) if len(of_G) else torch.zeros(0) > 0
    result: dict[str, Any] = {
        "threshold": SHARED,
        "edges": HISTOGRAM.tolist(),
        "pairs": int((mutual_F & (best_F >= SHARED)).sum()) if len(of_G) else 0,
    }
    for name, best in (("a", best_F), ("b", best_G)):
        known = best[best.isfinite()]
        result |= {
            f"latents_{name}": len(best),
            f"mean_{name}": float(known.double().mean()) if len(known) else None,
            f"shared_{name}": float((known >= SHARED).double().mean()) if len(known) else None,
            f"histogram_{name}": np.histogram(known.clamp(-1, 1).numpy(), HISTOGRAM)[0].tolist(),
        }
    return result


def _nearest(
    a_FO: torch.Tensor, b_GO: torch.Tensor, control: JobControl | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Largest cosine and its place, of each row among the other's rows; on the CPU."""
    best_G = torch.full((len(b_GO),), -torch.inf, device=a_FO.device)
    of_G = torch.zeros(len(b_GO), dtype=torch.int64, device=a_FO.device)
    best_F = torch.full((len(a_FO),), -torch.inf, device=a_FO.device)
    of_F = torch.zeros(len(a_FO), dtype=torch.int64, device=a_FO.device)
    step = max(1, CHUNK_ENTRIES // max(1, len(b_GO)))
    for start in range(0, len(a_FO) if len(b_GO) else 0, step):
        if control is not None:
            control.check()
        cosine_CG = a_FO[start : start + step] @ b_GO.T
        best_F[start : start + step], of_F[start : start + step] = cosine_CG.max(1)
        high_G, place_G = cosine_CG.max(0)
        better = high_G > best_G
        best_G = torch.where(better, high_G, best_G)
        of_G = torch.where(better, place_G + start, of_G)
    return best_F.cpu(), of_F.cpu(), best_G.cpu(), of_G.cpu()


def _unit(rows_FO: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows_FO.float(), dim=1)
