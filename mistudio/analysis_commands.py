"""The command line's verbs of analyses that run the model."""

from __future__ import annotations

import argparse

from mistudio.commands import run_job
from mistudio.console import Console
from mistudio.core import ablation_figures
from mistudio.core.analysis_configs import (
    AblateConfig,
    AbsorptionConfig,
    AttributeConfig,
    FeatureLensConfig,
    OwnTextConfig,
)
from mistudio.core.config import from_arguments
from mistudio.jobs import attribute as attribution
from mistudio.jobs import feature_lens as lens
from mistudio.jobs import measure_absorption, own_text
from mistudio.jobs.runner import Studio
from mistudio.vector_commands import lines_of

Arguments = argparse.Namespace


def ablate_features(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Ablate one feature, or every live one; the values go into the table of features."""
    config = from_arguments(AblateConfig, arguments)
    found = run_job(studio, console, "ablate", config)
    if config.feature >= 0:
        console.result(found, ablation_figures.lines(found))
        return
    console.result(found, ablation_figures.batch_lines(found))


def test_text(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Which features fire on a text of one's own."""
    found = run_job(studio, console, "own_text", from_arguments(OwnTextConfig, arguments))
    console.result(found, own_text.lines(found))


def feature_lens(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Tokens that a feature's direction promotes and suppresses."""
    found = run_job(studio, console, "feature_lens", from_arguments(FeatureLensConfig, arguments))
    console.result(found, lens.lines(found))


def absorption(studio: Studio, console: Console, arguments: Arguments) -> None:
    """How much of a concept other features carry in place of one."""
    arguments.positive = list(lines_of(arguments.positive))
    arguments.negative = list(lines_of(arguments.negative))
    found = run_job(studio, console, "absorption", from_arguments(AbsorptionConfig, arguments))
    console.result(found, measure_absorption.lines(found))


def attribute(studio: Studio, console: Console, arguments: Arguments) -> None:
    """What every feature adds to the next token of a text."""
    found = run_job(studio, console, "attribute", from_arguments(AttributeConfig, arguments))
    console.result(found, attribution.lines(found))
