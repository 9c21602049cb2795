"""Watches a run's figures and says, once, what is going wrong and what helps."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping

DEAD_LIMIT = 0.05  # share of latents
PLATEAU_STEPS = 1000
GAIN = 1e-3  # relative fall of a figure that counts as progress
COLLAPSE = 0.3  # of the aim for the L0; without one, of the level that it had lately
LEVEL_ROWS = 5  # whose median is the level of the L0, so that a spike of two rows is none
LEAST_LEVEL = 1.0  # latents per token; fewer are a collapse whatever was before
FALL_SHARE = 0.05  # of the run, within which the level must have fallen,
LEAST_FALL_STEPS = 100  # and in a short run within this
MILESTONES = (10, 50, 90)  # percent of the steps

Row = Mapping[str, float | int | None]


class Alarms:
    """Takes each reported row and gives the sentences that are due, as (level, sentence).

    An alarm is told once and again only after its cause had gone.
    """

    def __init__(self, steps: int, tokens_until_dead: int, aim: float | None, ramp: int) -> None:
        """`aim` is the L0 that the run is to have (None: none is set), `tokens_until_dead` the dead
        window and `ramp` the steps after which the L0 should have settled."""
        self._steps, self._dead_after, self._aim, self._ramp = steps, tokens_until_dead, aim, ramp
        self._told: set[str] = set()
        self._lowest: dict[str, float] = {}
        self._lowest_at = 0
        self._passed = 0
        self._fall_steps = max(LEAST_FALL_STEPS, round(FALL_SHARE * steps))
        self._recent: deque[float] = deque(maxlen=LEVEL_ROWS)
        self._levels: deque[tuple[int, float]] = deque()  # steps and levels that fall
        self._fell_from = 0.0  # 0: it has not

    def resumed_at(self, step: int) -> None:
        """Do not repeat the milestones of a run that goes on."""
        self._passed = 100 * step // max(1, self._steps)
        self._lowest_at = step

    def of(self, row: Row) -> list[tuple[str, str]]:
        """Sentences due after this row of `MetricWindow.close`."""
        found = [*self._dead(row), *self._plateau(row), *self._collapse(row)]
        return found + self._milestone(row)

    def _once(self, name: str, wrong: bool, sentence: str) -> list[tuple[str, str]]:
        if not wrong:
            self._told.discard(name)
            return []
        if name in self._told:
            return []
        self._told.add(name)
        return [("warning", sentence)]

    def _dead(self, row: Row) -> list[tuple[str, str]]:
        share, tokens = row.get("dead_fraction") or 0.0, row.get("tokens") or 0
        return self._once(
            "dead",
            share > DEAD_LIMIT and tokens >= self._dead_after,
            f"{share:.1%} of the latents are dead. Fewer latents, a lower learning rate or a "
            "larger auxiliary k (or target L0) keep more of them alive.",
        )

    def _plateau(self, row: Row) -> list[tuple[str, str]]:
        step, l0 = int(row["step"] or 0), row.get("l0")
        figures = {"loss": row.get("loss"), "reconstruction": row.get("reconstruction")}
        if self._aim is not None and l0 is not None:  # a penalty may still be finding its weight
            figures["gap"] = abs(l0 - self._aim) / self._aim
        for name, value in figures.items():
            if value is not None and value < self._lowest.get(name, float("inf")) * (1 - GAIN):
                self._lowest[name], self._lowest_at = float(value), step
        return self._once(
            "plateau",
            step - self._lowest_at >= PLATEAU_STEPS,
            f"The loss has not fallen for {PLATEAU_STEPS:,} steps. The run may be finished; else "
            "more latents or another learning rate get further.",
        )

    def _collapse(self, row: Row) -> list[tuple[str, str]]:
        l0, step = row.get("l0"), int(row["step"] or 0)
        if l0 is None:
            return []
        if self._aim is None:
            return self._fall(step, float(l0))
        return self._once(
            "collapse",
            step > self._ramp and l0 < COLLAPSE * self._aim,
            f"Only {l0:.1f} latents are active per token, far below the {self._aim:g} aimed at. A "
            "smaller sparsity weight or a lower learning rate brings them back.",
        )

    def _fall(self, step: int, l0: float) -> list[tuple[str, str]]:
        """Without an aim the L0 sinks all the time while latents learn or a weight still rises, so
        a fall counts only within a stretch of the run that is short beside these, and until the
        level is back it is one fall."""
        if step <= self._ramp:
            return []
        self._recent.append(l0)
        if len(self._recent) < LEVEL_ROWS:
            return []
        level, levels = statistics.median(self._recent), self._levels
        while levels and levels[-1][1] <= level:  # the first one stays the highest
            levels.pop()
        levels.append((step, level))
        while levels[0][0] < step - self._fall_steps:
            levels.popleft()
        highest = max(self._fell_from, levels[0][1])
        fell = level < COLLAPSE * highest
        self._fell_from = highest if fell else 0.0
        before = f"fewer than {LEAST_LEVEL:g}"
        if fell:
            before = f"after {highest:.1f} within the last {self._fall_steps:,} steps"
        return self._once(
            "collapse",
            fell or level < LEAST_LEVEL,
            f"Only {level:.1f} latents are active per token, {before}. A smaller sparsity weight "
            "or a lower learning rate brings them back.",
        )

    def _milestone(self, row: Row) -> list[tuple[str, str]]:
        percent = 100 * int(row["step"] or 0) / max(1, self._steps)
        due = [mark for mark in MILESTONES if self._passed < mark <= percent]
        self._passed = max(self._passed, int(percent))
        if not due:
            return []
        return [("info", f"{due[-1]} % of the steps are done.")]
