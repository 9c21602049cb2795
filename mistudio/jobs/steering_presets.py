"""Steering presets: settings under a name, and what of the library they need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from mistudio.core.config import from_dict, to_dict
from mistudio.core.configs import SteerConfig
from mistudio.core.errors import InvalidInput, NotFound, StudioError
from mistudio.core.steering_shown import edits_of
from mistudio.core.steering_spec import Spec
from mistudio.jobs import templates, vector_library
from mistudio.jobs.runner import Studio
from mistudio.store.records import SaeRow, SteeringVectorRow, TemplateRow
from mistudio.store.tables import SAES

KIND = "steering"


@dataclass(frozen=True)
class Preset:
    """A preset and what it steers."""

    row: TemplateRow
    config: SteerConfig
    saes: tuple[SaeRow, ...]
    """those of its SAEs that are in the library"""
    missing: tuple[str, ...]
    """ids or names of SAEs and vectors that are not"""
    vectors: tuple[SteeringVectorRow, ...] = ()
    """those of its vectors that are in the library"""

    @property
    def is_available(self) -> bool:
        return not self.missing

    @property
    def layers(self) -> tuple[int, ...]:
        """Every layer that is steered, as far as SAEs and vectors say it."""
        return _layers(self.saes, self.vectors)


def presets(studio: Studio) -> list[Preset]:
    """Every preset, stars first, then the newest."""
    return [_preset(studio, row) for row in templates.templates(studio, KIND)]


def named(studio: Studio, wanted: str) -> Preset:
    """The preset with this id or name; raises `NotFound`."""
    for row in templates.templates(studio, KIND):
        if wanted in (row.id, row.name):
            return _preset(studio, row)
    raise NotFound(f"There is no preset {wanted!r}. `mistudio steer presets list` shows them.")


def loadable(studio: Studio, wanted: str) -> SteerConfig:
    """The settings of a preset; raises `NotFound` for one whose SAE is not in the library."""
    found = named(studio, wanted)
    if found.missing:
        raise NotFound(
            f"Preset {found.row.name!r} needs {', '.join(map(repr, found.missing))}, which is not "
            "in the library."
        )
    return found.config


def save(studio: Studio, config: SteerConfig, name: str = "", description: str = "") -> TemplateRow:
    """Keep settings; "" makes a name of the number of features, the layers and the time of day.

    Raises `InvalidInput` for settings that steer with nothing, or a name that cannot be.
    """
    if not (config.feature or config.edit or config.spec):
        raise InvalidInput("A preset needs a feature or a vector to steer with; add one.")
    return templates.save(
        studio, KIND, config, name.strip() or automatic_name(studio, config), description
    )


def automatic_name(studio: Studio, config: SteerConfig) -> str:
    """`steering_{n}features_layer{L}_{HHMM}`, or `…_layers{a}-{b}_…` over several layers."""
    saes, vectors, _ = _sources(studio, config)
    layers = _layers(saes, vectors)
    place = (
        f"layers{layers[0]}-{layers[-1]}" if len(layers) > 1 else f"layer{(layers or ('x',))[0]}"
    )
    clock = datetime.now().astimezone().strftime("%H%M")
    return f"steering_{len(edits_of(to_dict(config)))}features_{place}_{clock}"


def sae_names(config: SteerConfig) -> list[str]:
    """Every SAE that settings name, once."""
    spec = Spec(tuple(edits_of(to_dict(config))))
    named = {feature.sae for feature in spec.features()}
    mine = config.sae and ("" in named or not spec.directions())
    return list(dict.fromkeys([*([config.sae] if mine else []), *sorted(named - {""})]))


def _layers(saes: Sequence[SaeRow], vectors: Sequence[SteeringVectorRow]) -> tuple[int, ...]:
    found = {sae.layer for sae in saes if sae.layer is not None}
    return tuple(sorted(found | {vector.layer for vector in vectors}))


def _sources(
    studio: Studio, config: SteerConfig
) -> tuple[list[SaeRow], list[SteeringVectorRow], list[str]]:
    """SAEs and vectors that settings name, and the names of those that are not there."""
    saes, vectors, missing = list[SaeRow](), list[SteeringVectorRow](), list[str]()
    for name in sae_names(config):
        try:
            saes.append(SAES.named(studio.db(), name))
        except NotFound:
            missing.append(name)
    for direction in Spec(tuple(edits_of(to_dict(config)))).directions():
        try:
            vectors.append(vector_library.find_one(studio, direction.name))
        except StudioError:
            missing.append(f"@{direction.name}")
    return saes, vectors, missing


def _preset(studio: Studio, row: TemplateRow) -> Preset:
    config = from_dict(SteerConfig, row.config)
    saes, vectors, missing = _sources(studio, config)
    return Preset(row, config, tuple(saes), tuple(missing), tuple(vectors))
