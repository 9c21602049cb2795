"""The columns of the feature table and the rows that they show."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mistudio.core.label_methods import MARKS, METHODS, RULE_SCORE, SOURCES
from mistudio.core.units import EM_DASH, format_decimal, format_percent
from mistudio.gui.tabs.features.colours import colour_dot, role_of
from mistudio.gui.widgets.row_table import Column
from mistudio.gui.widgets.token_layout import TokenPiece
from mistudio.gui.widgets.token_text import TokenLine
from mistudio.store.feature_conditions import DUPLICATE_ABOVE
from mistudio.store.features import FeatureRow, feature_rows
from mistudio.store.records import FeatureSetRow

STAR = 0  # position of the star's column
BEFORE_PEAK = 6  # pieces shown before the strongest one, so that a narrow cell still holds it
EXAMPLE, MATCH = "example", "match"
# shown until the user chooses others; the others follow in the order of `columns`
DEFAULT = ("favorite", "index", "label", EXAMPLE, "frequency", "score", "max", "tokens")
# brought by an analysis; offered once there is one
LATER = {"nearest": "nearest", "nearest_cosine": "nearest_cosine", "ablation_ce": "ablation_ce"}


class ShownFeature(NamedTuple):
    """A feature with its example laid out for the table, made once per load."""

    row: FeatureRow
    line: TokenLine
    match: float | None = None
    """how well it answers a search by text or meaning"""


def loader(
    feature_set: FeatureSetRow, matches: Mapping[int, float] | None = None
) -> Callable[[Any, Any], list[ShownFeature | None]]:
    """`load(db, ids)` of the table's model for one feature set; `matches` by feature."""
    scores = matches or {}

    def load(db: Any, ids: Any) -> list[ShownFeature | None]:
        wanted = [int(index) for index in ids]
        found = {row.index: row for row in feature_rows(db, feature_set, wanted)}
        return [_shown(found.get(index), scores.get(index)) for index in wanted]

    return load


def _shown(row: FeatureRow | None, match: float | None) -> ShownFeature | None:
    return None if row is None else ShownFeature(row, example_line(row), match)


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


def name_of(column: Column) -> str:
    """What a column is called in settings and views."""
    return column.sort_key or EXAMPLE


def columns() -> tuple[Column, ...]:
    """Every column there is; the first is the star's."""
    return (*_main_columns(), *_number_columns(), *_word_columns())


def _main_columns() -> tuple[Column, ...]:
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
        Column(
            "ID",
            lambda f: f"{colour_dot(f.row.colour)}#{f.row.index}",
            "index",
            104,
            numeric=True,
            role=lambda f: role_of(f.row.colour),
            tip=lambda f: f"Marked {f.row.colour}" if f.row.colour else "",
            help="Number of the latent; a dot has the colour that you marked it with.",
        ),
        Column(
            "Match",
            lambda f: format_decimal(f.match, 3),
            MATCH,
            96,
            numeric=True,
            role="emerald",
            help="How well the feature answers the search; its definition is below the search.",
        ),
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
            124,
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
    )


