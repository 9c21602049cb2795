"""The rows of the feature table, made block by block from a finished store.

An example's values come from the row store (a token's features), so that a dense feature costs no
more than a rare one; within a block the examples are read in the order of the text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mistudio.core import lens_figures
from mistudio.ml.features.arrays import open_array

if TYPE_CHECKING:
    from mistudio.ml.features.feature_store import FeatureStore

BLOCK = 4096  # features made at a time
_NO_LENS = ""


def table_rows(store: FeatureStore, *, around: int = 5) -> Iterator[dict[str, Any]]:
    """One plain row per feature for the database, in order of the features.

    `example` is JSON of [text, value] pieces, `around` tokens on each side of the strongest one.
    """
    columns = _Columns(store)
    for low in range(0, store.n_features, BLOCK):
        yield from columns.rows(low, min(low + BLOCK, store.n_features), around)


class _Columns:
    """The arrays that rows are made of."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._words = [one_line(text) for text in store.vocabulary.all()]
        self._csr = [
            open_array(store.folder / f"csr_{name}.npy")
            for name in ("splits", "features", "values")
        ]
        self._top_ids = open_array(store.folder / "top_tokens.npy")
        self._top_shares = open_array(store.folder / "top_token_shares.npy")
        self._lens: dict[str, NDArray[Any]] | None = None
        if store.summary["lens"] == "stored":
            names = ("positive_ids", "negative_ids", "skew", "kurtosis")
            self._lens = {name: open_array(store.folder / f"lens_{name}.npy") for name in names}

    def rows(self, low: int, high: int, around: int) -> Iterator[dict[str, Any]]:
        """Rows of features low..high-1."""
        lines = np.asarray(self._store.statistics[low:high])
        examples = self._examples(low, lines, around)
        top_ids = np.asarray(self._top_ids[low:high]).tolist()
        shares = np.asarray(self._top_shares[low:high, 0]).tolist()
        lens = (
            {name: np.asarray(found[low:high]).tolist() for name, found in self._lens.items()}
            if self._lens
            else {}
        )
        for place, line in enumerate(lines):
            live = int(line["count"]) > 0
            row = {
                "feature_index": low + place,
                "count": int(line["count"]),
                "frequency": float(line["frequency"]),
                "active_samples": int(line["active_samples"]),
                "max": float(line["max"]),
                "mean": float(line["mean_active"]),
                "mean_all": float(line["mean_all"]),
                "top_tokens": self._joined(top_ids[place]),
                "top_token": self._words[top_ids[place][0]] if live else None,
                "top_token_share": shares[place] if live else None,
                "flags": ", ".join(self._store.flags(low + place)),
                "example": json.dumps(examples.get(place, []), ensure_ascii=False),
                "positive_tokens": "",
                "negative_tokens": None,
                "skew": None,
                "kurtosis": None,
            }
            if lens:
                for side in ("positive", "negative"):
                    shown = lens[f"{side}_ids"][place][: lens_figures.FEW]
                    row[f"{side}_tokens"] = self._joined(shown)
                row["skew"], row["kurtosis"] = lens["skew"][place], lens["kurtosis"][place]
            yield row

    def _joined(self, ids: list[int]) -> str:
        words = self._words
        return " ".join(words[i] if i < len(words) else f"<{i}>" for i in ids if i >= 0)

    def _examples(
        self, low: int, lines: NDArray[np.void], around: int
    ) -> dict[int, list[tuple[str, float]]]:
        """The strongest example of each live feature of a block, by its place in the block."""
        store = self._store
        live = np.flatnonzero(lines["max_row"] >= 0)
        by_text = live[np.argsort(store.token_rows(lines["max_row"][live]), kind="stable")]
        found: dict[int, list[tuple[str, float]]] = {}
        for place in by_text.tolist():
            row, position = int(lines["max_row"][place]), int(lines["max_position"][place])
            pieces = store.window(row, position, around, around, self._values_of(low + place))
            found[place] = [(piece.text, round(piece.value, 6)) for piece in pieces]
        return found

    def _values_of(self, feature: int) -> Any:
        """Reads a feature's activations of tokens first..last-1 from the row store."""

        def values(first: int, last: int) -> NDArray[np.float64]:
            splits_W = np.asarray(self._csr[0][first : last + 1])
            start, stop = int(splits_W[0]), int(splits_W[-1])
            hits = np.flatnonzero(np.asarray(self._csr[1][start:stop]) == feature)
            window_W = np.zeros(last - first)
            tokens = np.searchsorted(splits_W, start + hits, side="right") - 1
            found = np.asarray(self._csr[2][start:stop])[hits].astype(np.float64)
            window_W[tokens] = found * self._store.scale
            return window_W

        return values


def one_line(text: str) -> str:
    """A token's text on one line; one of nothing but blanks and line breaks stays visible."""
    return text.strip() or text.replace("\n", "↵").replace(" ", "␣")
