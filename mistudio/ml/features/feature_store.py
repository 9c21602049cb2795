"""The feature store of one harvest, opened for reading: memory-mapped, without model or torch.

Layout of the folder (all axes as in `FeatureTables` and `LogitLens`):
manifest.json; csr_splits/features/values (token -> features); csc_splits/tokens/values
(feature -> tokens); rows (tokenisation row, start); ids and mask [row, position]; one array per
table; lens arrays; vocabulary.arrow.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.core.errors import Damaged, NotFound
from mistudio.ml.data.text import TextStore
from mistudio.ml.data.token_store import TokenStore
from mistudio.ml.features import sampling
from mistudio.ml.features.arrays import open_array
from mistudio.ml.features.examples import Example, ExamplePiece, ExampleText
from mistudio.ml.features.statistics import DECILES, FLAG_NAMES, FeatureTables
from mistudio.ml.features.table_rows import one_line, table_rows
from mistudio.ml.features.vocabulary import Vocabulary

VERSION = 1
KEPT, SPECIAL, PADDING, EXTREME, NOT_FINITE, LISTED = range(6)  # values of the store's mask
TABLES = {name: name.rpartition("_")[0] for name in FeatureTables._fields}
CSC = ("csc_splits", "csc_tokens", "csc_values")


class TokenWeight(NamedTuple):
    """A vocabulary entry, its text, and a share (of activation) or a logit."""

    token_id: int
    text: str
    weight: float


class Lens(NamedTuple):
    """A feature's logit lens: falling positive and rising negative logits, and a histogram."""

    positive: list[TokenWeight]
    negative: list[TokenWeight]
    edges: NDArray[np.float64]
    counts: NDArray[np.int32]
    skew: float
    kurtosis: float


class RowStore(NamedTuple):
    """Token -> features: entries splits[t]..splits[t+1] belong to token t, features rising.

    An activation is value * `FeatureStore.scale`; masked tokens have no entries.
    """

    splits: NDArray[np.int64]
    features: NDArray[np.unsignedinteger]
    values: NDArray[np.float16]


@dataclass(frozen=True)
class BinExamples:
    """An interval or quantile with its sampled examples."""

    low: float
    high: float
    share: float
    count: int
    examples: list[Example]


