"""Reading features for the faces: rows of the table and the page of one feature."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mistudio.core import lens_figures
from mistudio.core.errors import NotFound
from mistudio.core.units import format_count, format_percent
from mistudio.jobs.kept_pages import pages_of
from mistudio.jobs.open_stores import open_store
from mistudio.jobs.runner import Studio
from mistudio.store import features
from mistudio.store.features import FeatureFilter, FeatureRow
from mistudio.store.records import FeatureSetRow, SaeRow

__all__ = ["open_store"]

GROUPS = ("intervals", "quantiles")

if TYPE_CHECKING:
    from mistudio.ml.features.examples import Example as StoredExample
    from mistudio.ml.features.feature_store import BinExamples, FeatureStore, TokenWeight


@dataclass(frozen=True)
class Piece:
    """Original text of one token (or of several that share a character) and its activation."""

    text: str
    value: float
    masked: bool

    def __reduce__(self) -> tuple[type[Piece], tuple[str, float, bool]]:
        """A page holds hundreds: kept in a small room, without names of fields."""
        return Piece, (self.text, self.value, self.masked)


@dataclass(frozen=True)
class Example:
    """A place where the feature fires; `peak` is the piece that the example is about.

    `row` and `position` are of the harvest. Piece i is of the tokens at `positions[i]` up to
    `positions[i + 1]` in that row; `ids` are theirs in the vocabulary, from the first piece's on.
    """

    pieces: list[Piece]
    peak: int
    value: float
    row: int
    position: int
    positions: list[int] = dataclasses.field(default_factory=list[int])
    ids: list[int] = dataclasses.field(default_factory=list[int])

    def tokens_of(self, piece: int) -> list[tuple[int, int]]:
        """Position and vocabulary id of each token of a piece, as far as they are known."""
        if not self.positions:
            return []
        begin, end = self.positions[piece : piece + 2]
        first = self.positions[0]
        return list(zip(range(begin, end), self.ids[begin - first : end - first], strict=True))


@dataclass(frozen=True)
class Group:
    """One interval of the activations and its share of all tokens that count, zeros in the lowest;
    or one quantile and its share of the active tokens."""

    title: str
    low: float
    high: float
    share: float
    examples: list[Example]


@dataclass(frozen=True)
class Bars:
    """A histogram: one more edge than counts."""

    edges: list[float]
    counts: list[int]


@dataclass(frozen=True)
class LensToken:
    """A token and the logit that the feature's direction adds to it."""

    text: str
    logit: float


@dataclass(frozen=True)
class FeaturePage:
    """All that is shown of one feature; `lens_note` says why there is no logit lens."""

    row: FeatureRow
    sae_id: str
    feature_set_id: str
    n_tokens: int
    examples: list[Example]
    intervals: list[Group]
    quantiles: list[Group]
    activations: Bars
    positive: list[LensToken]
    negative: list[LensToken]
    logits: Bars
    lens_note: str

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)


def find(
    studio: Studio,
    sae: SaeRow,
    wanted: FeatureFilter,
    *,
    sort: str = "frequency",
    descending: bool = True,
    limit: int | None = None,
) -> list[FeatureRow]:
    """Features of an SAE that pass a filter, in the order of a column."""
    found = feature_set(studio, sae)
    indices = features.feature_ids(
        studio.db(), found, wanted, sort=sort, descending=descending, limit=limit
    )
    return features.feature_rows(studio.db(), found, indices)


def feature_set(studio: Studio, sae: SaeRow) -> FeatureSetRow:
    """The newest finished feature set; raises `NotFound` with what to do."""
    found = features.newest_set(studio.db(), sae.id)
    if found is None:
        raise NotFound(f"The features of {sae.name!r} are not found yet. Find them first.")
    return found


def page(
    studio: Studio,
    sae: SaeRow,
    index: int,
    *,
    before: int = 16,
    after: int = 16,
    groups: Collection[str] = GROUPS,
) -> FeaturePage:
    """The page of one feature, with windows of `before` and `after` tokens around each example.

    Only the `groups` named are read: reading text is most of the work.
    """
    found = feature_set(studio, sae)
    check_feature(sae, index)
    store = open_store(studio, found)
    row = features.feature_rows(studio.db(), found, [index])[0]
    asked = (sae.id, found.id, index, before, after, *(name in groups for name in GROUPS))
    read = pages_of(store).get(asked, lambda: _read(store, sae, found, row, before, after, groups))
    return dataclasses.replace(read, row=row)  # labels and marks change, the files do not


