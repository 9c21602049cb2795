"""The verbs of studies of steering on the command line."""

from __future__ import annotations

from typing import Any

from mistudio.core.steering_study_configs import (
    ClaimConfig,
    ControlsConfig,
    DoseConfig,
    PreviewConfig,
)


def study_verbs(command: Any, verbs: Any) -> None:
    """Add them to the group `verbs`."""
    about = "what the model would say next, unsteered and steered"
    command(verbs, "preview", "steering_preview", about, PreviewConfig, "sae")
    about = "effect against strength in one pass, or the strength for a wanted KL"
    command(verbs, "dose", "steering_dose", about, DoseConfig, "sae")
    about = "for how many features steering does what the label says, beside controls"
    command(verbs, "claim", "steering_claim", about, ClaimConfig, "sae")
    about = "test a kept run against random features, and keep the result with it"
    command(verbs, "controls", "steering_controls", about, ControlsConfig, "run")


def steering_bench(command: Any, bench: Any) -> None:
    """Add the measurement of steering to the group `bench`."""
    about = "what steering costs, and how well a KL is met"
    made = command(bench, "steering", "bench_steering", about)
    made.add_argument("sae", nargs="?", default="last", help="id or name (default last)")
    about = "slider, dose, batch, overhead or auto; repeat for several"
    made.add_argument("--only", action="append", help=about)
    made.add_argument("--features", type=int, default=100, help="of auto (default 100)")
    made.add_argument("--target-kl", type=float, default=0.1, help="of auto (default 0.1)")
    made.add_argument("--rounds", type=int, default=5, help="measured rounds (default 5)")
    made.add_argument("--seed", type=int, default=0, help="choice of features (default 0)")