class FeatureStore:
    """Everything a feature page shows. Not to be shared between threads (it caches texts)."""

    def __init__(
        self, folder: Path, tokens_folder: Path | None = None, text_folder: Path | None = None
    ) -> None:
        """Open a finished store; the other folders default to those named in its manifest.

        Raises `NotFound` if there is no store and `Damaged` if files are missing or disagree.
        """
        self.folder = folder
        self.summary = read_manifest(folder)
        self._tokens_folder = tokens_folder or _resolve(folder, self.summary["tokens_folder"])
        self._text_folder = text_folder or _resolve(folder, self.summary["text_folder"])
        self.n_features = int(self.summary["n_features"])
        self.kept_tokens = int(self.summary["n_tokens"])
        self.row_length = int(self.summary["row_length"])
        self.scale = 2.0 ** -int(self.summary["exponent"])
        self._splits = self._array("csc_splits")
        self._tokens = self._array("csc_tokens")
        self._values = self._array("csc_values")
        self._rows = self._array("rows")
        self._mask = self._array("mask").reshape(-1, self.row_length)
        if len(self._splits) != self.n_features + 1 or self._splits[-1] != self._values.size:
            raise Damaged("The feature set's files disagree; find the features again.")

    @property
    def store_hash(self) -> str:
        """SHA-256 over rows, activations and tables: equal stores have equal hashes."""
        return str(self.summary["store_hash"])

    @property
    def rows(self) -> int:
        """Rows read."""
        return len(self._rows)

    @property
    def mask(self) -> NDArray[np.uint8]:
        """Which tokens count, and why others do not: [row, position], `KEPT` or a reason."""
        return self._mask

    @cached_property
    def statistics(self) -> NDArray[np.void]:
        """One record per feature; the fields are those of `statistics.STATISTICS`."""
        return self._array("statistics")

    @cached_property
    def row_store(self) -> RowStore:
        """The activations by token, memory-mapped."""
        return RowStore(*(self._array(f"csr_{name}") for name in RowStore._fields))

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Texts of the model's tokens."""
        return Vocabulary(self.folder / "vocabulary.arrow")

    def flags(self, feature: int) -> list[str]:
        """Names of the flags set: dead, ultra-rare, dense, single-token."""
        value = int(self.statistics[self._check(feature)]["flags"])
        return [name for flag, name in FLAG_NAMES.items() if value & flag]

    def top_tokens(self, feature: int) -> list[TokenWeight]:
        """The five tokens with the largest share of the feature's total activation."""
        ids = self._array("top_tokens")[self._check(feature)]
        shares = self._array("top_token_shares")[feature]
        return self._weights(ids[ids >= 0], shares)

    def entries(self, feature: int) -> tuple[NDArray[np.uint32], NDArray[np.float64]]:
        """Token numbers (row * row length + position), rising, and activations, all non-zero."""
        part = slice(int(self._splits[self._check(feature)]), int(self._splits[feature + 1]))
        values = np.asarray(self._values[part]).astype(np.float64) * self.scale
        return np.asarray(self._tokens[part]), values

    def top_places(self, feature: int) -> list[tuple[int, int]]:
        """Row and position of the strongest token of each of the strongest rows."""
        rows = self._array("top_rows")[self._check(feature)]
        positions = self._array("top_positions")[feature]
        return [(r, p) for r, p in zip(rows.tolist(), positions.tolist(), strict=True) if r >= 0]

    def token_row(self, row: int) -> NDArray[np.int32]:
        """Vocabulary ids of a row of the harvest."""
        return self._array("ids").reshape(-1, self.row_length)[row]

    def mask_row(self, row: int) -> NDArray[np.uint8]:
        """The mask of a row of the harvest: `KEPT`, or why a token does not count."""
        return self._mask[row]

    def examples(
        self, feature: int, n: int = 20, *, before: int = 16, after: int = 16
    ) -> list[Example]:
        """The strongest token of each of the `n` strongest rows, strongest first."""
        rows = self._array("top_rows")[self._check(feature)][:n]
        positions = self._array("top_positions")[feature]
        entries = self.entries(feature)
        return [
            self._example(entries, int(row), int(position), before, after)
            for row, position in zip(rows, positions, strict=False)
            if row >= 0
        ]

    def intervals(self, feature: int, *, before: int = 16, after: int = 16) -> list[BinExamples]:
        """Five equal-width intervals of (0, max], strongest first, with examples of each."""
        tokens, values = self.entries(feature)
        hashes = sampling.hash_tokens(self._seed, tokens, feature)
        found = sampling.intervals(values, hashes, self.kept_tokens)
        return self._with_examples((tokens, values), found, before, after)

    def quantiles(self, feature: int, *, before: int = 16, after: int = 16) -> list[BinExamples]:
        """Ten rank deciles of the non-zero values, strongest first, with examples of each."""
        tokens, values = self.entries(feature)
        hashes = sampling.hash_tokens(self._seed, tokens, feature)
        found = sampling.quantiles(values, hashes)
        return self._with_examples((tokens, values), found, before, after)

    def histogram(self, feature: int) -> sampling.Histogram:
        """The non-zero values in 50 equal bins from the smallest to the largest."""
        return sampling.histogram(self.entries(feature)[1])

    def log_histogram(self, feature: int) -> NDArray[np.uint32]:
        """Counts per half octave; bin b starts at 2^((b-32)/2 - exponent)."""
        return np.asarray(self._array("log_histogram")[self._check(feature)])

    def position_profile(self, feature: int) -> NDArray[np.float64]:
        """Sum of activations in each tenth of the row."""
        return np.asarray(self._array("decile_sums")[self._check(feature)])

    @cached_property
    def kept_per_decile(self) -> NDArray[np.int64]:
        """Kept tokens in each tenth of the row."""
        kept_S = np.zeros(self.row_length, np.int64)
        for start in range(0, len(self._mask), 4096):  # bounds memory
            kept_S += (self._mask[start : start + 4096] == KEPT).sum(0)
        decile_S = np.arange(self.row_length) * DECILES // self.row_length
        return np.bincount(decile_S, kept_S, DECILES).astype(np.int64)

    def example_window(
        self, feature: int, row: int, position: int, *, before: int = 16, after: int = 16
    ) -> Example:
        """The text around a token of the harvest with this feature's values."""
        return self._example(self.entries(feature), row, position, before, after)

    def lens(self, feature: int) -> Lens | None:
        """The feature's logit lens, or None if the model has none (`summary["lens"]` says why)."""
        self._check(feature)
        if self.summary["lens"] != "stored":
            return None
        part = {
            name: self._array(f"lens_{name}")[feature]
            for name in (
                *("positive_ids", "positive_logits", "negative_ids", "negative_logits"),
                *("histogram", "low", "high", "skew", "kurtosis"),
            )
        }
        counts = np.asarray(part["histogram"])
        return Lens(
            self._weights(part["positive_ids"], part["positive_logits"]),
            self._weights(part["negative_ids"], part["negative_logits"]),
            np.linspace(float(part["low"]), float(part["high"]), counts.size + 1),
            counts,
            float(part["skew"]),
            float(part["kurtosis"]),
        )

    def table_rows(self, *, around: int = 5) -> Iterator[dict[str, Any]]:
        """One plain row per feature for the database; `example` is JSON of [text, value] pieces."""
        return table_rows(self, around=around)

    def token_rows(self, rows: NDArray[np.integer]) -> NDArray[np.int32]:
        """Rows of the tokenisation that rows of the harvest were read from."""
        return np.asarray(self._rows[rows, 0])

    @property
    def n_rows(self) -> int:
        """Rows of the harvest."""
        return len(self._rows)

    def rows_by_text(self) -> NDArray[np.int64]:
        """All rows of the harvest in the order of the tokenisation."""
        return np.lexsort((self._rows[:, 1], self._rows[:, 0]))

    def runs(self, row: int) -> Iterator[tuple[str, int, NDArray[np.int32]]]:
        """The stretches of documents in a row of the harvest: original text, number of the first
        token, and characters from..to-1 of each token [tokens, 2] within that text."""
        token_row, offset = (int(number) for number in self._rows[row])
        filled = int(np.flatnonzero(np.asarray(self._mask[row]) != PADDING)[-1]) + 1
        for run in self._text.tokens.runs(token_row, offset, offset + filled):
            if run.document >= 0 and run.high > run.low:
                text = self._text.text(run.document)[run.low : run.high]
                spans = np.asarray(self._text.tokens.offsets[token_row, run.start : run.stop])
                first = row * self.row_length + run.start - offset
                yield text, first, np.maximum(spans - run.low, 0)

    def window(
        self,
        row: int,
        position: int,
        before: int,
        after: int,
        values: Callable[[int, int], NDArray[np.float64]],
    ) -> tuple[ExamplePiece, ...]:
        """The text around a token of the harvest; `values(first, last)` gives the activations of
        token numbers first..last-1."""
        token_row, offset = (int(number) for number in self._rows[row])
        mask_S = self._mask[row]
        filled = self.row_length - int((mask_S != PADDING)[::-1].argmax())
        low, high = max(0, position - before), min(filled, position + after + 1)
        first = row * self.row_length
        kept_W = mask_S[low:high] == KEPT
        window_W = values(first + low, first + high)
        return self._text.window(token_row, offset + low, offset + position, window_W, kept_W)

    def document_at(self, row: int, position: int) -> tuple[int, int, int, str]:
        """The document that a token of the harvest comes from (-1: none), the token's characters
        low..high-1 in it, and its text."""
        token_row, offset = (int(number) for number in self._rows[row])
        where = offset + position
        document = self._text.document(token_row, where)
        if document < 0:
            return -1, 0, 0, ""
        low, high = (int(place) for place in self._text.tokens.offsets[token_row, where])
        return document, low, high, self._text.text(document)

    @property
    def _seed(self) -> int:
        return int(self.summary["settings"]["seed"])

    @cached_property
    def _text(self) -> ExampleText:
        return ExampleText(TokenStore(self._tokens_folder), TextStore(self._text_folder))

    def _array(self, name: str) -> NDArray[Any]:
        found = self.__dict__.setdefault("_open", {})
        if name not in found:
            found[name] = open_array(self.folder / f"{name}.npy")
        return found[name]

    def _check(self, feature: int) -> int:
        if not 0 <= feature < self.n_features:
            raise NotFound(
                f"Feature {feature:,} does not exist; this set has {self.n_features:,} features "
                f"(0 to {self.n_features - 1:,})."
            )
        return feature

    def _weights(self, ids: NDArray[Any], weights: NDArray[Any]) -> list[TokenWeight]:
        pairs = zip(ids.tolist(), weights.tolist(), strict=False)
        return [TokenWeight(i, self.vocabulary.text(i), weight) for i, weight in pairs]

    def _with_examples(
        self,
        entries: tuple[NDArray[np.uint32], NDArray[np.float64]],
        bins: list[sampling.Bin],
        before: int,
        after: int,
    ) -> list[BinExamples]:
        found = []
        for part in bins:
            places = np.divmod(entries[0][part.picks].astype(np.int64), self.row_length)
            examples = [
                self._example(entries, row, position, before, after)
                for row, position in zip(places[0].tolist(), places[1].tolist(), strict=True)
            ]
            found.append(BinExamples(part.low, part.high, part.share, part.count, examples))
        return found

    def _example(
        self,
        entries: tuple[NDArray[np.uint32], NDArray[np.float64]],
        row: int,
        position: int,
        before: int,
        after: int,
    ) -> Example:
        tokens, values = entries
        held = np.zeros(1)

        def of_window(first: int, last: int) -> NDArray[np.float64]:
            # the array's own type, or numpy would convert all of it
            a, b = np.searchsorted(tokens, np.array([first, last], tokens.dtype))
            window_W = np.zeros(last - first)
            window_W[tokens[a:b].astype(np.int64) - first] = values[a:b]
            number = row * self.row_length + position
            held[0] = window_W[number - first]
            return window_W

        pieces = self.window(row, position, before, after, of_window)
        token_row, offset = (int(number) for number in self._rows[row])
        where = offset + position
        document = self._text.document(token_row, where)
        return Example(row, position, token_row, where, document, float(held[0]), pieces)


def _words(tokens: list[TokenWeight]) -> str:
    """Token texts on one line; those of nothing but blanks and line breaks stay visible."""
    return " ".join(one_line(token.text) for token in tokens)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished store; raises `NotFound` or `Damaged`."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    except FileNotFoundError as error:
        raise NotFound(
            "This feature set is gone; find the features again.", details=str(error)
        ) from error
    except (ValueError, OSError) as error:
        raise Damaged(
            "This feature set is damaged; find the features again.", details=str(error)
        ) from error
    if manifest.get("version") != VERSION:
        raise Damaged("This feature set is of an unknown version; find the features again.")
    return manifest


def relative_to(folder: Path, other: Path) -> str:
    """How a manifest names another folder: relative, so that the data folder can be moved."""
    return os.path.relpath(other.resolve(), folder.resolve())


def _resolve(folder: Path, written: str) -> Path:
    return (folder.resolve() / written).resolve()
