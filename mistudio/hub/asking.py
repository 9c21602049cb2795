"""Asks the Hub as patiently as a download does: what fails for a while is asked again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from mistudio.core.control import JobControl
from mistudio.core.errors import NoAnswer, RateLimited, StudioError
from mistudio.hub import errors, ranges

T = TypeVar("T")


def persistently(
    ask: Callable[[], T], control: JobControl, waiting: Callable[[StudioError, float], object]
) -> T:
    """The answer of `ask`, tried again after each of the usual waits, or as long as a 429 says.

    `waiting` hears why and for how many seconds yet, twice a second. Raises what `ask` raised last,
    at once if no later try could help; `Cancelled`.
    """
    waits = iter(ranges.WAITS_S)
    while True:
        try:
            return ask()
        except NoAnswer as failure:
            error = failure
            seconds = next(waits, None)
            if seconds is None or error.code == errors.NO_HUB:
                raise
        if isinstance(error, RateLimited) and error.retry_after_s is not None:
            seconds = error.retry_after_s
        waiting(error, seconds)
        control.sleep(seconds, partial(waiting, error))
