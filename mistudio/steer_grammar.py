"""The verbs of `mistudio steer` beside steering itself: presets, history, export, studies."""

from __future__ import annotations

import argparse
from typing import Any

from mistudio.core import configs
from mistudio.core.config import add_arguments
from mistudio.steer_study_grammar import study_verbs


def steer_verbs(command: Any, groups: Any) -> None:
    """Add `steer` with its verbs; `command` makes a verb of a group."""
    about = "generate with and without steering"
    steering = command(groups, "steer", "steer", about, configs.SteerConfig)
    steering.add_argument("--preset", help="take the settings of a preset; flags come before it")
    verbs = steering.add_subparsers(
        metavar="[presets|history|export|preview|dose|claim|controls]", dest="subcommand"
    )
    _preset_verbs(
        command, _group(command, verbs, "presets", "list_presets", "named settings of steering")
    )
    _history_verbs(
        command, _group(command, verbs, "history", "steering_history", "kept steering runs")
    )
    about = "write runs as JSON, Markdown or HTML; one as code of transformers or as vectors"
    made = command(verbs, "export", "export_steering", about)
    made.add_argument("run", nargs="*", default=["last"], help="ids, last or all (default last)")
    about = "file to write; its ending is the format. Of python, - writes to the terminal"
    made.add_argument("--out", metavar="FILE", help=about)
    formats = "{json,md,html,python,gguf,safetensors}"
    made.add_argument("--format", default="", metavar=formats, help="(default json)")
    about = "which one, of a run with several (python, gguf, safetensors)"
    made.add_argument("--variant", default="", metavar="NAME", help=about)
    study_verbs(command, verbs)


def _group(command: Any, verbs: Any, name: str, verb: str, about: str) -> Any:
    """Verbs below a verb; the name alone lists."""
    made = command(verbs, name, verb, about)
    made.set_defaults(text="", starred=False, limit=50)
    return made.add_subparsers(metavar="[VERB]", dest="verb_of_group")


def _preset_verbs(command: Any, presets: Any) -> None:
    command(presets, "list", "list_presets", "list presets")
    made = command(presets, "show", "show_preset", "show the settings of a preset")
    made.add_argument("preset", help="id or name")
    made = command(presets, "save", "save_preset", "keep settings under a name")
    made.add_argument("--name", default="", help="empty makes one from the settings")
    made.add_argument("--description", default="", help="what it is for")
    add_arguments(made, configs.SteerConfig)
    made = command(presets, "rename", "rename_preset", "give a preset another name")
    made.add_argument("preset", help="id or name")
    made.add_argument("name", help="new name")
    made = command(presets, "delete", "forget_preset", "delete a preset")
    made.add_argument("preset", help="id or name")


def _history_verbs(command: Any, history: Any) -> None:
    made = command(history, "list", "steering_history", "list runs, starred ones first")
    made.add_argument("--text", default="", help="words of prompt, note or texts; #12: a feature")
    made.add_argument("--starred", action="store_true", help="only those with a star")
    made.add_argument("--limit", type=int, default=50, help="most rows (default 50)")
    for name, verb, about in (
        ("show", "show_steering_run", "show a run with its texts and figures"),
        ("rerun", "rerun_steering", "do a run again as it was"),
        ("star", "star_steering_run", "set the star of a run, or take it away"),
        ("note", "note_steering_run", "write a note beside a run"),
        ("delete", "forget_steering_runs", "delete runs"),
    ):
        made: argparse.ArgumentParser = command(history, name, verb, about)
        many = name == "delete"
        made.add_argument("run", nargs="+" if many else None, help="id, or last")
        if name == "note":
            made.add_argument("note", help="empty takes it away")
        if many:
            made.add_argument("--yes", action="store_true", help="do it without asking")
