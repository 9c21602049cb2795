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


# what a job of several runs does to all of them at once
_SHARED = {
    "pause": ("Pause all", "Write checkpoints and give up memory and device"),
    "resume": ("Resume all", "Go on from the newest checkpoints"),
    "save": ("Save all", "Write checkpoints at the next step"),
    "stop": ("Stop all", "End after this step; the SAEs go to the library"),
    "cancel": ("Cancel all", "Take these runs out of the queue"),
}


def words_of(name: str, run: Run) -> tuple[str, str]:
    """Text and tip of an action's button; they tell if it acts on all runs of a sweep."""
    if not acts_on_all(name, run):
        return ACTIONS[name].text, ACTIONS[name].tip
    text, tip = _SHARED[name]
    return text, f"{tip}: all {run.members:,} runs of the sweep"


def acts_on_all(name: str, run: Run) -> bool:
    """Whether an action is one of the whole sweep."""
    if name not in _SHARED or not run.shares_its_job or run.job is None:
        return False
    # a failed run of a sweep that has ended is resumed alone
    return name != "resume" or run.job.status in _WAITING


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
