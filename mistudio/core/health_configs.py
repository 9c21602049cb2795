"""The settings of the health report of an SAE."""

from __future__ import annotations

from dataclasses import dataclass

from mistudio.core.config import Config, option


@dataclass(frozen=True)
class HealthConfig(Config):
    """How an SAE's features are used, what its weights look like, and what may be wrong."""

    sae: str = option("last", "SAE", "Id or name of an SAE, or last.", required=True)
    again: bool = option(False, "Again", "Compute again what is kept.")
