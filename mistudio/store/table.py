"""Typed reading and writing of one table: rows go in and come out as their dataclass."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, TypeVar

from mistudio.core.errors import InvalidInput, NotFound
from mistudio.core.ids import new_id, now
from mistudio.store.connection import Db
from mistudio.store.records import Row

RowT = TypeVar("RowT", bound=Row)


class Table(Generic[RowT]):
    """Access to the table `name`, whose rows are `record`; `noun` names a row in sentences."""

    def __init__(self, name: str, record: type[RowT], noun: str, id_kind: str) -> None:
        self.name = name
        self.record = record
        self.noun = noun
        self.id_kind = id_kind
        self._fields = [f.name for f in dataclasses.fields(record)]

    @cached_property
    def _hints(self) -> dict[str, Any]:
        """The type of each column; not asked for where a table is only named."""
        return typing.get_type_hints(self.record)

    @cached_property
    def _json(self) -> set[str]:
        return {name for name in self._fields if "dict" in str(self._hints[name])}

    @cached_property
    def _bool(self) -> set[str]:
        return {name for name in self._fields if self._hints[name] is bool}

    def insert(self, db: Db, **values: Any) -> RowT:
        """Add a row with a fresh id (unless given) and return it."""
        stamp = now()
        row = {"id": new_id(self.id_kind), "created_at": stamp, "updated_at": stamp, **values}
        built = self.record(**row)
        encoded = {f: self._encode(f, getattr(built, f)) for f in self._fields}
        columns = ", ".join(encoded)
        marks = ", ".join("?" for _ in encoded)
        with db.atomic():
            db.execute(
                f"INSERT INTO {self.name} ({columns}) VALUES ({marks})", list(encoded.values())
            )
        return built

    def find(self, db: Db, row_id: str) -> RowT | None:
        """The row with this id, or None."""
        found = self.select(db, "id = ?", [row_id], limit=1)
        return found[0] if found else None

    def get(self, db: Db, row_id: str) -> RowT:
        """The row with this id; raises `NotFound`."""
        row = self.find(db, row_id)
        if row is None:
            raise NotFound(f"There is no {self.noun} {row_id!r}.")
        return row

    def select(
        self,
        db: Db,
        where: str = "1",
        parameters: Sequence[Any] = (),
        *,
        order: str = "created_at DESC",
        limit: int | None = None,
    ) -> list[RowT]:
        """Rows that satisfy an SQL condition; newest first unless told."""
        sql = f"SELECT {', '.join(self._fields)} FROM {self.name} WHERE {where} ORDER BY {order}"
        if limit is not None:
            sql += f" LIMIT {int(limit)}"
        return [self._decode(row) for row in db.query(sql, list(parameters))]

    def update(self, db: Db, row_id: str, **values: Any) -> None:
        """Change columns of one row; `updated_at` follows."""
        encoded = {f: self._encode(f, v) for f, v in values.items()}
        encoded["updated_at"] = now()
        assignments = ", ".join(f"{f} = ?" for f in encoded)
        with db.atomic():
            db.execute(
                f"UPDATE {self.name} SET {assignments} WHERE id = ?", [*encoded.values(), row_id]
            )

    def delete(self, db: Db, row_id: str) -> None:
        """Remove one row; what depends on it follows the schema's rules."""
        with db.atomic():
            db.execute(f"DELETE FROM {self.name} WHERE id = ?", [row_id])

    def named(self, db: Db, wanted: str) -> RowT:
        """The row with this id, this exact name (newest wins), or `last`; raises `NotFound`."""
        if wanted == "last":
            found = self.select(db, "status NOT IN ('error')" if "status" in self._fields else "1")
        else:
            found = self.select(db, "id = ?", [wanted])
            if not found and "name" in self._fields:
                found = self.select(db, "name = ?", [wanted])
        if not found:
            if wanted == "last":
                raise NotFound(f"There is no {self.noun} yet.")
            raise NotFound(
                f"There is no {self.noun} {wanted!r}. The list command shows what there is."
            )
        return found[0]

    def only(self, db: Db, wanted: str) -> RowT:
        """As `named`, but raises `InvalidInput` if several rows have the name."""
        row = self.named(db, wanted)
        if wanted == "last" or "name" not in self._fields or self.find(db, wanted):
            return row
        sql = f"SELECT id FROM {self.name} WHERE name = ? ORDER BY created_at"
        ids = [found["id"] for found in db.query(sql, [wanted])]
        if len(ids) > 1:
            raise InvalidInput(
                f"{len(ids):,} are called {wanted!r}. Give the id of one: {', '.join(ids[:5])}."
            )
        return row

    def _encode(self, name: str, value: Any) -> Any:
        if name in self._json and value is not None:
            return json.dumps(value, ensure_ascii=False)
        if isinstance(value, bool):
            return int(value)
        return value

    def _decode(self, row: Mapping[str, Any]) -> RowT:
        values = dict(row)
        for name in self._json:
            if values[name] is not None:
                values[name] = json.loads(values[name])
        for name in self._bool:
            values[name] = bool(values[name])
        return self.record(**values)
