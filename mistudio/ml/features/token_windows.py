"""Windows of a feature as token ids and values, one value to a token: no text is read.

Other programs' layouts hold tokens by themselves; what people read is cut from the original text
(`FeatureStore.examples`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.ml.features import sampling
from mistudio.ml.features.arrays import open_array
from mistudio.ml.features.feature_store import PADDING, FeatureStore

TOP_GROUP = -1.0  # what the layouts write as lower bound and share of the strongest examples


class Window(NamedTuple):
    """Consecutive tokens of one row of the harvest, without padding.

    `places` are the tokens of the window on which the feature is active, `values` its activations
    there, in the SAE's units; it is 0 on all others. `peak` is the token that the window is about.
    """

    ids: list[int]
    places: list[int]
    values: list[float]
    peak: int

    def dense(self) -> list[float]:
        """The activation of each token."""
        found = [0.0] * len(self.ids)
        for place, value in zip(self.places, self.values, strict=True):
            found[place] = value
        return found


class WindowGroup(NamedTuple):
    """Windows of one kind: the strongest (low and share are -1), or those of an interval.

    An interval holds activations in (low, high]; `share` is its part of all kept tokens.
    """

    low: float
    high: float
    share: float
    windows: list[Window]


class TokenWindows:
    """Cuts windows of `context` tokens on each side out of a feature store."""

    def __init__(self, store: FeatureStore, context: int) -> None:
        self._store, self._context = store, context
        self._length = store.row_length
        # as a plain array: a memory map is slow to cut small pieces from
        self._ids_T = np.asarray(open_array(store.folder / "ids.npy")).reshape(-1)
        self._filled = self._filled_of(store)
        self._top_rows = open_array(store.folder / "top_rows.npy")
        self._top_positions = open_array(store.folder / "top_positions.npy")
        self._seed = int(store.summary["settings"]["seed"])

    def _filled_of(self, store: FeatureStore) -> NDArray[np.int64]:
        """How many tokens of each row are no padding; padding stands at the end."""
        mask = open_array(store.folder / "mask.npy").reshape(-1, self._length)
        filled = np.empty(len(mask), np.int64)
        for start in range(0, len(mask), 4096):
            content = np.asarray(mask[start : start + 4096]) != PADDING
            filled[start : start + 4096] = self._length - content[:, ::-1].argmax(1)
        return filled

    def groups(
        self, feature: int, top: int, entries: tuple[NDArray[np.uint32], NDArray[np.float64]]
    ) -> list[WindowGroup]:
        """The `top` strongest windows, then five intervals, strongest first; none if it is dead.

        `entries` are those of the store for this feature.
        """
        tokens, values = entries
        if not len(tokens):
            return []
        rows = self._top_rows[feature][:top]
        positions = self._top_positions[feature]
        places = [
            row * self._length + position
            for row, position in zip(rows.tolist(), positions.tolist(), strict=False)
            if row >= 0
        ]
        hashes = sampling.hash_tokens(self._seed, tokens, feature)
        bins = sampling.intervals(values, hashes, self._store.kept_tokens)
        several = [places, *(tokens[part.picks].tolist() for part in bins)]
        cut = iter(self._windows(tokens, values, [place for some in several for place in some]))
        groups = [[next(cut) for _ in some] for some in several]
        found = [WindowGroup(TOP_GROUP, float(values.max()), TOP_GROUP, groups[0])]
        for part, windows in zip(bins, groups[1:], strict=True):
            found.append(WindowGroup(part.low, part.high, part.share, windows))
        return found

    def _windows(
        self, tokens: NDArray[np.uint32], values: NDArray[np.float64], places: list[int]
    ) -> list[Window]:
        """The windows around tokens of the harvest."""
        place = np.array(places, np.int64)
        row, position = np.divmod(place, self._length)
        first = row * self._length
        low = first + np.maximum(position - self._context, 0)
        high = first + np.minimum(self._filled[row], position + self._context + 1)
        starts = np.searchsorted(tokens, low.astype(tokens.dtype))
        stops = np.searchsorted(tokens, high.astype(tokens.dtype))
        # everything is cut at once and then shared out: one conversion for all windows
        inside, id_ends = _joined(low, high)
        active, active_ends = _joined(starts, stops)
        ids = self._ids_T[inside].tolist()
        active_places = (tokens[active] - np.repeat(low, stops - starts)).tolist()
        active_values = values[active].tolist()
        found, i, a = [], 0, 0
        for peak, id_end, active_end in zip(
            (place - low).tolist(), id_ends, active_ends, strict=True
        ):
            part = slice(a, active_end)
            found.append(Window(ids[i:id_end], active_places[part], active_values[part], peak))
            i, a = id_end, active_end
        return found


def _joined(low: NDArray[np.int64], high: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[int]]:
    """The numbers of all ranges low..high-1 one behind the other, and where each range ends."""
    size = high - low
    ends = np.cumsum(size)
    total = int(ends[-1]) if ends.size else 0
    return np.arange(total) + np.repeat(low - (ends - size), size), ends.tolist()
