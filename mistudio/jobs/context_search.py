"""Features found by the text in which they fire, and the job that indexes that text."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mistudio.core.atomic import directory_bytes
from mistudio.core.errors import InvalidInput
from mistudio.core.feature_search_configs import IndexContextsConfig
from mistudio.core.search_words import search_terms
from mistudio.jobs import feature_pages, lookup
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio
from mistudio.store.records import FeatureSetRow, SaeRow
from mistudio.store.tables import FEATURE_SETS

if TYPE_CHECKING:
    from mistudio.ml.features.context_search import ContextSearch

INDEX_FOLDER = "contexts"


@dataclass(frozen=True)
class TextMatches:
    """Features by score, best first; `hits` occurrences were found, of which `used` were read."""

    features: list[int]
    scores: list[float]
    firing: list[int]
    hits: int
    used: int


def prepare(studio: Studio, config: IndexContextsConfig) -> None:
    """Refuse an SAE whose features are not found yet."""
    feature_pages.feature_set(studio, lookup.sae(studio, config.sae))


def run(ctx: JobContext, config: IndexContextsConfig) -> Result:
    """Index the text of the newest feature set; a failure leaves an earlier index as it was."""
    from mistudio.ml.features import context_words

    found = feature_pages.feature_set(ctx.studio, lookup.sae(ctx.studio, config.sae))
    store = feature_pages.open_store(ctx.studio, found)
    words = context_words.build(
        store, ctx.control.check, lambda done: ctx.report.progress(done, "Indexing the text")
    )
    FEATURE_SETS.update(ctx.db, found.id, size_bytes=directory_bytes(store.folder))
    ctx.report.progress(1.0, "Ready")
    return {"feature_set": found.id, "words": words}


def is_indexed(studio: Studio, found: FeatureSetRow) -> bool:
    """Whether the text of a feature set can be searched."""
    return (studio.paths.absolute(found.path or "") / INDEX_FOLDER / "facts.json").is_file()


def search(
    studio: Studio, sae: SaeRow, text: str, *, rare: bool = False, limit: int = 1000
) -> TextMatches:
    """The features that fire most on what a text finds: words, "words in quotes" that stand
    together, begin*. Raises `InvalidInput` without words, `NotFound` without an index."""
    terms = search_terms(text)
    if not terms:
        raise InvalidInput("Write the words to search for.")
    matched = _opened(studio, feature_pages.feature_set(studio, sae)).find(
        terms, rare=rare, limit=limit
    )
    return TextMatches(
        matched.features.tolist(),
        matched.scores.tolist(),
        matched.firing.tolist(),
        matched.hits,
        matched.used,
    )


_OPEN: weakref.WeakKeyDictionary[Any, tuple[str, ContextSearch]] = weakref.WeakKeyDictionary()


def _opened(studio: Studio, found: FeatureSetRow) -> ContextSearch:
    """The search of a set, kept open for the thread whose connection this is."""
    from mistudio.ml.features.context_search import ContextSearch

    db = studio.db()
    key = f"{found.id} {found.updated_at}"
    kept = _OPEN.get(db)
    if kept is None or kept[0] != key:
        kept = _OPEN[db] = (key, ContextSearch(feature_pages.open_store(studio, found)))
    return kept[1]
