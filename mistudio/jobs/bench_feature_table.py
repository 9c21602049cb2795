"""How fast the feature table sorts, filters and searches: a database made up for it, plain rows."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mistudio.core.search_words import SearchTerm
from mistudio.store import features
from mistudio.store.connection import Db
from mistudio.store.database import Store
from mistudio.store.feature_conditions import HasFlag, NumberRange
from mistudio.store.features import FeatureFilter, feature_index_array
from mistudio.store.records import FeatureSetRow
from mistudio.store.tables import FEATURE_SETS, SAES

if TYPE_CHECKING:
    from mistudio.ml.features.feature_store import FeatureStore

SORTS = ("frequency", "max", "skew", "top_token_share", "tokens")


class Table(NamedTuple):
    """A database with one feature set; close the store when done."""

    store: Store
    feature_set: FeatureSetRow


def made_up_table(folder: Path, n_features: int, *, labelled: float = 0.5, seed: int = 0) -> Table:
    """`n_features` rows with words and figures as real ones have them; a share has labels."""
    store = Store(folder / "bench.db", folder / "backups")
    return Table(store, add_made_up(store.db(), n_features, labelled=labelled, seed=seed))


def add_made_up(db: Db, n_features: int, *, labelled: float = 0.5, seed: int = 0) -> FeatureSetRow:
    """The rows of `made_up_table` in a database that is there already."""
    draw = random.Random(seed)
    sae = SAES.insert(
        db, name="bench", origin="imported", encoder_type="sae", architecture="topk",
        d_in=1, d_out=1, n_latents=n_features, path="saes/none", status="ready",
    )  # fmt: skip
    found = FEATURE_SETS.insert(db, sae_id=sae.id, n_tokens=3_145_728, status="ready")
    words = _words(draw)
    features.add_statistics(db, found.id, _rows(draw, words, n_features))
    with db.atomic():
        db.conn.executemany(
            "INSERT INTO features (sae_id, feature_index, label, created_at, updated_at) "
            "VALUES (?, ?, ?, '', '')",
            (
                [sae.id, index, " ".join(draw.choices(words, k=5))]
                for index in range(n_features)
                if draw.random() < labelled
            ),
        )
    return found


def _words(draw: random.Random) -> list[str]:
    letters = "etaoinshrdlucmfwygpbvkxqjz"
    weights = [26 - place for place in range(26)]
    return ["".join(draw.choices(letters, weights, k=draw.randint(2, 9))) for _ in range(30_000)]


def _rows(draw: random.Random, words: list[str], n_features: int) -> Iterator[dict[str, Any]]:
    tokens = 3_145_728
    for index in range(n_features):
        count = int(tokens * 10 ** draw.gauss(-3.2, 0.7)) if draw.random() > 0.02 else 0
        top = draw.choices(words, k=5)
        yield {
            "feature_index": index,
            "count": count,
            "frequency": count / tokens,
            "active_samples": min(count, 24_576),
            "max": draw.gammavariate(3, 2),
            "mean": draw.random(),
            "mean_all": draw.random() / 100,
            "skew": draw.gauss(0, 1),
            "kurtosis": draw.gammavariate(3, 1),
            "top_token": top[0],
            "top_token_share": draw.random(),
            "top_tokens": " ".join(top),
            "positive_tokens": " ".join(draw.choices(words, k=20)),
            "negative_tokens": " ".join(draw.choices(words, k=20)),
            "flags": "" if count else "dead",
            "example": "[]",
        }


def bench_table(table: Table, *, rounds: int = 20, seed: int = 1) -> list[dict[str, Any]]:
    """Times of ordering and narrowing all rows, and of label searches, in milliseconds.

    "first" is the first question of a fresh connection, with the sort keys that a set keeps and
    without; the others repeat with the keys read.
    """
    db, found, draw = table.store.db(), table.feature_set, random.Random(seed)

    def asked(**values: Any) -> Callable[[], Any]:
        sort = values.pop("sort", "frequency")
        return lambda: feature_index_array(db, found, FeatureFilter(**values), sort=sort)

    rows = [_row("table first", _timed([asked()]))]
    table.store.release()
    db = table.store.db()
    db.execute("DELETE FROM feature_keys")
    rows.append(_row("table first, no keys kept", _timed([asked()])))
    for sort in SORTS:
        asked(sort=sort)()
    rows.append(_row("sort", _timed([asked(sort=sort) for sort in SORTS] * rounds)))
    ranges: list[Callable[[], Any]] = []
    for _ in range(5 * rounds):
        bound = draw.gammavariate(3, 2)
        conditions = (
            NumberRange("max", bound),
            NumberRange("skew", -1.0, 1.0),
            HasFlag("dead", False),
        )
        ranges.append(asked(conditions=conditions, min_frequency=1e-5))
    ranges[0]()
    rows.append(_row("filter", _timed(ranges)))
    words = _words(random.Random(0))
    searches = [_part(draw, words) for _ in range(50 * rounds)]
    asked(text=searches[0])()
    rows.append(_row("label search", _timed([asked(text=text) for text in searches])))
    return rows


def _part(draw: random.Random, words: list[str]) -> str:
    """What somebody has typed so far: a word, or its first letters."""
    word = draw.choice(words)
    return word if draw.random() < 0.5 else word[: draw.randint(2, len(word))]


def bench_phrases(
    store: FeatureStore, *, queries: int = 1000, seed: int = 1
) -> list[dict[str, Any]]:
    """Times of finding features by phrases of one to three words drawn from an indexed text."""
    from mistudio.ml.features.context_search import ContextSearch

    search, draw = ContextSearch(store), random.Random(seed)
    drawn: list[str] = []
    while len(drawn) < queries:
        text = next((text for text, _, _ in store.runs(draw.randrange(store.n_rows))), "")
        words, size = text.split(), draw.randint(1, 3)
        if len(words) > size and any(c.isalnum() for c in words[size]):
            at = draw.randrange(len(words) - size)
            drawn.append(" ".join(words[at : at + size]))
    asked = [lambda text=text: search.find([SearchTerm(text)]) for text in drawn]
    asked[0]()
    row = _row("phrase search", _timed(asked))
    return [{**row, "tokens": store.kept_tokens, "features": store.n_features}]


class _Times(NamedTuple):
    wall_ms: list[float]
    cpu_ms: list[float]


def _timed(asked: list[Callable[[], Any]]) -> _Times:
    times = _Times([], [])
    for ask in asked:
        began, used = time.perf_counter(), time.thread_time()
        ask()
        times.cpu_ms.append(1000 * (time.thread_time() - used))
        times.wall_ms.append(1000 * (time.perf_counter() - began))
    return times


def _row(what: str, times: _Times) -> dict[str, Any]:
    wall = sorted(times.wall_ms)
    return {
        "what": what,
        "n": len(wall),
        "p50_ms": round(statistics.median(wall), 2),
        "p95_ms": round(wall[min(len(wall) - 1, int(0.95 * len(wall)))], 2),
        "p95_cpu_ms": round(sorted(times.cpu_ms)[min(len(wall) - 1, int(0.95 * len(wall)))], 2),
    }
