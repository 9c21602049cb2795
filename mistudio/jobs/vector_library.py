"""The library of raw directions: adding, finding, renaming, deleting; the row names the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mistudio.core.errors import InvalidInput, NotFound
from mistudio.core.ids import new_id, now
from mistudio.jobs.runner import Studio
from mistudio.store.records import ModelRow, SteeringVectorRow
from mistudio.store.tables import STEERING_VECTORS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LONGEST_NAME = 500


class NewVector(NamedTuple):
    """A direction that is to be added, with where it acts and what is known of it."""

    v_D: NDArray[np.floating]
    name: str
    layer: int
    hook: str
    report: Mapping[str, Any]


def add(
    studio: Studio,
    model: ModelRow,
    vectors: Sequence[NewVector],
    method: str,
    *,
    model_hash: str = "",
    prompts_hash: str | None = None,
    sae_id: str | None = None,
    feature: int | None = None,
) -> list[SteeringVectorRow]:
    """Write vectors and their rows, all or none; they are one group."""
    import numpy as np

    from mistudio.ml.steering.vector_file import write_vector

    group, stamp = new_id("vector_group"), now()
    ids = [new_id("steering_vector") for _ in vectors]
    rows: list[SteeringVectorRow] = []
    try:
        for vector_id, new in zip(ids, vectors, strict=True):
            norm = float(np.linalg.norm(new.v_D.astype(np.float64)))
            told = {
                "name": new.name,
                "model": model.name,
                "model_id": model.id,
                "model_hash": model_hash or None,
                "layer": new.layer,
                "hook": new.hook,
                "method": method,
                "norm": norm,
                "prompts_sha256": prompts_hash,
                "created": stamp,
            }
            write_vector(studio.paths.vector(vector_id), new.v_D, told)
        with studio.db().atomic():
            for vector_id, new in zip(ids, vectors, strict=True):
                path = studio.paths.vector(vector_id)
                rows.append(
                    STEERING_VECTORS.insert(
                        studio.db(),
                        id=vector_id,
                        name=new.name,
                        group_id=group,
                        model_id=model.id,
                        model_name=model.name,
                        model_hash=model_hash or None,
                        layer=new.layer,
                        hook=new.hook,
                        method=method,
                        width=int(new.v_D.size),
                        norm=float(np.linalg.norm(new.v_D.astype(np.float64))),
                        sae_id=sae_id,
                        feature_index=feature,
                        report=dict(new.report),
                        path=studio.paths.relative(path),
                        size_bytes=path.stat().st_size,
                    )
                )
    except BaseException:
        for vector_id in ids:
            studio.paths.vector(vector_id).unlink(missing_ok=True)
        raise
    return rows


def find(studio: Studio, wanted: str) -> list[SteeringVectorRow]:
    """The vector with this id, else all of the newest group with this name; raises `NotFound`."""
    if found := STEERING_VECTORS.find(studio.db(), wanted):
        return [found]
    named = STEERING_VECTORS.named(studio.db(), wanted)
    return STEERING_VECTORS.select(
        studio.db(), "group_id = ?", [named.group_id], order="layer, created_at"
    )


def find_one(studio: Studio, wanted: str) -> SteeringVectorRow:
    """As `find`, but raises `InvalidInput` if several layers have the name."""
    found = find(studio, wanted)
    if len(found) > 1:
        ids = ", ".join(f"{row.id} (layer {row.layer})" for row in found[:4])
        raise InvalidInput(f"{wanted!r} has {len(found):,} layers. Give the id of one: {ids}.")
    return found[0]


def read(studio: Studio, row: SteeringVectorRow) -> NDArray[np.float32]:
    """The vector [D]; raises `NotFound` or `Damaged`."""
    from mistudio.ml.steering.vector_file import read_vector

    v_D = read_vector(studio.paths.absolute(row.path))
    if v_D.size != row.width:
        raise NotFound(f"The file of {row.name!r} holds another vector; make or import it again.")
    return v_D


def change(
    studio: Studio, vector_id: str, *, name: str | None = None, notes: str | None = None
) -> None:
    """Rename a vector or write its notes; raises `NotFound` or `InvalidInput`."""
    STEERING_VECTORS.get(studio.db(), vector_id)
    values: dict[str, Any] = {}
    if name is not None:
        values["name"] = " ".join(name.split())
        if not 1 <= len(values["name"]) <= _LONGEST_NAME:
            raise InvalidInput(f"A name has 1 to {_LONGEST_NAME} characters.")
    if notes is not None:
        values["notes"] = notes.strip() or None
    if values:
        STEERING_VECTORS.update(studio.db(), vector_id, **values)


def delete(studio: Studio, vector_id: str) -> None:
    """Delete a vector, its row first; raises `NotFound`."""
    row = STEERING_VECTORS.get(studio.db(), vector_id)
    STEERING_VECTORS.delete(studio.db(), vector_id)
    studio.paths.absolute(row.path).unlink(missing_ok=True)
