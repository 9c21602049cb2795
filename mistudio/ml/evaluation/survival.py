"""Which features of an SAE stay the same when its model is read in another format.

The reference is read first and its activations are put into a file, so that only one of the two
models has to be in memory at a time; the other is then read on the same tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from mistudio.core.control import JobControl
from mistudio.core.errors import InvalidInput, Unsupported
from mistudio.core.events import Reporter
from mistudio.ml.activations.capture import check_ids
from mistudio.ml.activations.masking import add_counts, default_forward_batch, keep_pair
from mistudio.ml.activations.pair_capture import PairCapture
from mistudio.ml.data.row_table import RowTable
from mistudio.ml.evaluation.bootstrap import DocumentGroups, Sums, with_intervals
from mistudio.ml.evaluation.compare import paired, side_by_side
from mistudio.ml.evaluation.definitions import RECONSTRUCTION
from mistudio.ml.evaluation.feature_pairs import FeaturePairSums
from mistudio.ml.evaluation.firing import FiringSums
from mistudio.ml.evaluation.measure import TextPart, check_widths, spread_rows
from mistudio.ml.evaluation.reconstruction import ReconstructionSums
from mistudio.ml.sae.base import SparseAutoencoder


@dataclass
class StoredReference:
    """Activations of kept tokens in a file, row after row: of each pass x [T, D], then y [T, O].

    `keeps` tells for each pass which tokens of its rows were kept. y is there for a transcoder
    only; x are `width` numbers, which of a temporal SAE begin with those of the hook.
    """

    path: Path
    dtype: torch.dtype = torch.float32
    width: int = 0
    keeps: list[np.ndarray] = field(default_factory=list[np.ndarray])
    dropped: dict[str, int] = field(default_factory=dict[str, int])


def store_reference(
    sae: SparseAutoencoder,
    capture: PairCapture,
    text: TextPart,
    path: Path,
    report: Reporter,
    control: JobControl,
) -> StoredReference:
    """Read the reference model and write what the SAE reads and is to give to a file.

    Which tokens count is decided here, by the masks of the training. Raises `Mismatch` for an SAE
    of another width, `InvalidInput` if no token can be used.
    """
    check_widths(sae, capture)
    stored = StoredReference(path)
    rows = _rows(text)
    with path.open("wb") as file:
        for chosen in _passes(text.tokens, rows):
            control.check()
            x_BSD, y_BSO = capture(_ids(capture, text.tokens, chosen))
            kept = keep_pair(
                x_BSD,
                y_BSO,
                text.tokens.mask[chosen],
                norm_limits=(text.norm_limit, text.norm_limit_out),
                mask_special=text.mask_special,
            )
            add_counts(stored.dropped, kept.dropped)
            read_BSD = sae.in_context(x_BSD)
            stored.dtype, stored.width = read_BSD.dtype, read_BSD.shape[-1]
            stored.keeps.append(kept.keep_BS.cpu().numpy())
            _write(file, read_BSD[kept.keep_BS])
            if capture.is_pair:
                _write(file, y_BSO[kept.keep_BS].to(read_BSD.dtype))
            report.progress(_done(rows, chosen), "Reading the reference")
    if not any(keep_BS.any() for keep_BS in stored.keeps):
        raise InvalidInput("No held-out token can be used: all are special, masked or not finite.")
    return stored


def survival(
    sae: SparseAutoencoder,
    capture: PairCapture,
    stored: StoredReference,
    text: TextPart,
    min_firings: int,
    report: Reporter,
    control: JobControl,
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Compare the features on the judged model, which `capture` reads, with the stored reference.

    `text` is that of `store_reference`, whose tokens count. Returns figures as JSON values and
    values per feature, both those of `FeaturePairSums.result`. Beside them "metrics" holds the
    figures of the SAE's reconstruction and firing: `a` on the reference, `b` on the judged
    activations, `difference` (b − a) and its 95 % interval over documents; "distance" is the mean
    over tokens of ‖x − x'‖/‖x‖, with an interval over documents. Raises `Unsupported` if the
    judged activations are no numbers, `InvalidInput` if no feature fires often enough.
    """
    check_widths(sae, capture)
    rows = _rows(text)
    groups = DocumentGroups(text.tokens, rows)
    firing = [FiringSums(sae.n_latents) for _ in range(2)]
    reconstruction = [ReconstructionSums(sae.d_out, groups.groups) for _ in range(2)]
    pairs = FeaturePairSums(sae.n_latents)
    moved = {name: np.zeros(groups.groups) for name in ("n", "n_directed", "distance")}
    with stored.path.open("rb") as file:
        for chosen, keep_BS in zip(_passes(text.tokens, rows), stored.keeps, strict=True):
            control.check()
            x_BSD, y_BSO = capture(_ids(capture, text.tokens, chosen))
            kept = torch.from_numpy(keep_BS).to(capture.device)
            x_TD, y_TO = sae.in_context(x_BSD)[kept].float(), y_BSO[kept].float()
            if not (x_TD.isfinite().all() and y_TO.isfinite().all()):
                raise Unsupported(
                    "In this format the model gives activations that are no numbers; choose "
                    "another.",
                    code="not_finite",
                )
            count = int(keep_BS.sum())
            reference_TD = _read(file, stored.dtype, count, stored.width).to(x_TD)
            reference_TO = reference_TD[:, : capture.d_in]
            if capture.is_pair:
                reference_TO = _read(file, stored.dtype, count, capture.d_out).to(x_TD)
            group_T = groups.of(np.asarray(text.tokens.docs[chosen]), keep_BS)[keep_BS]
            row_T = np.broadcast_to(chosen[:, None], keep_BS.shape)[keep_BS]
            codes = []
            for i, (read, wanted) in enumerate(((reference_TD, reference_TO), (x_TD, y_TO))):
                found = sae.encode_sparse(read)
                codes.append(found)
                reconstruction[i].add(wanted, sae.decode_sparse(found, read), found, group_T)
                firing[i].add(found, row_T)
            pairs.add(codes[0], codes[1])
            _add_distance(moved, reference_TD[:, : capture.d_in], x_TD[:, : capture.d_in], group_T)
            report.progress(_done(rows, chosen), "Comparing", rate=f"{pairs.tokens:,} tokens")
    firings = [one.firings_F.numpy() for one in firing]
    figures, per_feature = pairs.result(firings[0], firings[1], min_firings)
    distance, intervals = with_intervals({"distance": _distance}, moved)
    return {
        "n": pairs.tokens,
        "documents": groups.counted,
        "dropped": stored.dropped,
        "part": text.part,
        **figures,
        **distance,
        "intervals": intervals,
        "metrics": paired(RECONSTRUCTION, *(one.per_group() for one in reconstruction))
        | side_by_side(*(one.metrics() for one in firing)),
    }, per_feature


