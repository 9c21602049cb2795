"""The command line's verbs that measure SAEs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mistudio.commands import run_job
from mistudio.console import Console
from mistudio.core.comparison_configs import CompareSaesConfig, SurvivalConfig
from mistudio.core.config import from_arguments
from mistudio.core.configs import EvaluateConfig
from mistudio.core.feature_match_figures import match_sentence, sides, write_matches
from mistudio.core.sae_figures import NO_MODEL, differences, measured, overlap_sentence
from mistudio.core.survival_figures import survival_rows, survival_sentences
from mistudio.jobs import feature_matches
from mistudio.jobs.runner import Studio

Arguments = argparse.Namespace


def evaluate_sae(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Measure an SAE on held-out documents; the figures stay with it."""
    found = run_job(studio, console, "evaluate", from_arguments(EvaluateConfig, arguments))
    if "activations" in found:
        lines = [f"{found['n']:,} held-out vectors. {NO_MODEL}"]
    else:
        lines = [
            f"{found['n']:,} tokens of {found['documents']:,} held-out documents; the model's loss "
            f"on {found.get('ce_n', 0):,} of {found.get('ce_documents', 0):,}."
        ]
    rows = [[line.figure.name, line.value, line.interval] for line in measured(found)]
    console.result(found, lines + _aligned([["", "value", "95 % interval"], *rows]))


def compare_saes(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Two SAEs of the same hook on the same held-out documents."""
    config = from_arguments(CompareSaesConfig, arguments)
    found = run_job(studio, console, "compare_saes", config)
    lines = [
        f"A is {found['a']['name']}, B is {found['b']['name']}; {found['n']:,} tokens of "
        f"{found['documents']:,} held-out documents, drawn for both at once."
    ]
    rows = [
        [x.figure.name, x.first, x.second, x.difference, x.interval, "*" if x.sure else ""]
        for x in differences(found)
    ]
    lines += _aligned([["", "A", "B", "B - A", "95 % interval", ""], *rows])
    matches = feature_matches.load(studio.db(), found["matches"])
    lines += [overlap_sentence(found["overlap"]), match_sentence(matches, sides(matches))]
    if arguments.matches:
        path = Path(arguments.matches).expanduser()
        written = write_matches(matches, path)
        lines.append(f"{written:,} rows are written to {path}.")
    console.result(found, lines)


def survival(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Which features stay the same in another format; the report stays with the SAE."""
    found = run_job(studio, console, "survival", from_arguments(SurvivalConfig, arguments))
    console.result(found, survival_sentences(found) + _aligned(survival_rows(found)))


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
