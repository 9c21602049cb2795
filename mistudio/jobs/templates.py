"""Templates: named settings of a form, kept in the database and passed on as files."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from mistudio.core.atomic import write_json
from mistudio.core.config import Config, from_dict, to_dict, violations
from mistudio.core.configs import SteerConfig
from mistudio.core.dataset_configs import TokenizeConfig, name_problem
from mistudio.core.errors import InvalidInput, StudioError, from_os_error
from mistudio.core.ids import now
from mistudio.core.model_configs import ExtractConfig, chosen_layers
from mistudio.core.sweep_configs import SweepConfig
from mistudio.core.training_configs import TrainConfig
from mistudio.core.training_rules import DENSE_FAMILY
from mistudio.jobs.runner import Studio
from mistudio.jobs.shipped_templates import SHIPPED, Scaling, scaling_of
from mistudio.store.records import TemplateRow
from mistudio.store.tables import DATASETS, MODELS, SAES, TEMPLATES, TOKENIZATIONS

CONFIGS: dict[str, type[Config]] = {
    "training": TrainConfig,
    "extraction": ExtractConfig,
    "tokenization": TokenizeConfig,
    "steering": SteerConfig,
}
FILE_KEYS = {
    "training": "training_templates",
    "extraction": "extraction_templates",
    "tokenization": "tokenization_templates",
    "steering": "steering_presets",
}
_LONGEST_NAME = 255
_LONGEST_DESCRIPTION = 500
_VERSION = "1.0"


@dataclass(frozen=True)
class Loaded:
    """A template as a form takes it."""

    config: Config
    warnings: list[str] = field(default_factory=list[str])
    """sentences: which model or dataset is gone and was cleared"""
    scaling: Scaling = field(default_factory=Scaling)
    """what is left to the model"""


@dataclass(frozen=True)
class Imported:
    """What an import brought."""

    added: list[TemplateRow]
    skipped: list[str]
    """a sentence for each entry left out"""


def templates(studio: Studio, kind: str = "") -> list[TemplateRow]:
    """Templates of a kind ("" for all): stars first, then newest; shipped ones are always there."""
    _ensure_shipped(studio)
    where, values = ("kind = ?", [kind]) if kind else ("1", [])
    return TEMPLATES.select(
        studio.db(), where, values, order="is_favorite DESC, is_builtin, created_at DESC"
    )


def save(
    studio: Studio, kind: str, config: Config, name: str = "", description: str = ""
) -> TemplateRow:
    """Keep settings under a name; "" makes one from them, a taken name gets `_2`.

    Raises `InvalidInput` for a name or description that is too long or a kind that is not known.
    """
    if kind not in CONFIGS:
        raise InvalidInput(f"There are no templates of {kind!r}.")
    name = name.strip() or automatic_name(kind, config)
    _check_words(name, description)
    return TEMPLATES.insert(
        studio.db(),
        kind=kind,
        name=_free_name(studio, kind, name),
        description=description.strip() or None,
        config=to_dict(config),
    )


def load(studio: Studio, template_id: str) -> Loaded:
    """The settings of a template; a model, dataset or SAE that is gone is cleared, with a warning.

    Raises `NotFound`.
    """
    row = TEMPLATES.get(studio.db(), template_id)
    values = dict(row.config)
    warnings: list[str] = []
    for setting in ("model", "dataset", "sae"):
        wanted = str(values.get(setting) or "")
        if wanted and not _exists(studio, setting, wanted):
            values[setting] = ""
            noun = "SAE" if setting == "sae" else setting
            warnings.append(f"The {noun} {wanted!r} of this template is gone; choose another.")
    return Loaded(from_dict(_class_of(row.kind, values), values), warnings, scaling_of(row))


def _class_of(kind: str, values: dict[str, Any]) -> type[Config]:
    """The config class of a template; one of several layers, hooks or values is a sweep."""
    if kind == "training" and any(values.get(name) for name in ("layers", "hooks", "vary")):
        return SweepConfig
    return CONFIGS[kind]


def _exists(studio: Studio, setting: str, wanted: str) -> bool:
    if wanted in ("last", "sample"):
        return True
    named = ("id = ? OR name = ?", [wanted, wanted])
    if setting == "model":
        return bool(MODELS.select(studio.db(), *named, limit=1))
    if setting == "sae":
        return bool(SAES.select(studio.db(), *named, limit=1))
    return bool(
        DATASETS.select(studio.db(), *named, limit=1) or TOKENIZATIONS.find(studio.db(), wanted)
    )


def rename(studio: Studio, template_id: str, name: str, description: str | None = None) -> str:
    """Give a template another name, and a description unless None; returns the name it got.

    Raises `NotFound`, or `InvalidInput` for a shipped one.
    """
    row = _own(studio, template_id, "renamed")
    name = name.strip()
    text = row.description or "" if description is None else description.strip()
    _check_words(name, text)
    got = name if name == row.name else _free_name(studio, row.kind, name)
    TEMPLATES.update(studio.db(), template_id, name=got, description=text or None)
    return got


def star(studio: Studio, template_id: str, on: bool) -> None:
    """Set or take away the star; raises `NotFound`."""
    TEMPLATES.get(studio.db(), template_id)
    TEMPLATES.update(studio.db(), template_id, is_favorite=on)


def delete(studio: Studio, template_id: str) -> None:
    """Delete a template; raises `NotFound`, or `InvalidInput` for a shipped one."""
    _own(studio, template_id, "deleted")
    TEMPLATES.delete(studio.db(), template_id)


def automatic_name(kind: str, config: Config) -> str:
    """A name that says the main settings and the time of day."""
    clock = datetime.now().astimezone().strftime("%H%M")
    if isinstance(config, TrainConfig):
        few = f"{config.target_l0:g}" if config.architecture in DENSE_FAMILY else str(config.k)
        return f"{config.architecture}_{few}x_{-(-config.tokens // config.batch)}steps_{clock}"
    if isinstance(config, ExtractConfig):
        hooks = "-".join(config.hooks) or "no-hook"
        return f"{hooks}_{_layer_words(config.layers)}_{config.rows or 'all'}samples_{clock}"
    if isinstance(config, TokenizeConfig):
        return f"{config.arrangement}_{config.context or 'auto'}tokens_{clock}"
    return f"{kind}_{clock}"


def export(studio: Studio, path: Path, template_ids: list[str] | None = None) -> int:
    """Write templates (None: all of the user's) as one JSON file; returns how many.

    Raises `NotFound`, `InvalidInput` if there is none, or what the disk says.
    """
    if template_ids is None:
        rows = [row for row in templates(studio) if not row.is_builtin]
    else:
        rows = [TEMPLATES.get(studio.db(), template_id) for template_id in template_ids]
    if not rows:
        raise InvalidInput("There is no template to export. Save one first.")
    content: dict[str, Any] = {"version": _VERSION, "exported_at": now()}
    for kind, key in FILE_KEYS.items():
        content[key] = [
            {
                "name": row.name,
                "description": row.description or "",
                "is_favorite": row.is_favorite,
                "created_at": row.created_at,
                "config": row.config,
            }
            for row in rows
            if row.kind == kind
        ]
    try:
        write_json(path, content)
    except OSError as error:
        raise from_os_error(error, "write the templates") from error
    return len(rows)


def export_name() -> str:
    """The name a file dialog proposes."""
    return f"mistudio_templates_{datetime.now().astimezone():%Y%m%d_%H%M%S}.json"


def import_file(studio: Studio, path: Path) -> Imported:
    """Add the templates of a file under new ids, keeping stars; invalid entries are named.

    Raises `NotFound` or `InvalidInput` if the file is no export of templates.
    """
    try:
        content: Any = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise from_os_error(error, "read the templates") from error
    except ValueError as error:
        raise InvalidInput(f"{path.name} is not valid JSON.", details=str(error)) from error
    document = _object(content)
    if document.get("version") != _VERSION:
        raise InvalidInput(f"{path.name} is no export of templates of version {_VERSION}.")
    added: list[TemplateRow] = []
    skipped: list[str] = []
    for kind, key in FILE_KEYS.items():
        entries: Any = document.get(key, [])
        if not isinstance(entries, list):
            skipped.append(f"{key} is no list.")
            continue
        for number, entry in enumerate(cast("list[Any]", entries), start=1):
            try:
                added.append(_import_entry(studio, kind, _object(entry)))
            except StudioError as error:
                skipped.append(f"{key}, entry {number}: {error.sentence}")
    return Imported(added, skipped)


def _object(value: Any) -> dict[str, Any]:
    """A JSON object as it is; anything else as an empty one."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _import_entry(studio: Studio, kind: str, entry: dict[str, Any]) -> TemplateRow:
    settings = _object(entry.get("config"))
    if not settings:
        raise InvalidInput("It has no settings.")
    name, description = str(entry.get("name") or "").strip(), str(entry.get("description") or "")
    _check_words(name, description)
    config = from_dict(_class_of(kind, settings), settings)
    # what a template leaves open (its model, its dataset) is chosen in the form
    unset = {name for name, value in to_dict(config).items() if value in ("", [], None)}
    broken = [v for v in violations(config) if v.field not in unset]
    if broken:
        raise InvalidInput(" ".join(v.sentence for v in broken))
    return TEMPLATES.insert(
        studio.db(),
        kind=kind,
        name=_free_name(studio, kind, name),
        description=description or None,
        config=to_dict(config),
        is_favorite=bool(entry.get("is_favorite")),
    )


def _own(studio: Studio, template_id: str, what: str) -> TemplateRow:
    row = TEMPLATES.get(studio.db(), template_id)
    if row.is_builtin:
        raise InvalidInput(f"{row.name!r} comes with miStudio and cannot be {what}.")
    return row


def _check_words(name: str, description: str) -> None:
    if not 1 <= len(name) <= _LONGEST_NAME:
        raise InvalidInput(f"A name has 1 to {_LONGEST_NAME} characters.")
    if problem := name_problem(name):
        raise InvalidInput(problem)
    if len(description) > _LONGEST_DESCRIPTION:
        raise InvalidInput(f"A description has at most {_LONGEST_DESCRIPTION} characters.")


def _free_name(studio: Studio, kind: str, name: str) -> str:
    taken = {row.name for row in TEMPLATES.select(studio.db(), "kind = ?", [kind])}
    number, free = 2, name
    while free in taken:
        suffix = f"_{number}"
        free, number = name[: _LONGEST_NAME - len(suffix)] + suffix, number + 1
    return free


def _layer_words(layers: str) -> str:
    if layers.strip().lower() == "all":
        return "layersall"
    try:
        numbers = chosen_layers(layers, 4097)
    except ValueError:
        numbers = []
    if not numbers:
        return "layers"
    return f"layer{numbers[0]}" if len(numbers) == 1 else f"layers{min(numbers)}-{max(numbers)}"


def _ensure_shipped(studio: Studio) -> None:
    db = studio.db()
    present = {(row.kind, row.name) for row in TEMPLATES.select(db, "is_builtin = 1")}
    for shipped in SHIPPED:
        if (shipped.kind, shipped.name) not in present:
            TEMPLATES.insert(
                db,
                kind=shipped.kind,
                name=_free_name(studio, shipped.kind, shipped.name),
                description=shipped.description,
                config=shipped.config,
                is_favorite=shipped.is_favorite,
                is_builtin=True,
            )