def _distance(s: Sums) -> np.ndarray:
    """Mean ‖x − x'‖/‖x‖ over tokens whose x is not zero."""
    return s["distance"] / s["n_directed"]


def _add_distance(
    sums: dict[str, np.ndarray], x_TD: torch.Tensor, other_TD: torch.Tensor, group_T: np.ndarray
) -> None:
    norm_T = x_TD.double().norm(dim=1).cpu().numpy()
    gap_T = (x_TD.double() - other_TD.double()).norm(dim=1).cpu().numpy()
    has_T = norm_T > 0
    np.add.at(sums["n"], group_T, 1)
    np.add.at(sums["n_directed"], group_T[has_T], 1)
    np.add.at(sums["distance"], group_T[has_T], gap_T[has_T] / norm_T[has_T])


def _rows(text: TextPart) -> np.ndarray:
    count = math.ceil(text.max_tokens / text.tokens.context)
    return spread_rows(text.tokens.rows(text.part), count)


def _passes(tokens: RowTable, rows: np.ndarray) -> Iterator[np.ndarray]:
    step = default_forward_batch(tokens.context)
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def _ids(capture: PairCapture, tokens: RowTable, chosen: np.ndarray) -> torch.Tensor:
    ids_BS = torch.from_numpy(tokens.ids[chosen].astype(np.int64))
    check_ids(ids_BS, capture.loaded.facts.vocab_size)
    return ids_BS


def _done(rows: np.ndarray, chosen: np.ndarray) -> float:
    """The share of the rows, ascending, that is done with the last of a pass."""
    return float(np.searchsorted(rows, chosen[-1], side="right")) / len(rows)


def _write(file: BinaryIO, values_TD: torch.Tensor) -> None:
    file.write(values_TD.contiguous().cpu().view(torch.uint8).numpy().data)


def _read(file: BinaryIO, dtype: torch.dtype, count: int, width: int) -> torch.Tensor:
    raw = np.fromfile(file, dtype=np.uint8, count=count * width * dtype.itemsize)
    return torch.from_numpy(raw).view(dtype).view(count, width)
