"""What each state of a run lets the user do."""

from __future__ import annotations

from typing import NamedTuple

from mistudio.gui.tabs.training.reads import Run


class Action(NamedTuple):
    """A button of a run card."""

    text: str
    icon: str
    variant: str
    tip: str


ACTIONS = {
    "features": Action(
        "Find features", "bolt", "secondary", "Read what each latent fires on, over the same text"
    ),
    "steer": Action("Steer", "sliders", "secondary", "Generate text with this SAE's features"),
    "pause": Action(
        "Pause", "pause", "warning", "Write a checkpoint and give up memory and device"
    ),
    "resume": Action("Resume", "play", "primary", "Go on from the newest checkpoint"),
    "save": Action("Save now", "save", "secondary", "Write a checkpoint at the next step"),
    "stop": Action("Stop", "stop", "danger", "End after this step; the SAE goes to the library"),
    "cancel": Action("Cancel", "close", "secondary", "Take this run out of the queue"),
    "continue": Action(
        "Continue",
        "play",
        "secondary",
        "New run from the newest checkpoint, with full state and more steps",
    ),
    "write": Action(
        "Write SAE", "features", "secondary", "Put the newest checkpoint's SAE into the library"
    ),
    "retry": Action("Retry", "retry", "info", "New run with the same settings, from step 0"),
    "delete": Action("Delete", "trash", "secondary", "Remove this run and its checkpoints"),
}

_BY_STATE = {
    "queued": ("cancel",),
    "initializing": ("stop",),
    "training": ("pause", "save", "stop"),
    "stopping": (),
    "paused": ("resume", "stop"),
    "interrupted": ("resume", "stop", "delete"),
    "stopped": ("features", "steer", "continue", "retry", "delete"),
    "completed": ("features", "steer", "continue", "retry", "delete"),
    "failed": ("resume", "continue", "write", "retry", "delete"),
}
_WAITING = ("paused", "interrupted")
_NEEDS_CHECKPOINT = ("resume", "continue", "write")
_NEEDS_JOB = ("cancel", "stop", "pause", "save")


def actions_of(run: Run) -> tuple[str, ...]:
    """Names of the actions that this run offers now."""
    found = _BY_STATE.get(run.training.status, ())
    if run.job is None:
        found = tuple(name for name in found if name not in _NEEDS_JOB)
    elif run.training.status in _WAITING and run.job.status not in _WAITING:
        found = tuple(name for name in found if name != "stop")
    if run.sae is None:
        found = tuple(name for name in found if name not in ("features", "steer"))
    if not run.checkpoints and run.training.status in ("failed", "stopped", "completed"):
        found = tuple(name for name in found if name not in _NEEDS_CHECKPOINT)
    return found
