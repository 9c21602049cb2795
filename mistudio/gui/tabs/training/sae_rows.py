"""The rows of the SAE library: order, search and columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mistudio.core.sae_figures import is_number
from mistudio.core.units import EM_DASH, format_bytes, format_count
from mistudio.gui.tabs.training.fields import ARCHITECTURE_TEXTS, ENCODER_TEXTS, hooks_text
from mistudio.gui.tabs.training.figures import short_figure
from mistudio.gui.tabs.training.series import MANY_DEAD
from mistudio.gui.widgets.row_table import Column
from mistudio.store.records import SaeRow
from mistudio.store.tables import SAES


def _measured(key: str) -> str:
    """A figure of the evaluation; a NaN in it is no JSON to SQLite before 3.42."""
    return f"CASE WHEN json_valid(evaluation) THEN json_extract(evaluation, '$.{key}') END"


SORTS = {
    "star": "is_favorite",
    "sets": "(SELECT count(*) FROM feature_sets WHERE sae_id = saes.id)",
    "name": "lower(name)",
    "origin": "origin",
    "architecture": "architecture || encoder_type",
    "model": "lower(model_name)",
    "hook": "layer * 100 + length(hook_in) + (hook_in IS NOT hook_out) * 50",
    "latents": "n_latents",
    "l0": _measured("l0"),
    "ev": _measured("ev"),
    "ce": _measured("ce_loss_score"),
    "dead": _measured("dead"),
    "size": "size_bytes",
    "created": "created_at",
}
_SEARCHED = (
    "lower(name || ' ' || origin || ' ' || architecture || ' ' || replace(encoder_type, '_', ' ') "
    "|| ' ' || ifnull(model_name, ''))"
)


def sae_ids(db: Any, words: str, sort: str, descending: bool) -> list[str]:
    """Ids of the SAEs that contain every word; those not measured come last either way."""
    key = SORTS[sort]
    where = " AND ".join(f"instr({_SEARCHED}, ?)" for _ in words.split()) or "1"
    sql = (
        f"SELECT id FROM saes WHERE {where} "
        f"ORDER BY {key} IS NULL, {key} {'DESC' if descending else 'ASC'}, created_at DESC"
    )
    return [row["id"] for row in db.query(sql, words.lower().split())]


@dataclass(frozen=True, kw_only=True)
class LibrarySae(SaeRow):
    """An SAE with how many feature sets were made of it."""

    feature_sets: int = 0


def sae_rows(db: Any, ids: np.ndarray | Sequence[str]) -> list[LibrarySae | None]:
    """The rows of ids, in that order; None for one that is gone."""
    wanted = [str(one) for one in ids]
    marks = ", ".join("?" for _ in wanted)
    counted = db.query(
        f"SELECT sae_id, count(*) AS n FROM feature_sets WHERE sae_id IN ({marks}) GROUP BY sae_id",
        wanted,
    )
    sets = {row["sae_id"]: int(row["n"]) for row in counted}
    found = {
        row.id: LibrarySae(**vars(row), feature_sets=sets.get(row.id, 0))
        for row in SAES.select(db, f"id IN ({marks})", wanted)
    }
    return [found.get(one) for one in wanted]


def place_text(row: SaeRow) -> str:
    """Layer and hook or hooks, such as "L9.resid_post" or "L9.mlp_in → mlp_out"."""
    if row.layer is None:
        return EM_DASH
    return f"L{row.layer}.{hooks_text(row.hook_in, row.hook_out)}"


def _kind(row: SaeRow) -> str:
    name = str((row.config or {}).get("architecture") or row.architecture)
    text = ARCHITECTURE_TEXTS.get(name, name)
    if row.encoder_type == "sae":
        return text
    return f"{ENCODER_TEXTS.get(row.encoder_type, row.encoder_type)} · {text}"


def _short_place(row: SaeRow) -> str:
    return place_text(row).replace(" → ", "→")


def _alarm(row: SaeRow) -> str:
    """Red where so many latents are dead that it asks for attention."""
    dead = (row.evaluation or {}).get("dead")
    return "red" if is_number(dead) and 100 * float(dead or 0) > MANY_DEAD else ""


COLUMNS = (
    Column(
        "★",
        lambda r: "★" if r.is_favorite else "☆",
        "star",
        44,
        role=lambda r: "yellow" if r.is_favorite else "muted",
        tip=lambda r: "Take the star away" if r.is_favorite else "Star it",
        help="Starred SAEs",
    ),
    Column("Name", lambda r: r.name, "name", tip=lambda r: f"{r.name} · {r.id}"),
    Column("Origin", lambda r: r.origin, "origin", 112),
    Column("Architecture", _kind, "architecture", 136, tip=_kind),
    Column("Model", lambda r: r.model_name or EM_DASH, "model", 104, tip=lambda r: r.model_name),
    Column("Layer.hook", _short_place, "hook", 160, tip=place_text),
    Column(
        "Input × latents",
        lambda r: f"{format_count(r.d_in)} × {format_count(r.n_latents)}",
        "latents",
        160,
        numeric=True,
    ),
    Column("L0", lambda r: short_figure(r.evaluation, "l0"), "l0", 76, True, "blue"),
    Column("EV", lambda r: short_figure(r.evaluation, "ev"), "ev", 90, True, "emerald"),
    Column("CE score", lambda r: short_figure(r.evaluation, "ce_loss_score"), "ce", 110, True),
    Column("Dead", lambda r: short_figure(r.evaluation, "dead"), "dead", 94, True, _alarm),
    Column(
        "Sets",
        lambda r: format_count(r.feature_sets),
        "sets",
        64,
        True,
        help="Feature sets that were made of it",
    ),
    Column("Size", lambda r: format_bytes(r.size_bytes), "size", 98, True),
)
