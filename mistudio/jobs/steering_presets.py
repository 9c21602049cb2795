"""Steering presets: settings under a name, and what of the library they need."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from mistudio.core.config import from_dict
from mistudio.core.configs import SteerConfig
from mistudio.core.errors import InvalidInput, NotFound
from mistudio.jobs import templates
from mistudio.jobs.runner import Studio
from mistudio.store.records import SaeRow, TemplateRow
from mistudio.store.tables import SAES

KIND = "steering"
_OTHER_SAE = re.compile(r"^([^#@=?>\s]+)#\d")


@dataclass(frozen=True)
class Preset:
    """A preset and what it steers."""

    row: TemplateRow
    config: SteerConfig
    saes: tuple[SaeRow, ...]
    """those of its SAEs that are in the library"""
    missing: tuple[str, ...]
    """ids or names of those that are not"""

    @property
    def is_available(self) -> bool:
        return not self.missing

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(sorted({sae.layer for sae in self.saes if sae.layer is not None}))


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

    Raises `InvalidInput` for settings without a feature, or a name that cannot be.
    """
    if not config.feature:
        raise InvalidInput("A preset needs a feature to steer; add one.")
    return templates.save(
        studio, KIND, config, name.strip() or automatic_name(studio, config), description
    )


def automatic_name(studio: Studio, config: SteerConfig) -> str:
    """`steering_{n}features_layer{L}_{HHMM}`, or `…_layers{a}-{b}_…` over several layers."""
    saes, _ = _saes(studio, config)
    layers = sorted({sae.layer for sae in saes if sae.layer is not None})
    place = f"layers{layers[0]}-{layers[-1]}" if len(layers) > 1 else f"layer{(layers or ['x'])[0]}"
    clock = datetime.now().astimezone().strftime("%H%M")
    return f"steering_{len(config.feature)}features_{place}_{clock}"


def sae_names(config: SteerConfig) -> list[str]:
    """Every SAE that settings name, once."""
    found = [config.sae] if config.sae else []
    found += [m[1] for text in config.feature if (m := _OTHER_SAE.match(text.strip()))]
    return list(dict.fromkeys(found))


def _saes(studio: Studio, config: SteerConfig) -> tuple[Sequence[SaeRow], Sequence[str]]:
    known, missing = list[SaeRow](), list[str]()
    for name in sae_names(config):
        try:
            known.append(SAES.named(studio.db(), name))
        except NotFound:
            missing.append(name)
    return known, missing


def _preset(studio: Studio, row: TemplateRow) -> Preset:
    config = from_dict(SteerConfig, row.config)
    known, missing = _saes(studio, config)
    return Preset(row, config, tuple(known), tuple(missing))
