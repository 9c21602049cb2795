"""The verbs of studies of steering on the command line."""

from __future__ import annotations

from typing import Any

from mistudio.core.steering_study_configs import ClaimConfig, DoseConfig, PreviewConfig


def steering_verbs(command: Any, verbs: Any) -> None:
    """Add them to the group `verbs`."""
    about = "what the model would say next, unsteered and steered"
    command(verbs, "preview", "steering_preview", about, PreviewConfig, "sae")
    about = "effect against strength in one pass, or the strength for a wanted KL"
    command(verbs, "dose", "steering_dose", about, DoseConfig, "sae")
    about = "for how many features steering does what the label says, beside controls"
    command(verbs, "claim", "steering_claim", about, ClaimConfig, "sae")