def _number_columns() -> tuple[Column, ...]:
    def number(
        title: str,
        name: str,
        show: Callable[[FeatureRow], str],
        about: str,
        width: int = 104,
        role: str = "",
    ) -> Column:
        return Column(
            title,
            lambda f: show(f.row),
            name,
            width,
            numeric=True,
            role=role,
            tip=lambda f: about,
            help=about,
        )

    return (
        number(
            "Rule AUROC",
            "rule_score",
            lambda r: format_percent(r.rule_score, 1),
            f"The best of its labels by rules, chosen or not. {RULE_SCORE}",
            128,
            "blue",
        ),
        number(
            "Model score",
            "model_score",
            lambda r: format_percent(r.model_score, 1),
            "The best held-out score of its labels by a language model, chosen or not.",
            128,
            "blue",
        ),
        number(
            "Max",
            "max",
            lambda r: format_decimal(r.max, 3),
            "Largest activation on the text read.",
            96,
            "purple",
        ),
        number(
            "Mean (active)",
            "mean",
            lambda r: format_decimal(r.mean, 3) if r.count else EM_DASH,
            "Mean activation over the tokens on which it fires.",
            128,
        ),
        number(
            "Mean (all)",
            "mean_all",
            lambda r: format_significant(r.mean_all),
            "Mean activation over all tokens that count, those on which it is silent as 0.",
            120,
        ),
        number(
            "Tokens",
            "count",
            lambda r: f"{r.count:,}",
            "Tokens on which it fires.",
        ),
        number(
            "Samples",
            "samples",
            lambda r: f"{r.active_samples:,}",
            "Rows of the text in which it fires at least once.",
        ),
        number(
            "Skew",
            "skew",
            lambda r: format_decimal(r.skew, 3),
            "Skewness E[z³] of its logits over the vocabulary.",
            96,
        ),
        number(
            "Kurtosis",
            "kurtosis",
            lambda r: format_decimal(r.kurtosis, 2),
            "Kurtosis E[z⁴] of its logits over the vocabulary; 3 for a normal distribution.",
            104,
        ),
        number(
            "Top token share",
            "top_token_share",
            lambda r: format_percent(r.top_token_share, 1),
            "Share of all its activation that falls on its top token.",
            144,
        ),
        number(
            "Nearest",
            "nearest",
            lambda r: EM_DASH if r.nearest is None else f"#{r.nearest}",
            "The feature whose decoder direction is nearest.",
        ),
        number(
            "Nearest cosine",
            "nearest_cosine",
            lambda r: format_decimal(r.nearest_cosine, 3),
            "Cosine of its decoder direction with the nearest other one.",
            136,
        ),
        number(
            "Ablation ΔCE",
            "ablation_ce",
            lambda r: EM_DASH if r.ablation_ce is None else f"{r.ablation_ce:+.4f}",
            "Change of the cross-entropy when the feature is taken away, in nats per token.",
            128,
        ),
    )


def _word_columns() -> tuple[Column, ...]:
    def words(
        title: str, name: str, show: Callable[[FeatureRow], str | None], about: str, width: int
    ) -> Column:
        return Column(
            title,
            lambda f: show(f.row) or EM_DASH,
            name,
            width,
            tip=lambda f: show(f.row) or "",
            help=about,
        )

    return (
        words(
            "Top token",
            "top_token",
            lambda r: r.top_token,
            "The token that carries most of its activation.",
            120,
        ),
        words(
            "Top tokens",
            "tokens",
            lambda r: r.top_tokens,
            "Tokens that carry most of its activation.",
            0,
        ),
        words(
            "Positive tokens",
            "positive",
            lambda r: r.positive_tokens,
            "Tokens whose logits its direction raises most.",
            220,
        ),
        words(
            "Negative tokens",
            "negative",
            lambda r: r.negative_tokens,
            "Tokens whose logits its direction lowers most.",
            220,
        ),
        words(
            "Flags",
            "flags",
            lambda r: flags_text(r),
            "dead: never fires; ultra-rare: on less than one token in a million; dense: on more "
            "than 10 %; duplicate: a decoder cosine above 0.9; single-token: its strongest tokens "
            "are all one.",
            140,
        ),
        Column(
            "Colour",
            lambda f: f"{colour_dot(f.row.colour)}{f.row.colour or EM_DASH}",
            "colour",
            104,
            role=lambda f: role_of(f.row.colour),
            help="Your mark; set it by a right click, or in the feature's window.",
        ),
        words("Note", "note", lambda r: r.notes, "Your note.", 200),
        words("Lists", "lists", lambda r: r.lists, "Lists that hold it.", 160),
        words(
            "Label source",
            "source",
            lambda r: SOURCES.get(r.label_source or "", r.label_source) if r.label else None,
            "Who made the chosen label.",
            160,
        ),
    )


def flags_text(row: FeatureRow) -> str:
    """The flags, that of a near-equal direction included."""
    is_double = (row.nearest_cosine or 0.0) > DUPLICATE_ABOVE and "duplicate" not in row.flags
    return ", ".join(part for part in (row.flags, "duplicate" if is_double else "") if part)


def format_significant(value: float | None) -> str:
    """Three significant digits, for figures of any size; unknown is an em-dash."""
    return EM_DASH if value is None else f"{value:.3g}"
