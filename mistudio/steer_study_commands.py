"""The command line's verbs of studies of steering."""

from __future__ import annotations

import argparse

from mistudio.commands import run_job
from mistudio.console import Console
from mistudio.core.config import from_arguments
from mistudio.core.steering_study_configs import (
    ClaimConfig,
    ControlsConfig,
    DoseConfig,
    PreviewConfig,
)
from mistudio.jobs import claim_report, steer_studies, steering_controls_report
from mistudio.jobs.runner import Studio

Arguments = argparse.Namespace


def steering_preview(studio: Studio, console: Console, arguments: Arguments) -> None:
    """What the model would say next, unsteered and steered."""
    found = run_job(studio, console, "steer_preview", from_arguments(PreviewConfig, arguments))
    console.result(found, steer_studies.preview_lines(found))


def steering_dose(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Effect against strength."""
    found = run_job(studio, console, "steer_dose", from_arguments(DoseConfig, arguments))
    console.result(found, steer_studies.dose_lines(found))


def steering_claim(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Steer features and count for how many it does what their label says."""
    found = run_job(studio, console, "steer_claims", from_arguments(ClaimConfig, arguments))
    console.result(found, claim_report.lines(found))


def steering_controls(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Test a kept run against random features."""
    found = run_job(studio, console, "steer_controls", from_arguments(ControlsConfig, arguments))
    console.result(found, steering_controls_report.lines(found))


def bench_steering(studio: Studio, console: Console, arguments: Arguments) -> None:
    """What steering costs."""
    from mistudio.jobs.bench_steering import bench_steering as measured

    found = measured(
        studio,
        sae=arguments.sae,
        only=tuple(arguments.only or ()),
        features=arguments.features,
        target_kl=arguments.target_kl,
        rounds=arguments.rounds,
        seed=arguments.seed,
    )
    console.result(found, [f"{name}: {value}" for name, value in found.items()])
