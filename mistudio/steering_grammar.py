"""The verbs of studies of steering on the command line."""

from __future__ import annotations

from typing import Any

from mistudio.core.steering_study_configs import ClaimConfig


def steering_verbs(command: Any, verbs: Any) -> None:
    """Add them to the group `verbs`."""
    about = "for how many features steering does what the label says, beside controls"
    command(verbs, "claim", "steering_claim", about, ClaimConfig, "sae")
