"""Features as plain records, in blocks: statistics, label, logits, lists, examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mistudio.core.control import JobControl
from mistudio.core.events import Reporter
from mistudio.store.connection import Db
from mistudio.store.feature_export import BLOCK, Written, written_of
from mistudio.store.records import SaeRow

if TYPE_CHECKING:
    from mistudio.ml.features.feature_store import FeatureStore, Lens, TokenWeight

NOTHING = Written()


class Column(NamedTuple):
    """A column of the tables: its name, kind and meaning."""

    name: str
    kind: str
    """text, whole, real, flag, texts, or weights: pairs of a token and a number"""
    meaning: str


COLUMNS = (
    Column("index", "whole", "number of the latent"),
    Column("label", "text", "label that is shown"),
    Column("source", "text", "who made the label"),
    Column("method", "text", "how it was made"),
    Column("label_model", "text", "model that made it"),
    Column("score", "real", "score of the label on rows it was not made from"),
    Column("score_n", "whole", "examples behind the score"),
    Column("density", "real", "share of the tokens read on which it fires"),
    Column("count", "whole", "tokens on which it fires"),
    Column("tokens", "whole", "tokens read"),
    Column("active_samples", "whole", "rows of text in which it fires"),
    Column("max", "real", "largest activation"),
    Column("mean", "real", "mean activation over the tokens on which it fires"),
    Column("mean_all", "real", "mean activation over all tokens read"),
    Column("top_tokens", "weights", "tokens by their share of its activation"),
    Column("positive_logits", "weights", "tokens it promotes most, with the logit"),
    Column("negative_logits", "weights", "tokens it suppresses most, with the logit"),
    Column("skew", "real", "third moment of its standardised logits"),
    Column("kurtosis", "real", "fourth moment of its standardised logits"),
    Column("flags", "texts", "dead, ultra-rare, dense, single-token"),
    Column("star", "flag", "favourite"),
    Column("hidden", "flag", "left out of lists"),
    Column("colour", "text", "the user's mark: red, yellow, green, blue or purple"),
    Column("note", "text", "the user's note"),
    Column("lists", "texts", "lists that hold it"),
)

Record = dict[str, Any]


def records(
    db: Db,
    sae: SaeRow,
    store: FeatureStore,
    features: Sequence[int],
    report: Reporter,
    control: JobControl,
) -> Iterator[Record]:
    """One record per feature, in the given order; the keys are the names of `COLUMNS`.

    What was not measured is None. Memory is that of a few hundred features.
    """
    for feature, written in with_progress(db, sae, features, report, control):
        yield record(store, feature, written)


def with_progress(
    db: Db, sae: SaeRow, features: Sequence[int], report: Reporter, control: JobControl
) -> Iterator[tuple[int, Written]]:
    """Each feature with what is written about it; tells progress and can be cancelled."""
    total = len(features)
    for start in range(0, total, BLOCK):
        block = features[start : start + BLOCK]
        written = written_of(db, sae.id, block)
        for at, feature in enumerate(block, start):
            control.check()
            if at % 64 == 0:
                report.progress(0.9 * at / total, "writing", rate=f"{at:,} of {total:,} features")
            yield feature, written.get(feature, NOTHING)


def record(store: FeatureStore, feature: int, written: Written) -> Record:
    """What the tables hold of one feature."""
    line = store.statistics[feature]
    lens = store.lens(feature)
    fired = int(line["count"]) > 0
    return {
        "index": feature,
        "label": written.label or None,
        "source": written.source,
        "method": written.method,
        "label_model": written.model,
        "score": written.score,
        "score_n": written.score_n,
        "density": float(line["frequency"]),
        "count": int(line["count"]),
        "tokens": store.kept_tokens,
        "active_samples": int(line["active_samples"]),
        "max": float(line["max"]),
        "mean": float(line["mean_active"]) if fired else None,
        "mean_all": float(line["mean_all"]),
        "top_tokens": _pairs(store.top_tokens(feature)),
        "positive_logits": _pairs(lens.positive) if lens else None,
        "negative_logits": _pairs(lens.negative) if lens else None,
        "skew": _lens_number(lens, "skew"),
        "kurtosis": _lens_number(lens, "kurtosis"),
        "flags": store.flags(feature),
        "star": written.is_favorite,
        "hidden": written.is_hidden,
        "colour": written.colour,
        "note": written.note or None,
        "lists": list(written.lists),
    }


def examples_of(store: FeatureStore, feature: int, most: int, context: int) -> list[Record]:
    """The strongest examples: where they are, the original text, its pieces and their values."""
    if most < 1:
        return []
    return [
        {
            "activation": example.value,
            "document": example.document,
            "row": example.token_row,
            "position": example.token_position,
            "text": example.text,
            "pieces": [piece.text for piece in example.pieces],
            "values": [piece.value for piece in example.pieces],
        }
        for example in store.examples(feature, most, before=context, after=context)
    ]


def _pairs(weights: Sequence[TokenWeight]) -> list[list[Any]]:
    return [[weight.text, weight.weight] for weight in weights]


def _lens_number(lens: Lens | None, name: str) -> float | None:
    return getattr(lens, name) if lens else None
