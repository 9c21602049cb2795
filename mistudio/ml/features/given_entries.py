"""A feature store from activations that another program found, checked against the model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from mistudio.core.control import JobControl
from mistudio.core.errors import Mismatch
from mistudio.core.events import Reporter
from mistudio.ml.data.text import TextStore
from mistudio.ml.data.token_store import CONTENT, TokenStore
from mistudio.ml.data.token_store import PADDING as NO_TOKEN
from mistudio.ml.features.feature_store import KEPT, PADDING, SPECIAL
from mistudio.ml.features.finish import HarvestFacts, finish
from mistudio.ml.features.harvest import HarvestSettings, tile_height
from mistudio.ml.features.harvest_masks import median_norms
from mistudio.ml.features.partial import PartialStore, partial_folder
from mistudio.ml.features.rows import RowPlan, read_block
from mistudio.ml.features.sources import LiveSource
from mistudio.ml.features.transpose import id_type
from mistudio.ml.loading import LoadedModel
from mistudio.ml.sae.base import SparseAutoencoder

BLOCK_TOKENS = 1 << 17  # whose entries are taken over at a time
AGREES = 0.9  # share of entries that both have, below which the SAE is doubted


class Entries(Protocol):
    """Activations by row: of rows low..high-1 the number of each token's, features, values."""

    def rows(
        self, low: int, high: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]: ...


class Agreement(NamedTuple):
    """Entries of the first rows that the cache and the SAE both have, of those that either has;
    and the largest difference of a shared one, of the largest activation there."""

    shared: int
    either: int
    difference: float

    @property
    def share(self) -> float:
        """The shared part, 1 where there are none at all."""
        return self.shared / self.either if self.either else 1.0


def store_entries(
    entries: Entries,
    loaded: LoadedModel,
    sae: SparseAutoencoder,
    layer: int,
    hooks: tuple[str, str],
    tokens: TokenStore,
    text: TextStore,
    settings: HarvestSettings,
    folder: Path,
    report: Reporter,
    control: JobControl,
) -> tuple[HarvestFacts, Agreement]:
    """Write a finished feature store of every row; entries at tokens that do not count are dropped.

    The model reads the first rows to measure the median norm and to compare what the SAE gives.
    """
    rows, length = len(tokens), tokens.context
    whole_R2 = np.stack([np.arange(rows), np.zeros(rows, np.int64)], 1).astype(np.int32)
    plan = RowPlan(whole_R2, length, rows)
    sae = sae.to(loaded.device)
    source = LiveSource(loaded, layer, *hooks)
    if sae.d_in != source.d_in:
        raise Mismatch("The SAE does not read what this model gives at its hook.")
    height = min(tile_height(loaded.device, length, sae.n_latents), rows)
    report.progress(0.4, "Comparing with the model")
    norms = median_norms(source, sae, tokens, plan, height)
    agreement = _agreement(entries, source, sae, tokens, plan, height)
    key = hashlib.sha256(f"{tokens.meta['settings_hash']} {folder.name}".encode()).hexdigest()
    store = PartialStore(partial_folder(folder), key, id_type(sae.n_latents), row_length=length)
    try:
        state = store.progress
        state.median_norm, state.median_norm_out = norms
        _take_over(entries, store, tokens, report, control.check)
    except BaseException:
        store.close(finished=False)
        raise
    store.close()
    facts = finish(
        store,
        loaded,
        sae,
        tokens,
        text,
        plan,
        height,
        settings,
        folder,
        report,
        control,
        source.written,
    )
    return facts, agreement


def _take_over(
    entries: Entries,
    store: PartialStore,
    tokens: TokenStore,
    report: Reporter,
    check: Callable[[], None],
) -> None:
    state, rows, length = store.progress, len(tokens), tokens.context
    step, dropped = max(1, BLOCK_TOKENS // length), 0
    for low in range(0, rows, step):
        check()
        report.progress(0.45 + 0.4 * low / rows, "Taking over activations")
        high = min(low + step, rows)
        ids_RS, told_RS = np.asarray(tokens.ids[low:high]), np.asarray(tokens.mask[low:high])
        mask_RS = np.full(told_RS.shape, SPECIAL, np.uint8)
        mask_RS[told_RS == CONTENT], mask_RS[told_RS == NO_TOKEN] = KEPT, PADDING
        counts_T, features, values = entries.rows(low, high)
        kept_T = mask_RS.reshape(-1) == KEPT
        inside = np.repeat(kept_T, counts_T) & (values > 0)
        owner = np.repeat(np.arange(counts_T.size), counts_T)[inside]
        dropped += int((~inside).sum())
        counts_T = np.bincount(owner, minlength=counts_T.size)
        store.append(ids_RS, mask_RS, counts_T, features[inside], values[inside])
        state.kept += int(kept_T.sum())
        special = int((mask_RS == SPECIAL).sum())
        state.masked["special"] = state.masked.get("special", 0) + special
    if dropped:
        report.note(f"{dropped:,} activations at special tokens or padding were left out.")


@torch.inference_mode()
def _agreement(
    entries: Entries,
    source: LiveSource,
    sae: SparseAutoencoder,
    tokens: TokenStore,
    plan: RowPlan,
    height: int,
) -> Agreement:
    """Compare the first rows' entries with what the SAE gives for them, where tokens count."""
    block = read_block(tokens, plan, height, 0)
    codes = sae.encode_sparse(sae.in_context(source(block)[0]).flatten(0, 1))
    kept_T = np.asarray(tokens.mask[:height]).reshape(-1) == CONTENT
    found = []
    own_counts = np.diff(codes.row_splits.cpu().numpy())
    own = codes.ids.cpu().numpy().astype(np.int64), codes.values.float().cpu().numpy()
    for counts_T, features, values in ((own_counts, *own), entries.rows(0, height)):
        token = np.repeat(np.arange(len(counts_T)), counts_T)
        good = kept_T[token] & (values > 0)
        key = token[good] * np.int64(sae.n_latents) + features[good]
        order = np.argsort(key)
        found.append((key[order], values[good][order].astype(np.float64)))
    (key_a, value_a), (key_b, value_b) = found
    both, in_a, in_b = np.intersect1d(key_a, key_b, assume_unique=True, return_indices=True)
    largest = float(max(value_a.max(initial=0.0), value_b.max(initial=0.0)))
    apart = float(np.abs(value_a[in_a] - value_b[in_b]).max(initial=0.0))
    either = len(key_a) + len(key_b) - len(both)
    return Agreement(len(both), either, apart / largest if largest else 0.0)
