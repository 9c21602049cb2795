"""Features of two SAEs side by side: pairs, and what each has alone, as both faces show them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mistudio.core.atomic import atomic_file

COSINE_FROM = 0.7  # decoder cosine from which two features count as the same
CORRELATION_FROM = 0.5  # correlation of activations from which they do
SHOWN = ("pairs", "only_a", "only_b")
TITLES = {"pairs": "Matched", "only_a": "Only in A", "only_b": "Only in B"}
MEANING = (
    "Matched: each is the other's nearest, by decoder cosine (at least "
    f"{COSINE_FROM:g}) or by the correlation of their activations over the same tokens (at least "
    f"{CORRELATION_FROM:g}). Only in one: it fired, and no feature of the other reaches either."
)
COLUMNS = ("a", "b", "cosine", "correlation", "matched_by", "firings_a", "firings_b")


class MatchRow(NamedTuple):
    """A pair of features; of one that an SAE has alone, its best partners by either measure.

    `a` or `b` is None where there is no partner at all; `matched_by` is "" for those alone.
    """

    a: int | None
    b: int | None
    cosine: float | None
    correlation: float | None
    matched_by: str
    firings_a: int | None
    firings_b: int | None


class Sides(NamedTuple):
    """The rows of each kind, strongest pairs first, the most frequent alone first."""

    pairs: list[MatchRow]
    only_a: list[MatchRow]
    only_b: list[MatchRow]
    fired_a: int
    fired_b: int
    shared_a: int
    shared_b: int
    """features that have a partner at a threshold, matched or not"""

    @property
    def lists(self) -> tuple[list[MatchRow], list[MatchRow], list[MatchRow]]:
        """Pairs, those only in A, those only in B."""
        return self.pairs, self.only_a, self.only_b


def sides(found: Mapping[str, Any]) -> Sides:
    """Pairs and lonely features of a result of `match_features`."""
    a, b = found["a"], found["b"]
    pairs: list[MatchRow] = []
    for index in range(len(a["firings"])):
        by_cosine, by_correlation = a["cosine_of"][index], a["correlation_of"][index]
        cosine = _mutual(index, by_cosine, a["cosine"][index], b["cosine_of"], COSINE_FROM)
        alike = _mutual(
            index, by_correlation, a["correlation"][index], b["correlation_of"], CORRELATION_FROM
        )
        if cosine:
            by = "both" if alike and by_correlation == by_cosine else "cosine"
            correlation = a["cosine_correlation"][index]
            pairs.append(_pair(found, index, by_cosine, a["cosine"][index], correlation, by))
        if alike and not (cosine and by_correlation == by_cosine):
            there = a["correlation_cosine"][index]
            correlation = a["correlation"][index]
            pairs.append(_pair(found, index, by_correlation, there, correlation, "correlation"))
    pairs.sort(key=lambda row: (-max(row.cosine or -1, row.correlation or -1), row.a or 0))
    only = {side: _alone(found[side], side) for side in ("a", "b")}
    fired = {s: sum(count > 0 for count in found[s]["firings"]) for s in ("a", "b")}
    return Sides(
        pairs,
        only["a"],
        only["b"],
        fired["a"],
        fired["b"],
        fired["a"] - len(only["a"]),
        fired["b"] - len(only["b"]),
    )


def _mutual(
    index: int, partner: int, value: float | None, back: Sequence[int], least: float
) -> bool:
    return partner >= 0 and value is not None and value >= least and back[partner] == index


def _pair(
    found: Mapping[str, Any],
    a: int,
    b: int,
    cosine: float | None,
    correlation: float | None,
    by: str,
) -> MatchRow:
    firings = found["a"]["firings"][a], found["b"]["firings"][b]
    return MatchRow(a, b, cosine, correlation, by, *firings)


def _alone(side: Mapping[str, Any], name: str) -> list[MatchRow]:
    rows: list[MatchRow] = []
    for index, count in enumerate(side["firings"]):
        cosine, correlation = side["cosine"][index], side["correlation"][index]
        near = cosine is not None and cosine >= COSINE_FROM
        alike = correlation is not None and correlation >= CORRELATION_FROM
        if count and not near and not alike:
            a, b = (index, None) if name == "a" else (None, index)
            counts = (count, None) if name == "a" else (None, count)
            rows.append(MatchRow(a, b, cosine, correlation, "", *counts))
    rows.sort(key=lambda row: (-((row.firings_a or 0) + (row.firings_b or 0)), row.a or row.b or 0))
    return rows


def match_sentence(found: Mapping[str, Any], told: Sides) -> str:
    """How many belong together, in words."""
    on = (
        "the feature sets of both"
        if found.get("read") == "stores"
        else "held-out text encoded by both"
    )
    return (
        f"{len(told.pairs):,} matched pairs among {told.fired_a:,} features of A and "
        f"{told.fired_b:,} of B that fired on {found['tokens']:,} tokens of {on}; "
        f"{len(told.only_a):,} are only in A, {len(told.only_b):,} only in B."
    )


def write_matches(found: Mapping[str, Any], path: Path) -> int:
    """Write pairs and lonely features as CSV; returns how many rows."""
    told = sides(found)
    written = 0
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as f:
        out = csv.writer(f)
        out.writerow(("kind", *COLUMNS))
        for kind, rows in zip(SHOWN, told[:3], strict=True):
            for row in rows:
                out.writerow((kind, *("" if value is None else value for value in row)))
                written += 1
    return written
