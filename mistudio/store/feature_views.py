"""Saved views of the feature table: a name for columns, order and filters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from mistudio.core.errors import InvalidInput, NotFound
from mistudio.core.ids import new_id, now
from mistudio.store import feature_lists
from mistudio.store.connection import Db
from mistudio.store.feature_conditions import Condition, InList, from_json, to_json
from mistudio.store.feature_keys import SORTABLE
from mistudio.store.features import FeatureFilter
from mistudio.store.removed import Removed, remove

_LONGEST_NAME = 255


class FeatureView(NamedTuple):
    """A saved view; `config` are plain JSON values of the table."""

    id: str
    name: str
    config: dict[str, Any]


def views(db: Db) -> list[FeatureView]:
    """All views by name."""
    rows = db.execute(
        "SELECT id, name, config FROM feature_views ORDER BY name COLLATE NOCASE"
    ).fetchall()
    return [FeatureView(row[0], row[1], json.loads(row[2])) for row in rows]


class ViewedFeatures(NamedTuple):
    """What a view narrows and orders a list of features to; `gone` names deleted lists."""

    wanted: FeatureFilter
    sort: str
    descending: bool
    gone: list[str]


def named(db: Db, wanted: str) -> FeatureView:
    """The view with this id or name; raises `NotFound`."""
    for view in views(db):
        if wanted in (view.id, view.name):
            return view
    raise NotFound(f"There is no view {wanted!r}. `mistudio features views list` shows them.")


def using_list(db: Db, list_id: str) -> list[str]:
    """Names of the views that narrow by a list."""
    return [
        view.name
        for view in views(db)
        if any(isinstance(c, InList) and c.list_id == list_id for c in _conditions(view.config))
    ]


def without_gone(db: Db, config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A view without conditions on lists that were deleted, and what those lists were called."""
    there = {found.id for found in feature_lists.lists(db)}
    called = _mapping(config.get("lists"))
    kept: list[Condition] = []
    gone: list[str] = []
    for condition in _conditions(config):
        if isinstance(condition, InList) and condition.list_id not in there:
            gone.append(str(called.get(condition.list_id, "a list without a known name")))
        else:
            kept.append(condition)
    if not gone:
        return dict(config), []
    filters = _mapping(config.get("filters"))
    chips = {**_mapping(filters.get("chips")), "conditions": to_json(kept)}
    return {**config, "filters": {**filters, "chips": chips}}, gone


def gone_sentence(name: str, gone: list[str]) -> str:
    """What is said of a view whose lists were deleted."""
    lists = ", ".join(f"“{one}”" for one in gone)
    verb = "list is" if len(gone) == 1 else "lists are"
    return f"The view “{name}” narrows by {lists}: that {verb} gone, and the filter left out."


def viewed(db: Db, view: FeatureView) -> ViewedFeatures:
    """The filter and the order of a view, as the window edits them."""
    config, gone = without_gone(db, view.config)
    filters = _mapping(config.get("filters"))
    sort = config.get("sort")
    wanted = FeatureFilter(
        live_only=bool(filters.get("live_only", True)),
        favorites_only=bool(filters.get("favorites_only")),
        show_hidden=bool(filters.get("show_hidden")),
        min_frequency=_share(filters.get("low")),
        max_frequency=_share(filters.get("high")),
        conditions=_conditions(config),
        any_of=bool(_mapping(filters.get("chips")).get("any_of")),
    )
    known = sort if isinstance(sort, str) and sort in SORTABLE else "frequency"
    return ViewedFeatures(wanted, known, bool(config.get("descending", True)), gone)


def config_of(wanted: FeatureFilter, sort: str, descending: bool) -> dict[str, Any]:
    """A view of the usual columns with this filter and order."""
    percent = {
        name: "" if share is None else f"{100 * share:.6g}"
        for name, share in (("low", wanted.min_frequency), ("high", wanted.max_frequency))
    }
    filters = {
        "live_only": wanted.live_only,
        "favorites_only": wanted.favorites_only,
        "show_hidden": wanted.show_hidden,
        **percent,
        "chips": {"conditions": to_json(wanted.conditions), "any_of": wanted.any_of},
    }
    return {"sort": sort, "descending": descending, "filters": filters}


def _conditions(config: Mapping[str, Any]) -> tuple[Condition, ...]:
    return from_json(_mapping(_mapping(config.get("filters")).get("chips")).get("conditions"))


def _mapping(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _share(percent: Any) -> float | None:
    try:
        return float(percent) / 100
    except (TypeError, ValueError):
        return None


def save(db: Db, name: str, config: dict[str, Any]) -> str:
    """Keep a view, in place of one of the same name; returns its id. Raises `InvalidInput`."""
    name, stamp = _checked(name), now()
    used = {c.list_id for c in _conditions(config) if isinstance(c, InList)}
    names = {found.id: found.name for found in feature_lists.lists(db) if found.id in used}
    if names:  # so that a list that is deleted later can still be named
        config = {**config, "lists": names}
    with db.atomic():
        db.execute(
            "INSERT INTO feature_views (id, name, config, created_at, updated_at) "
            "VALUES (?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET "
            "config = excluded.config, updated_at = excluded.updated_at",
            [new_id("feature_view"), name, json.dumps(config, ensure_ascii=False), stamp, stamp],
        )
    return db.execute("SELECT id FROM feature_views WHERE name = ?", [name]).fetchone()[0]


def rename(db: Db, view_id: str, name: str) -> None:
    """Give a view another name; raises `InvalidInput` if it is taken or no name."""
    name = _checked(name)
    if any(view.name == name and view.id != view_id for view in views(db)):
        raise InvalidInput(f"There is a view {name!r} already.")
    with db.atomic():
        db.execute(
            "UPDATE feature_views SET name = ?, updated_at = ? WHERE id = ?",
            [name, now(), view_id],
        )


def delete(db: Db, view_id: str) -> Removed:
    """Forget a view. What is returned can be put back."""
    return remove(db, [("feature_views", "id", view_id)])


def _checked(name: str) -> str:
    name = " ".join(name.split())
    if not 1 <= len(name) <= _LONGEST_NAME:
        raise InvalidInput(f"A view's name has 1 to {_LONGEST_NAME} characters.")
    return name
