"""The nearest decoder row of each feature, as columns of the feature table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mistudio.core.ids import now
from mistudio.store.connection import Db
from mistudio.store.feature_keys import keep_first

DUPLICATE = "duplicate"


class Nearest(NamedTuple):
    """A feature, the one whose decoder row is nearest (None: none) and their cosine."""

    feature: int
    nearest: int | None
    cosine: float | None
    is_duplicate: bool


def lacks_nearest(db: Db, feature_set_id: str) -> bool:
    """Whether a feature set was found before nearest rows were kept."""
    found = db.execute(
        "SELECT COUNT(*), COUNT(nearest_cosine) FROM feature_statistics WHERE feature_set_id = ?",
        [feature_set_id],
    ).fetchone()
    return found[0] > 1 and not found[1]


def write_nearest(db: Db, feature_set_id: str, found: Sequence[Nearest]) -> None:
    """Write both columns, and the flag "duplicate" behind the other flags."""
    stamp = now()
    values = [
        [line.nearest, line.cosine, line.is_duplicate, stamp, feature_set_id, line.feature]
        for line in found
    ]
    with db.atomic():
        db.conn.executemany(
            "UPDATE feature_statistics SET nearest = ?, nearest_cosine = ?, "
            f"flags = CASE WHEN ? AND flags NOT LIKE '%{DUPLICATE}%' "
            f"THEN trim(flags || ', {DUPLICATE}', ', ') ELSE flags END, updated_at = ? "
            "WHERE feature_set_id = ? AND feature_index = ?",
            values,
        )
    keep_first(db, feature_set_id)


def with_flag(flags: str) -> str:
    """The flags of a feature with "duplicate" behind them."""
    return f"{flags}, {DUPLICATE}" if flags else DUPLICATE