def _read(
    store: FeatureStore,
    sae: SaeRow,
    found: FeatureSetRow,
    row: FeatureRow,
    before: int,
    after: int,
    groups: Collection[str],
) -> FeaturePage:
    width = {"before": before, "after": after}
    lens = store.lens(row.index)
    bars = store.histogram(row.index)
    return FeaturePage(
        row=row,
        sae_id=sae.id,
        feature_set_id=found.id,
        n_tokens=found.n_tokens or 0,
        examples=[_example(store, e) for e in store.examples(row.index, **width)],
        intervals=_groups(store, store.intervals(row.index, **width), "Interval")
        if "intervals" in groups
        else [],
        quantiles=_groups(store, store.quantiles(row.index, **width), "Decile")
        if "quantiles" in groups
        else [],
        activations=Bars(bars.edges.tolist(), bars.counts.tolist()),
        positive=_tokens(lens.positive if lens else []),
        negative=_tokens(lens.negative if lens else []),
        logits=Bars(lens.edges.tolist(), lens.counts.tolist()) if lens else Bars([], []),
        lens_note="" if lens else str(store.summary["lens"]),
    )


def top_examples(
    studio: Studio, found: FeatureSetRow, indices: Sequence[int], most: int, around: int
) -> dict[int, list[Example]]:
    """The strongest examples of several features, with `around` tokens on each side."""
    if most < 1:
        return {index: [] for index in indices}
    store = open_store(studio, found)
    return {
        index: [
            _example(store, e) for e in store.examples(index, most, before=around, after=around)
        ]
        for index in indices
    }


def text_of(example: Example) -> str:
    """An example on one line, its strongest token marked."""
    text = "".join(
        f"<<{piece.text}>>" if i == example.peak else piece.text
        for i, piece in enumerate(example.pieces)
    )
    return " ".join(text.split())


def check_feature(sae: SaeRow, index: int) -> None:
    """Raises `NotFound` if the SAE has no feature of this number."""
    if not 0 <= index < sae.n_latents:
        raise NotFound(
            f"Feature {index:,} does not exist; the SAE has {sae.n_latents:,} latents "
            f"(0 to {sae.n_latents - 1:,})."
        )


def _example(store: FeatureStore, stored: StoredExample) -> Example:
    peaks = [i for i, piece in enumerate(stored.pieces) if piece.peak]
    # pieces count the tokens of the tokenisation's row
    shift = stored.position - stored.token_position
    positions = [piece.lo + shift for piece in stored.pieces]
    positions += [piece.hi + shift for piece in stored.pieces[-1:]]
    ids: list[int] = []
    if positions:
        ids = store.token_row(stored.row)[positions[0] : positions[-1]].tolist()
    return Example(
        [Piece(p.text, p.value, not p.kept) for p in stored.pieces],
        peaks[0] if peaks else 0,
        stored.value,
        stored.row,
        stored.position,
        positions,
        ids,
    )


def _groups(store: FeatureStore, bins: Sequence[BinExamples], noun: str) -> list[Group]:
    return [
        Group(
            f"{noun} {len(bins) - i}: "
            + (
                f"({part.low:.3f}, {part.high:.3f}]"
                if noun == "Interval"
                else f"{part.low:.3f} to {part.high:.3f}"
            ),
            part.low,
            part.high,
            part.share,
            [_example(store, e) for e in part.examples],
        )
        for i, part in enumerate(bins)
    ]


def _tokens(weights: Sequence[TokenWeight]) -> list[LensToken]:
    return [LensToken(weight.text, weight.weight) for weight in weights]


def _logit_line(tokens: Sequence[LensToken]) -> str:
    return "  ".join(f"{t.text!r} {t.logit:+.2f}" for t in tokens[: lens_figures.FEW])


def lines(shown: FeaturePage) -> list[str]:
    """A feature's page as text for a terminal."""
    row = shown.row
    out = [
        f"Feature {row.index}" + (f": {row.label}" if row.label else ""),
        f"fires on {format_count(row.count)} of {format_count(shown.n_tokens)} tokens "
        f"({format_percent(row.frequency, 3)}), largest activation {row.max:.3f}",
        f"top tokens: {row.top_tokens}",
        f"promotes:   {_logit_line(shown.positive)}",
        f"suppresses: {_logit_line(shown.negative)}",
    ]
    for example in shown.examples:
        out.append(f"  {example.value:8.3f}  {text_of(example)}")
    return out
