"""The command line's verbs of studies of steering."""

from __future__ import annotations

import argparse

from mistudio.commands import run_job
from mistudio.console import Console
from mistudio.core.config import from_arguments
from mistudio.core.steering_study_configs import ClaimConfig
from mistudio.jobs import claim_report
from mistudio.jobs.runner import Studio

Arguments = argparse.Namespace


def steering_claim(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Steer features and count for how many it does what their label says."""
    found = run_job(studio, console, "steer_claims", from_arguments(ClaimConfig, arguments))
    console.result(found, claim_report.lines(found))
