"""The columns of the feature table and the rows that they show."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mistudio.core.label_methods import MARKS, METHODS, RULE_SCORE, SOURCES
from mistudio.core.units import EM_DASH, format_decimal, format_percent
from mistudio.gui.widgets.row_table import Column
from mistudio.gui.widgets.token_layout import TokenPiece
from mistudio.gui.widgets.token_text import TokenLine
from mistudio.store.features import FeatureRow, feature_rows
from mistudio.store.records import FeatureSetRow

STAR = 0  # position of the star's column
BEFORE_PEAK = 6  # pieces shown before the strongest one, so that a narrow cell still holds it


class ShownFeature(NamedTuple):
    """A feature with its example laid out for the table, made once per load."""

    row: FeatureRow
    line: TokenLine


def loader(feature_set: FeatureSetRow) -> Callable[[Any, Any], list[ShownFeature | None]]:
    """`load(db, ids)` of the table's model for one feature set."""

    def load(db: Any, ids: Any) -> list[ShownFeature | None]:
        wanted = [int(index) for index in ids]
        found = {row.index: row for row in feature_rows(db, feature_set, wanted)}
        return [_shown(found.get(index)) for index in wanted]

    return load


def _shown(row: FeatureRow | None) -> ShownFeature | None:
    return None if row is None else ShownFeature(row, example_line(row))


def example_line(row: FeatureRow) -> TokenLine:
    """The strongest example of a feature, from a little before its strongest token on."""
    pairs: Sequence[tuple[str, float | None]] = json.loads(row.example or "[]")
    pieces = tuple(TokenPiece(str(text), float(value or 0.0)) for text, value in pairs)
    if not pieces:
        return TokenLine((), 0.0)
    peak = max(range(len(pieces)), key=lambda i: pieces[i].value)
    return TokenLine(pieces[max(0, peak - BEFORE_PEAK) :], pieces[peak].value)


def label_text(row: FeatureRow) -> str:
    """The label with a mark for its source."""
    if not row.label:
        return EM_DASH
    return f"{MARKS.get(row.label_source or '', '')} {row.label}".strip()


def label_tip(row: FeatureRow) -> str:
    """Label, who made it, note and flags, for the tooltip."""
    source = SOURCES.get(row.label_source or "", row.label_source or "")
    lines = [f"{row.label} ({source})" if row.label else "No label yet", row.notes or "", row.flags]
    return "\n".join(line for line in lines if line)


def score_tip(row: FeatureRow) -> str:
    """What the interpretability of a feature is of, for the tooltip."""
    if not row.label:
        return "No label yet"
    method = METHODS.get(row.label_method or "", SOURCES.get(row.label_source or "", ""))
    if row.label_score is None:
        return f"The label is not scored ({method})"
    return f"{method}; n = {row.label_n or 0:,}"


def columns() -> tuple[Column, ...]:
    """Star, id, label, example, frequency, label score, maximum, mean, top tokens."""
    return (
        Column(
            "★",
            lambda f: "★" if f.row.is_favorite else "☆",
            "favorite",
            52,
            role="yellow",
            tip=lambda f: "Favourite (S)" if f.row.is_favorite else "Make it a favourite (S)",
            help="Favourites; a click or S sets the star.",
        ),
        Column("ID", lambda f: f"#{f.row.index}", "index", 88, numeric=True),
        Column("Label", lambda f: label_text(f.row), "label", tip=lambda f: label_tip(f.row)),
        Column(
            "Example context",
            lambda f: "".join(piece.text for piece in f.line.pieces),
            "",
            380,
            tokens=lambda f: f.line,
            help="The text on which the feature fires most; brighter tokens are stronger.",
        ),
        Column(
            "Frequency",
            lambda f: format_percent(f.row.frequency, 2),
            "frequency",
            112,
            numeric=True,
            role="emerald",
            tip=lambda f: f"fires on {f.row.count:,} tokens",
            help="Share of tokens on which the feature fires.",
        ),
        Column(
            "Interpretability",
            lambda f: format_percent(f.row.label_score, 1),
            "score",
            164,
            numeric=True,
            role="blue",
            tip=lambda f: score_tip(f.row),
            help=f"Held-out score of the label. {RULE_SCORE}",
        ),
        Column(
            "Max",
            lambda f: format_decimal(f.row.max, 3),
            "max",
            96,
            numeric=True,
            role="purple",
            help="Largest activation on the text read.",
        ),
        Column(
            "Mean",
            lambda f: format_decimal(f.row.mean, 3) if f.row.count else EM_DASH,
            "mean",
            96,
            numeric=True,
            help="Mean activation over the tokens on which it fires.",
        ),
        Column(
            "Top tokens",
            lambda f: f.row.top_tokens or EM_DASH,
            "tokens",
            tip=lambda f: f.row.top_tokens,
            help="Tokens that carry most of its activation.",
        ),
    )
