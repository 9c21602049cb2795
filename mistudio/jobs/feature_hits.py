"""Features that answer a search, a page at a time, each with its strongest examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mistudio.jobs import feature_pages
from mistudio.jobs.feature_pages import Example
from mistudio.jobs.runner import Studio
from mistudio.store.features import FeatureRow, feature_rows
from mistudio.store.records import FeatureSetRow

PAGE = 20  # hits shown at once
EXAMPLES = 3  # of each
SPARE = 3  # times as many are read, as texts repeat
AROUND = 8  # tokens on each side of an example's strongest one


@dataclass(frozen=True)
class Hit:
    """A feature, how well it answers (None: not told), and where it fires most."""

    row: FeatureRow
    score: float | None
    examples: list[Example]


def hits(
    studio: Studio,
    found: FeatureSetRow,
    features: Sequence[int],
    scores: Sequence[float] = (),
    *,
    page: int = 1,
    examples: int = EXAMPLES,
) -> list[Hit]:
    """The `page`-th 20 of ranked features, in their order; a page beyond the last is empty.

    A text that was read several times is one example: the next strongest comes in its place.
    """
    part = slice((page - 1) * PAGE, page * PAGE)
    wanted = [int(feature) for feature in features[part]]
    told = dict(zip(wanted, scores[part], strict=False))
    strongest = feature_pages.top_examples(studio, found, wanted, SPARE * examples, AROUND)
    shown = {feature: _distinct(listed)[:examples] for feature, listed in strongest.items()}
    return [
        Hit(row, told.get(row.index), shown[row.index])
        for row in feature_rows(studio.db(), found, wanted)
    ]


def _distinct(listed: Sequence[Example]) -> list[Example]:
    """Of examples with the same text the strongest."""
    by_text: dict[str, Example] = {}
    for example in listed:
        by_text.setdefault(feature_pages.text_of(example), example)
    return list(by_text.values())


def pages(count: int) -> int:
    """How many pages that many hits fill; at least one."""
    return max(1, -(-count // PAGE))
