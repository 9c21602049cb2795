"""The verbs of `mistudio steer`: steering, presets, history, export."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from mistudio.console import Console
from mistudio.core.config import from_arguments, from_dict, names_of, to_dict
from mistudio.core.configs import SteerConfig
from mistudio.core.errors import InvalidInput, NotFound
from mistudio.core.steering_export_configs import ENDINGS, ExportSteeringConfig
from mistudio.core.steering_shown import edit_words, edits_of, over_steering, read_run
from mistudio.jobs import steer_export, steering_presets, steering_report, templates
from mistudio.jobs.runner import Studio
from mistudio.store import steering
from mistudio.store.records import SteeringRunRow
from mistudio.store.tables import STEERING_RUNS

Arguments = argparse.Namespace


def steer(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Steer with flags, over the settings of a preset if one is named."""
    config = from_arguments(SteerConfig, arguments)
    if arguments.preset:
        given = {n for n in names_of(SteerConfig) if getattr(arguments, n, None) is not None}
        kept = to_dict(steering_presets.loadable(studio, arguments.preset))
        mine = {name: value for name, value in to_dict(config).items() if name in given}
        config = from_dict(SteerConfig, {**kept, **mine})
    _run(studio, console, config)


def _run(studio: Studio, console: Console, config: SteerConfig) -> None:
    from mistudio.commands import run_job

    console.result(run_job(studio, console, "steer", config))


def list_presets(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Every preset, with what it steers."""
    rows = [
        {
            "id": preset.row.id,
            "name": preset.row.name,
            "features": len(edits_of(to_dict(preset.config))),
            "layers": ", ".join(map(str, preset.layers)),
            "available": preset.is_available,
            "description": preset.row.description or "",
        }
        for preset in steering_presets.presets(studio)
    ]
    console.table("presets", rows, ("id", "name", "features", "layers", "available"))


def show_preset(studio: Studio, console: Console, arguments: Arguments) -> None:
    """The settings of a preset."""
    found = steering_presets.named(studio, arguments.preset)
    console.result(
        {"name": found.row.name, "missing": list(found.missing), "config": to_dict(found.config)}
    )


def save_preset(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Keep settings as a preset."""
    config = from_arguments(SteerConfig, arguments)
    row = steering_presets.save(studio, config, arguments.name, arguments.description)
    console.result({"id": row.id, "name": row.name})


def rename_preset(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Give a preset another name."""
    found = steering_presets.named(studio, arguments.preset)
    console.result({"name": templates.rename(studio, found.row.id, arguments.name)})


def forget_preset(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Delete a preset."""
    found = steering_presets.named(studio, arguments.preset)
    templates.delete(studio, found.row.id)
    console.result({"deleted": found.row.id, "name": found.row.name})


def steering_history(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Kept runs in short."""
    ids = steering.run_ids(studio.db(), arguments.text, starred=arguments.starred)
    found = steering.runs(studio.db(), ids[: arguments.limit])
    rows = [_short(run) for run in found if run]
    console.table("runs", rows, ("id", "created_at", "mode", "edits", "prompt", "kl", "star"))


def _short(run: SteeringRunRow) -> dict[str, Any]:
    metrics = run.metrics or {}
    unit = str(run.config.get("unit") or "max")
    return {
        "id": run.id,
        "created_at": run.created_at,
        "mode": run.mode,
        "edits": ", ".join(edit_words(edit, unit) for edit in edits_of(run.config)),
        "prompt": run.prompt,
        "kl": metrics.get("kl"),
        "star": run.is_favorite,
        "note": run.note or "",
    }


def show_steering_run(studio: Studio, console: Console, arguments: Arguments) -> None:
    """One run with its texts and figures."""
    run = _one(studio, arguments.run)
    console.result(
        {
            **_short(run),
            "config": run.config,
            "prompts": [
                {
                    "prompt": shown.prompt,
                    "variants": [
                        {
                            "name": variant.name,
                            "title": variant.title,
                            "texts": [dataclasses.asdict(text) for text in variant.texts],
                            "metrics": dict(variant.metrics),
                            "over_steered": over_steering(variant.metrics),
                            **({"controls": dict(variant.controls)} if variant.controls else {}),
                        }
                        for variant in shown.variants
                    ],
                }
                for shown in read_run(run.prompt, run.outputs, run.metrics)
            ],
        }
    )


def rerun_steering(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Do a run again with the settings that it had."""
    _run(studio, console, from_dict(SteerConfig, _one(studio, arguments.run).config))


def star_steering_run(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Set the star of a run, or take it away."""
    run = _one(studio, arguments.run)
    steering.star(studio.db(), run.id, not run.is_favorite)
    console.result({"run": run.id, "star": not run.is_favorite})


def note_steering_run(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Write a note beside a run."""
    run = _one(studio, arguments.run)
    steering.note(studio.db(), run.id, arguments.note)
    console.result({"run": run.id, "note": arguments.note.strip()})


def forget_steering_runs(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Delete runs after `--yes`."""
    found = [_one(studio, wanted) for wanted in arguments.run]
    if not arguments.yes:
        raise InvalidInput(f"{len(found):,} runs would be deleted. Say --yes to do it.")
    steering.delete(studio.db(), [run.id for run in found])
    console.result({"deleted": [run.id for run in found]})


def export_steering(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Write runs to a file."""
    out = str(arguments.out or "")
    ending = arguments.format or Path(out).suffix.lstrip(".")
    kind = next((kind for kind, end in ENDINGS.items() if ending in (kind, end)), "")
    if kind:
        _export_outside(studio, console, arguments, kind)
        return
    if arguments.run == ["all"]:
        found = [run for run in steering.runs(studio.db(), steering.run_ids(studio.db())) if run]
    else:
        found = [_one(studio, wanted) for wanted in arguments.run]
    ending = ending or "json"
    path = Path(out or steering_report.file_name(found, ending))
    console.result(
        {"path": str(steering_report.write(found, path, ending).resolve()), "runs": len(found)}
    )


def _export_outside(studio: Studio, console: Console, arguments: Arguments, kind: str) -> None:
    """Write one run as code or vectors."""
    from mistudio.commands import run_job

    if len(arguments.run) != 1 or arguments.run == ["all"]:
        raise InvalidInput(f"Name one run to write as {kind}.")
    config = ExportSteeringConfig(
        run=arguments.run[0], variant=arguments.variant, format=kind, out=str(arguments.out or "")
    )
    found = run_job(studio, console, "steer_export", config)
    console.result(found, steer_export.lines(found))


def _one(studio: Studio, wanted: str) -> SteeringRunRow:
    if wanted != "last":
        return STEERING_RUNS.get(studio.db(), wanted)
    found = STEERING_RUNS.select(studio.db(), limit=1)
    if not found:
        raise NotFound("There is no steering run yet.")
    return found[0]
