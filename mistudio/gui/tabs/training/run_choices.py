"""Which runs can be compared, and the settings in which chosen ones differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mistudio.core.config import from_dict, settings_of
from mistudio.core.training_configs import TrainConfig
from mistudio.core.units import EM_DASH, format_count, format_decimal
from mistudio.store.records import TrainingRow
from mistudio.store.tables import TRAININGS

MOST_LISTED = 500
_NO_SETTING = ("name", "continue_from")  # told elsewhere


@dataclass(frozen=True)
class RunChoice:
    """A run that has steps; `group` is the sweep it belongs to, "" for none."""

    training: TrainingRow
    group: str


def read_run_choices(db: Any) -> list[RunChoice]:
    """The newest runs with at least one measured step."""
    rows = TRAININGS.select(
        db,
        "current_step > 0 OR EXISTS "
        "(SELECT 1 FROM training_metrics WHERE training_id = trainings.id)",
        limit=MOST_LISTED,
    )
    groups = read_groups(db, [row.id for row in rows])
    return [RunChoice(row, groups.get(row.id, "")) for row in rows]


def read_groups(db: Any, training_ids: Sequence[str]) -> dict[str, str]:
    """The group of each run that has one; empty in a database without groups."""
    columns = {row["name"] for row in db.query("SELECT name FROM pragma_table_info('trainings')")}
    if "group_id" not in columns:
        return {}
    found = db.query("SELECT id, group_id FROM trainings WHERE group_id IS NOT NULL")
    wanted = set(training_ids)
    return {row["id"]: str(row["group_id"]) for row in found if row["id"] in wanted}


def differing(runs: Sequence[TrainingRow]) -> list[list[str]]:
    """A row per setting whose value is not the same in all runs: its label, then each value."""
    if len(runs) < 2:
        return []
    configs = [from_dict(TrainConfig, run.config) for run in runs]
    rows: list[list[str]] = []
    for setting in settings_of(TrainConfig):
        if setting.name in _NO_SETTING:
            continue
        values = [_text(getattr(config, setting.name)) for config in configs]
        applies = setting.option.applies
        if applies is not None:
            values = [
                text if applies(config) else EM_DASH
                for text, config in zip(values, configs, strict=True)
            ]
        if len(set(values)) > 1:
            rows.append([setting.option.label, *values])
    return rows


def latest(runs: Sequence[TrainingRow]) -> list[list[str]]:
    """The newest figures of each run, a row per figure."""
    return [
        ["Step", *(format_count(run.current_step) for run in runs)],
        ["Loss", *(format_decimal(run.latest_loss) for run in runs)],
        ["L0", *(format_decimal(run.latest_l0, 1) for run in runs)],
        ["Dead latents", *(format_count(run.latest_dead) for run in runs)],
        ["Explained variance", *(format_decimal(run.latest_ev) for run in runs)],
    ]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (int, float)):
        return f"{value:,g}" if isinstance(value, float) else f"{value:,}"
    if isinstance(value, tuple):
        return ", ".join(str(item) for item in value)
    return str(value) or EM_DASH
