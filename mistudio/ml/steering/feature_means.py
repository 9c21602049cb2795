"""Differences of means for many features from one reading: the baseline of their steering.

v = mean x on the tokens on which a feature is active - mean x on the other tokens that count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from mistudio.ml.activations.capture import Capture
from mistudio.ml.features.feature_store import KEPT, FeatureStore
from mistudio.ml.features.sampling import hash_tokens
from mistudio.ml.loading import LoadedModel

FIRING_ROWS = 3  # of each feature, drawn by hash among those in which it fires
PLAIN_ROWS = 32  # of all, the same for every feature
BATCH_TOKENS = 2048


def feature_means(
    loaded: LoadedModel,
    layer: int,
    hook: str,
    store: FeatureStore,
    features: Sequence[int],
    *,
    seed: int = 0,
    check: Callable[[], None] = lambda: None,
) -> dict[int, torch.Tensor]:
    """v [D] in float32 by feature, read at `hook`; without those that fire in no row read.

    Active tokens come from all rows read, the rest from the plain rows only, so that it stays what
    the text is like.
    """
    plain = _drawn(np.arange(store.n_rows), PLAIN_ROWS, seed)
    active = {f: store.entries(f)[0].astype(np.int64) for f in features}
    rows = set(plain.tolist())
    for feature in features:
        firing = np.unique(active[feature] // store.row_length)
        rows |= set(_drawn(firing, FIRING_ROWS, seed).tolist())
    is_plain = np.zeros(store.n_rows, bool)
    is_plain[plain] = True
    capture = Capture(loaded, layer, hook)
    on_FD, off_FD = np.zeros((2, len(features), capture.d))
    on_F, off_F = np.zeros((2, len(features)))
    ordered = sorted(rows)
    step = max(1, BATCH_TOKENS // store.row_length)
    for low in range(0, len(ordered), step):
        check()
        part = np.array(ordered[low : low + step])
        ids_BS = torch.from_numpy(np.stack([store.token_row(row) for row in part])).long()
        x_TD = capture(ids_BS).double().cpu().flatten(0, 1).numpy()
        kept_T = np.concatenate([np.asarray(store.mask_row(int(row))) == KEPT for row in part])
        place_T = (part[:, None] * store.row_length + np.arange(store.row_length)).ravel()
        plain_T = np.repeat(is_plain[part], store.row_length)
        for index, feature in enumerate(features):
            fires_T = np.isin(place_T, active[feature], assume_unique=True)
            for chosen_T, sums_FD, counts_F in (
                (kept_T & fires_T, on_FD, on_F),
                (kept_T & plain_T & ~fires_T, off_FD, off_F),
            ):
                sums_FD[index] += x_TD[chosen_T].sum(0)
                counts_F[index] += chosen_T.sum()
    return {
        feature: torch.from_numpy(on_FD[i] / on_F[i] - off_FD[i] / off_F[i]).float()
        for i, feature in enumerate(features)
        if on_F[i] and off_F[i]
    }


def _drawn(rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    hashes = hash_tokens(seed, rows.astype(np.uint32), 0)
    return rows[np.argsort(hashes, kind="stable")[:most]]
