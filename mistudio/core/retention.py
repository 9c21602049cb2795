"""Which checkpoints of a run stay: a rule over steps, figures and pins, without a disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mistudio.core.config import Config, option

KEEP_ALL = 10  # up to so many nothing goes
KEEP_EVERY = 1000  # steps
DEFAULT_CAP = 20


@dataclass(frozen=True)
class RetentionConfig(Config):
    """How many checkpoints of a run are kept."""

    training: str = option("last", "Training", "Id or name of a training, or last.", required=True)
    cap: int = option(
        DEFAULT_CAP,
        "Keep at most",
        "Up to 10 all stay; then the first, the last, the best and every 1,000th step, of which "
        "the oldest go first. Pinned ones always stay.",
        unit="checkpoints",
        minimum=2,
        maximum=1000,
    )


class Kept(NamedTuple):
    """What the rule needs to know of a checkpoint; None: not known.

    `ev` is the explained variance on held-out text.
    """

    step: int
    loss: float | None = None
    is_pinned: bool = False
    ev: float | None = None


def best_of(found: Iterable[Kept]) -> int | None:
    """The step of the best: of those measured on held-out text the one that explains most, and
    without any the one of the lowest loss; of equal ones the earliest. None if nothing is known."""
    known = list(found)
    explained = [(-kept.ev, kept.step) for kept in known if kept.ev is not None]
    lost = [(kept.loss, kept.step) for kept in known if kept.loss is not None]
    told = explained or lost
    return min(told)[1] if told else None


def surplus(found: Sequence[Kept], cap: int = DEFAULT_CAP, keep_all: int = KEEP_ALL) -> list[int]:
    """Steps of the checkpoints that go, ascending.

    The first, the last, the best and the pinned ones stay whatever the cap is.
    """
    ordered = sorted(found, key=lambda kept: kept.step)
    if len(ordered) <= min(cap, keep_all):
        return []
    best = best_of(ordered)
    safe = {ordered[0].step, ordered[-1].step, ordered[0].step if best is None else best}
    safe |= {kept.step for kept in ordered if kept.is_pinned}
    round_steps = [
        kept.step for kept in ordered if kept.step % KEEP_EVERY == 0 and kept.step not in safe
    ]
    room = max(0, cap - len(safe))
    stay = safe | set(round_steps[len(round_steps) - room :] if room else ())
    return [kept.step for kept in ordered if kept.step not in stay]
