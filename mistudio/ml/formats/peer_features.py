"""What Neuronpedia's and SAEDashboard's layouts have in common about a feature."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mistudio.core import lens_figures
from mistudio.ml.features.feature_store import FeatureStore, TokenWeight
from mistudio.ml.features.sampling import histogram
from mistudio.ml.features.token_windows import TokenWindows, WindowGroup

BATCH = 128  # features to a file in all of these layouts
TRANSFORMER_LENS = {
    "resid_post": "hook_resid_post",
    "mlp_out": "hook_mlp_out",
    "mlp_in": "ln2.hook_normalized",
    "attn_out": "hook_attn_out",
    "attn_z": "attn.hook_z",
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
}


class Source(NamedTuple):
    """Whose features these are, in the other program's words."""

    model_id: str
    layer: int
    set_name: str
    creator: str
    hook: str
    dataset: str
    rows: int
    row_length: int
    created_at: str

    @property
    def id(self) -> str:
        """Layer and set, the name of the source there."""
        return f"{self.layer}-{self.set_name}"

    @property
    def hook_name(self) -> str:
        """The hook as TransformerLens calls it."""
        return f"blocks.{self.layer}.{TRANSFORMER_LENS.get(self.hook, self.hook)}"


class PeerFeature(NamedTuple):
    """A feature as plain values; lists are as long as they are known, empty where they are not.

    `fraction` is its active tokens over all tokens scanned, masked ones included.
    """

    number: int
    fraction: float
    maximum: float
    tables: dict[str, Any]
    groups: list[WindowGroup]


class LargestEntries(NamedTuple):
    """Of each row its K largest entries, falling, and their absolute values over its L1 norm."""

    places_FK: NDArray[np.int64]
    values_FK: NDArray[np.float32]
    shares_FK: NDArray[np.float32]


@torch.inference_mode()
def largest_entries(W_dec_FO: torch.Tensor, most: int = 3) -> LargestEntries:
    """The `most` largest entries of each decoder row [F, d]: neurons it is aligned to.

    These layouts rank by value; the page of a feature ranks by size, whatever the sign.
    """
    best = torch.topk(W_dec_FO.float(), min(most, W_dec_FO.shape[1]), dim=1)
    length_F1 = W_dec_FO.float().abs().sum(1, keepdim=True).clamp_min(1e-30)
    return LargestEntries(
        best.indices.cpu().numpy(),
        best.values.cpu().numpy(),
        (best.values.abs() / length_F1).cpu().numpy(),
    )


class PeerFeatures:
    """Reads features of a store as these layouts want them."""

    def __init__(
        self,
        store: FeatureStore,
        entries: LargestEntries,
        geometry_F: NDArray[np.void],
        W_dec_FO: torch.Tensor | None,
        *,
        top: int,
        context: int,
    ) -> None:
        """`geometry_F` holds the nearest rows; `W_dec_FO` is given if vectors shall be written."""
        self._store, self._entries, self._geometry_F = store, entries, geometry_F
        self._W_dec_FO, self._top = W_dec_FO, top
        self._windows = TokenWindows(store, context)
        self._scanned = int(store.summary["n_all"])
        self.json_texts = _JsonTexts(self)

    def feature(self, index: int) -> PeerFeature:
        """Everything of one feature."""
        line = self._store.statistics[index]
        entries = self._store.entries(index)
        groups = self._windows.groups(index, self._top, entries)
        bars = histogram(entries[1])
        tables = {
            **self._decoder(index),
            **self._lens(index),
            "freq_hist_data_bar_heights": bars.counts.tolist(),
            "freq_hist_data_bar_values": _centres(bars.edges.tolist()),
        }
        fraction = int(line["count"]) / max(self._scanned, 1)
        return PeerFeature(index, fraction, float(line["max"]), tables, groups)

    def vector(self, index: int) -> list[float]:
        """The decoder row, if it was asked for."""
        return [] if self._W_dec_FO is None else self._W_dec_FO[index].tolist()

    def text(self, token_id: int) -> str:
        """A token by itself, without NUL."""
        return self._store.vocabulary.text(token_id).replace("\0", " ")

    def _decoder(self, index: int) -> dict[str, Any]:
        entries, line = self._entries, self._geometry_F[index]
        known = line["nearest"] >= 0
        return {
            "neuron_alignment_indices": entries.places_FK[index].tolist(),
            "neuron_alignment_values": entries.values_FK[index].tolist(),
            "neuron_alignment_l1": entries.shares_FK[index].tolist(),
            "nearest_indices": line["nearest"][known].tolist(),
            "nearest_values": line["cosine"][known].tolist(),
        }

    def _lens(self, index: int) -> dict[str, Any]:
        lens = self._store.lens(index)
        positive = lens.positive[: lens_figures.FEW] if lens else []
        negative = lens.negative[: lens_figures.FEW] if lens else []
        edges = lens.edges.tolist() if lens else []
        return {
            "pos_str": _texts(positive),
            "pos_values": [token.weight for token in positive],
            "neg_str": _texts(negative),
            "neg_values": [token.weight for token in negative],
            "logits_hist_data_bar_heights": lens.counts.tolist() if lens else [],
            "logits_hist_data_bar_values": _centres(edges),
        }


class _JsonTexts(dict[int, str]):
    """Tokens as JSON by id, made when first asked for: a corpus repeats its tokens."""

    def __init__(self, reader: PeerFeatures) -> None:
        super().__init__()
        self._reader = reader

    def __missing__(self, token_id: int) -> str:
        found = self[token_id] = json.dumps(self._reader.text(token_id), ensure_ascii=False)
        return found


def _texts(tokens: Sequence[TokenWeight]) -> list[str]:
    return [token.text.replace("\0", " ") for token in tokens]


def _centres(edges: Sequence[float]) -> list[float]:
    """One value to a bar: readers take heights and values at the same place."""
    return [(a + b) / 2 for a, b in itertools.pairwise(edges)]
