"""A text of one's own: which features fire on it, token by token, from one forward pass."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mistudio.core.errors import InvalidInput
from mistudio.ml.activations.capture import check_ids
from mistudio.ml.activations.pair_capture import PairCapture
from mistudio.ml.data.offsets import Encoder
from mistudio.ml.data.token_store import CONTENT, SPECIAL
from mistudio.ml.features.feature_store import FeatureStore
from mistudio.ml.features.own_values import counted
from mistudio.ml.loading import LoadedModel
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.steering.positions import special_ids


class TextTokens(NamedTuple):
    """A text as the model reads it: ids [T], whether each is special, and its pieces.

    A piece (text, first token, end) is a slice of the text; tokens that share a character are one.
    A start token that was put before has no text of its own.
    """

    ids_T: NDArray[np.int64]
    special_T: NDArray[np.bool_]
    pieces: list[tuple[str, int, int]]


class FiredText(NamedTuple):
    """Features that fire on a text: entries splits[t]..splits[t+1] are those of token t.

    `keep_T` tells which tokens count; the others have no entries. `quantiles` is the share of the
    feature's stored non-zero activations that are at most this one; NaN for a feature without any.
    """

    tokens: TextTokens
    keep_T: NDArray[np.bool_]
    splits: NDArray[np.int64]
    features: NDArray[np.int64]
    values: NDArray[np.float64]
    quantiles: NDArray[np.float64]

    def value_of(self, feature: int) -> NDArray[np.float64]:
        """The activation of one feature on each token [T]."""
        found_T = np.zeros(len(self.keep_T))
        hit = np.flatnonzero(self.features == feature)
        found_T[self.token_of()[hit]] = self.values[hit]
        return found_T

    def token_of(self) -> NDArray[np.int64]:
        """The token of each entry."""
        return np.repeat(np.arange(len(self.keep_T)), np.diff(self.splits))

    def strongest(self, token: int, count: int, by: str) -> list[tuple[int, float, float]]:
        """The first `count` features of a token by "activation" or "quantile", with both.

        Ties go to the larger activation, then to the smaller index.
        """
        part = self.of(token)
        features, values = self.features[part], self.values[part]
        quantiles = self.quantiles[part]
        first = np.nan_to_num(quantiles, nan=-1.0) if by == "quantile" else values
        order = np.lexsort((features, -values, -first))[:count]
        return [(int(features[i]), float(values[i]), float(quantiles[i])) for i in order]

    def of(self, token: int) -> slice:
        """The entries of a token."""
        return slice(int(self.splits[token]), int(self.splits[token + 1]))


class Firing(NamedTuple):
    """A feature on a text: largest activation, its token, sum, and on how many tokens."""

    feature: int
    largest: float
    token: int
    total: float
    tokens: int


def tokenize(loaded: LoadedModel, text: str, most: int) -> TextTokens:
    """Ids of a text with the start token before it, if the tokenizer has one.

    Raises `InvalidInput` for a text without tokens, or with more than `most`.
    """
    batch = Encoder(loaded.tokenizer).encode([text])
    ids, spans_T2 = batch.ids_T.astype(np.int64), batch.spans_T2
    if not len(ids):
        raise InvalidInput("Write some text first.")
    start = loaded.tokenizer.bos_token_id
    before = [] if start is None or ids[0] == start else [int(start)]
    limit = min(most, loaded.facts.max_positions or most)
    if len(ids) + len(before) > limit:
        raise InvalidInput(
            f"The text has {len(ids) + len(before):,} tokens; at most {limit:,} are read."
        )
    pieces: list[tuple[str, int, int]] = [("", 0, 1)] if before else []
    reach, opened = 0, 0
    for index, (low, high) in enumerate(spans_T2.tolist(), len(before)):
        if index > len(before) and (low < reach or high <= reach):
            first = pieces[-1][1]
            pieces[-1] = (text[opened : max(reach, high)], first, index + 1)
        else:
            opened = low
            pieces.append((text[low:high], index, index + 1))
        reach = max(reach, high)
    ids_T = np.concatenate([np.array(before, np.int64), ids])
    special_T = np.isin(ids_T, sorted(special_ids(loaded.tokenizer)))
    special_T[: len(before)] = True
    return TextTokens(ids_T, special_T, pieces)


@torch.inference_mode()
def fire(
    capture: PairCapture, sae: SparseAutoencoder, store: FeatureStore, tokens: TextTokens
) -> FiredText:
    """One forward pass up to the hook and one encode; special and extreme tokens are left out."""
    ids_BS = torch.from_numpy(tokens.ids_T)[None]
    check_ids(ids_BS, capture.loaded.facts.vocab_size)
    x_BSD, y_BSO = capture(ids_BS)
    mask_BS = np.where(tokens.special_T, SPECIAL, CONTENT).astype(np.uint8)[None]
    keep_T = counted(x_BSD, y_BSO, mask_BS, store)[0].cpu().numpy()
    codes = sae.encode_sparse(sae.in_context(x_BSD)[0])
    counts_T = np.diff(codes.row_splits.cpu().numpy())
    kept = np.repeat(keep_T, counts_T)
    splits = np.concatenate([[0], np.cumsum(np.where(keep_T, counts_T, 0))]).astype(np.int64)
    features = codes.ids.cpu().numpy().astype(np.int64)[kept]
    values = codes.values.double().cpu().numpy()[kept]
    return FiredText(tokens, keep_T, splits, features, values, _quantiles(store, features, values))


def _quantiles(
    store: FeatureStore, features: NDArray[np.int64], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    found = np.full(len(values), np.nan)
    order = np.argsort(features, kind="stable")
    bounds = np.flatnonzero(np.diff(features[order], prepend=-1))
    for part in np.split(order, bounds[1:]):
        if len(part):
            stored = np.sort(store.entries(int(features[part[0]]))[1])
            if stored.size:
                found[part] = np.searchsorted(stored, values[part], side="right") / stored.size
    return found


def firings(
    fired: FiredText,
    *,
    by: str = "max",
    count: int = 50,
    frequencies_F: NDArray[np.float64] | None = None,
    low: float = 0.0,
    high: float = 1.0,
) -> list[Firing]:
    """The features that fire on a text, by "max" or "sum" over its tokens, falling.

    Only those with a density from `low` to `high`, if `frequencies_F` are given.
    """
    if not len(fired.features):
        return []
    order = np.argsort(fired.features, kind="stable")
    features, values = fired.features[order], fired.values[order]
    token_of = fired.token_of()[order]
    starts = np.flatnonzero(np.diff(features, prepend=-1))
    largest = np.maximum.reduceat(values, starts)
    total = np.add.reduceat(values, starts)
    ends = np.append(starts[1:], len(features))
    found = [
        Firing(
            int(features[a]),
            float(largest[i]),
            int(token_of[a + int(values[a:b].argmax())]),
            float(total[i]),
            int(b - a),
        )
        for i, (a, b) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True))
    ]
    if frequencies_F is not None:
        found = [f for f in found if low <= frequencies_F[f.feature] <= high]
    key = (lambda f: (-f.total, f.feature)) if by == "sum" else (lambda f: (-f.largest, f.feature))
    return sorted(found, key=key)[:count]
