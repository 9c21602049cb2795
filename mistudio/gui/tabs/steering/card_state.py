"""A card as it is kept: its edit, whose features name their SAE, and whether it is on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from mistudio.core.steering_spec import Edit, Feature, Source


class CardState(NamedTuple):
    """A card as it is kept and loaded again; its features name their SAE."""

    edit: Edit
    on: bool = True


def with_sae(edit: Edit, sae: str, unit: str = "") -> Edit:
    """An edit whose features name their SAE, and with its own unit."""

    def put(source: Any) -> Source | Any:
        return (
            replace(source, sae=sae) if isinstance(source, Feature) and not source.sae else source
        )

    condition = edit.condition
    return replace(
        edit,
        source=put(edit.source),
        target=put(edit.target),
        condition=replace(condition, feature=put(condition.feature)) if condition else None,
        unit=edit.unit or ("" if unit == "max" else unit),
    )
