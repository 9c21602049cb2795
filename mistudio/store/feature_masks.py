"""Which features satisfy a condition of the table's filter, from a set's sort keys."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from mistudio.core.errors import InvalidInput
from mistudio.store.feature_conditions import (
    ANY_COLOUR,
    COLOURS,
    Among,
    Condition,
    HasColour,
    HasFlag,
    InList,
    LabelState,
    Matches,
    NumberRange,
)
from mistudio.store.feature_keys import (
    NUMBERS,
    STATISTIC_TEXTS,
    WRITTEN_TEXTS,
    FeatureKeys,
    Mask,
    written,
)


def satisfying(keys: FeatureKeys, condition: Condition) -> Mask:
    """Where a condition holds. Raises `InvalidInput` for a bad expression or column."""
    if isinstance(condition, NumberRange):
        return _in_range(keys, condition)
    if isinstance(condition, HasFlag):
        flags = keys.flags()
        if condition.flag not in flags:
            raise InvalidInput(f"There is no flag {condition.flag!r}.")
        return flags[condition.flag] == condition.on
    if isinstance(condition, LabelState):
        return keys.label_states().get(condition.state, np.zeros(len(keys), bool))
    if isinstance(condition, HasColour):
        return _has_colour(keys, condition.colour) == condition.on
    if isinstance(condition, InList):
        return _in_list(keys, condition.list_id) == condition.on
    if isinstance(condition, Among):
        return keys.mask_of(condition.features)
    return _matching(keys, condition)


def _in_range(keys: FeatureKeys, wanted: NumberRange) -> Mask:
    if wanted.column not in NUMBERS:
        raise InvalidInput(f"There is no column of numbers {wanted.column!r}.")
    values = keys.values(wanted.column)
    if wanted.column == "lists":
        values = np.nan_to_num(values)
    mask = ~np.isnan(values)
    if wanted.low is not None:
        mask &= values >= wanted.low
    if wanted.high is not None:
        mask &= values <= wanted.high
    return mask


def _has_colour(keys: FeatureKeys, colour: str) -> Mask:
    if colour not in (ANY_COLOUR, *COLOURS):
        raise InvalidInput(f"There is no colour {colour!r}; there are {', '.join(COLOURS)}.")
    sql = "SELECT feature_index FROM features WHERE sae_id = ? AND colour"
    rows = (
        keys.db.execute(f"{sql} IS NOT NULL", [keys.feature_set.sae_id]).fetchall()
        if colour == ANY_COLOUR
        else keys.db.execute(f"{sql} = ?", [keys.feature_set.sae_id, colour]).fetchall()
    )
    return keys.mask_of([row[0] for row in rows])


def _in_list(keys: FeatureKeys, list_id: str) -> Mask:
    rows = keys.db.execute(
        "SELECT feature_index FROM feature_list_items WHERE list_id = ? AND sae_id = ?",
        [list_id, keys.feature_set.sae_id],
    ).fetchall()
    return keys.mask_of([row[0] for row in rows])


def _matching(keys: FeatureKeys, wanted: Matches) -> Mask:
    if wanted.column in STATISTIC_TEXTS:
        column = STATISTIC_TEXTS[wanted.column]
        sql = f"SELECT feature_index, {column} FROM feature_statistics WHERE feature_set_id = ?"
        scope = keys.feature_set.id
    elif wanted.column in WRITTEN_TEXTS:
        column = WRITTEN_TEXTS[wanted.column]
        sql, scope = written(column), keys.feature_set.sae_id
    else:
        raise InvalidInput(f"There is no column of text {wanted.column!r}.")
    rows = keys.db.execute(f"{sql} AND {column} <> ''", [scope]).fetchall()
    if not rows:
        matching([""], wanted.pattern)  # says what is wrong with it
        return np.zeros(len(keys), bool)
    features, texts = zip(*rows, strict=True)
    return keys.mask_of(np.array(features, np.int64)[matching(texts, wanted.pattern)])


def matching(texts: Sequence[str], pattern: str) -> Mask:
    """Which texts hold a regular expression, whatever the case, in time linear in their length.

    Raises `InvalidInput` for an expression that is none, or one that looks around or back.
    """
    pa: Any = importlib.import_module("pyarrow")
    pc: Any = importlib.import_module("pyarrow.compute")
    encoded = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    # from its parts, as pyarrow loads pandas to look at a list
    array = pa.LargeStringArray.from_buffers(
        len(encoded), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))
    )
    options = pc.MatchSubstringOptions(pattern, ignore_case=True)
    try:
        found = pc.call_function("match_substring_regex", [array], options)
    except pa.ArrowInvalid as error:
        said = re.sub(r"^Invalid regular expression: ", "", str(error)).strip()
        raise InvalidInput(f"{pattern!r} is no regular expression: {said}.") from error
    return np.array(found.to_pylist(), bool)


def combined(masks: Sequence[Mask], size: int, *, any_of: bool) -> Mask:
    """All of the masks, or at least one of them; without masks all places."""
    if not masks:
        return np.ones(size, bool)
    found = np.full(size, not any_of)
    for mask in masks:
        found = found | mask if any_of else found & mask
    return found
