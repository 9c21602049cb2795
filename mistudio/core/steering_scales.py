"""What a strength's slider does: its steps in each unit, where it starts, where it turns red."""

from __future__ import annotations

from mistudio.core.steering_operators import OPERATORS, Value
from mistudio.core.steering_shown import LARGE_PUSH

STEPS = 50  # of the slider, on either side of its middle
STEP = 0.1  # of a factor, or of the largest activation
BIG = 20  # steps that Suppress and Amplify go


def middle(operator: str) -> float:
    """The value at the slider's middle: what changes nothing, or 0."""
    return OPERATORS[operator].neutral or 0.0


def step(operator: str, unit: str, maximum: float) -> float:
    """How much one step of the slider is; `maximum` is the largest activation, 0 if unknown."""
    if OPERATORS[operator].value is Value.FACTOR or unit == "max":
        return STEP
    if unit == "raw":
        return STEP * maximum if maximum > 0 else 1.0
    return 1.0


def start(operator: str, unit: str, maximum: float) -> float:
    """The value that an operator starts with: no change, or a level of 1 × max."""
    rule = OPERATORS[operator]
    if rule.value is not Value.LEVEL or operator == "dir-ablate":
        return middle(operator)
    if unit == "percent":
        return 10.0
    return maximum if unit == "raw" and maximum > 0 else 1.0


def converted(value: float, old: str, new: str, maximum: float, push: float | None) -> float | None:
    """A strength in another unit, so that the push stays the same; None if that is not known."""
    if old == new:
        return value
    factors = {
        "raw": 1.0,
        "max": maximum or None,
        "percent": 1 / (100 * push) if push else None,
    }
    before, after = factors.get(old), factors.get(new)
    return None if before is None or after is None else value * before / after


def expected_ratio(
    operator: str, unit: str, value: float, maximum: float, push: float | None
) -> float | None:
    """|Δ| / |x| on a token of median norm, None where it is not known.

    A level is counted from an activation of 0, a factor from the largest activation.
    """
    rule = OPERATORS[operator]
    if rule.value is Value.STRENGTH or (rule.value is Value.LEVEL and rule.for_features_only):
        raw = converted(value, unit, "raw", maximum, push)
        if unit == "percent":
            return abs(value) / 100
        return None if raw is None or push is None else abs(raw) * push
    if rule.value is Value.FACTOR and rule.for_features_only and push and maximum:
        return abs(value - 1) * maximum * push
    return None


def red_from(operator: str, unit: str, maximum: float, push: float | None) -> int | None:
    """Steps from the middle behind which over-steering is expected, None if nowhere or unknown."""
    one = step(operator, unit, maximum)
    each = expected_ratio(operator, unit, middle(operator) + one, maximum, push)
    if not each:
        return None
    return None if STEPS * each <= LARGE_PUSH else max(1, int(LARGE_PUSH / each) + 1)
