"""The command line's verbs about features as a whole, and about those that go together."""

from __future__ import annotations

import argparse
import dataclasses

from mistudio.commands import run_job
from mistudio.console import Console
from mistudio.core.config import from_arguments
from mistudio.core.errors import InvalidInput
from mistudio.core.health_configs import HealthConfig
from mistudio.core.health_figures import health_lines
from mistudio.jobs import feature_partners, lookup
from mistudio.jobs.runner import Studio

Arguments = argparse.Namespace


def features_together(studio: Studio, console: Console, arguments: Arguments) -> None:
    """The features that fire together with one, over the whole SAE, and hints of absorption."""
    sae = lookup.sae(studio, arguments.sae)
    found = feature_partners.correlations(studio, sae, arguments.index, anew=arguments.again)
    console.result(found.as_dict(), feature_partners.correlation_lines(found, arguments.by))


def features_neighbours(studio: Studio, console: Console, arguments: Arguments) -> None:
    """The features whose decoder rows have the largest cosine to one's."""
    if not 1 <= arguments.top <= 128:
        raise InvalidInput("--top must be from 1 to 128.", code="invalid_config")
    sae = lookup.sae(studio, arguments.sae)
    other = lookup.sae(studio, arguments.against) if arguments.against else None
    found = feature_partners.neighbours(
        studio, sae, arguments.index, other=other, top=arguments.top
    )
    values = {
        "sae": sae.id,
        "against": (other or sae).id,
        "feature": arguments.index,
        "neighbours": [dataclasses.asdict(line) for line in found],
    }
    console.result(values, feature_partners.neighbour_lines(found))


def features_health(studio: Studio, console: Console, arguments: Arguments) -> None:
    """How the features of an SAE do as a whole; the report is kept."""
    found = run_job(studio, console, "sae_health", from_arguments(HealthConfig, arguments))
    console.result(found, health_lines(found["health"], found["evaluation"]))
