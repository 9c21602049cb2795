"""The settings of what is done with a training that exists."""

from __future__ import annotations

from dataclasses import dataclass

from mistudio.core.config import Config, option


@dataclass(frozen=True)
class ResumeConfig(Config):
    """Go on with a paused or interrupted training from its newest checkpoint."""

    training: str = option("last", "Training", "Id of a training, or last.", required=True)


@dataclass(frozen=True)
class WriteSaeConfig(Config):
    """Put the SAE of a checkpoint into the library."""

    training: str = option("last", "Training", "Id or name of a training, or last.", required=True)
    step: int = option(-1, "Step", "Step of the checkpoint; -1 takes the newest.", minimum=-1)
    name: str = option("", "Name", "How the SAE is called; empty makes one from the run's name.")
