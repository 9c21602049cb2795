"""Errors a user can act on: each has a code, a sentence, details and whether a retry can help."""

from __future__ import annotations

import errno


class StudioError(Exception):
    """An expected failure, told to the user as one sentence that says what to do.

    `code` names the situation for logs and rows; `details` holds what an expert would want.
    """

    code = "error"
    retryable = False
    retry_after_s: float | None = None
    """how long the other side asked to wait, if it did"""

    def __init__(self, sentence: str, *, details: str = "", code: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.details = details
        if code:
            self.code = code


class InvalidInput(StudioError):
    """What the user gave cannot be used as it is."""

    code = "invalid_input"


class NotFound(StudioError):
    """A named object, file or module is not there."""

    code = "not_found"


class Unsupported(StudioError):
    """The input is well formed but of a kind this program does not handle."""

    code = "unsupported"


class Damaged(StudioError):
    """A file exists but its content is broken or incomplete."""

    code = "damaged"


class Mismatch(StudioError):
    """Two objects do not belong together (widths, vocabulary, model)."""

    code = "mismatch"


class InUse(StudioError):
    """The object cannot be removed or changed because others need it."""

    code = "in_use"


class DiskFull(StudioError):
    """There is no room for what must be written."""

    code = "disk_full"
    retryable = True


class OutOfMemory(StudioError):
    """The device or the machine has too little memory for the request."""

    code = "out_of_memory"
    retryable = True


class NoAnswer(StudioError):
    """A server cannot be reached, broke off, or went silent."""

    code = "no_network"
    retryable = True


class RateLimited(NoAnswer):
    """A server asks to wait; `retry_after_s` says how long."""

    code = "rate_limited"

    def __init__(self, sentence: str, *, retry_after_s: float, details: str = "") -> None:
        super().__init__(sentence, details=details)
        self.retry_after_s = retry_after_s


class NeedsToken(StudioError):
    """A repository asks for an access token, or the given one is not valid."""

    code = "needs_token"


class Gated(StudioError):
    """The owner of a repository must grant access first."""

    code = "gated"


class Offline(StudioError):
    """The program is set to work without the network."""

    code = "offline"


class TrainingBroke(StudioError):
    """A training cannot go on (non-finite loss three times in a row)."""

    code = "training_broke"
    retryable = True


class Cancelled(Exception):
    """The user asked the running job to end; nothing is wrong."""


class Left(Cancelled):
    """The program is closing. A job that can go on later keeps what it has."""


def means_out_of_memory(error: BaseException) -> bool:
    """Whether a failure says that memory ran out.

    Python raises `MemoryError`, torch an error of its own on a GPU, but a plain `RuntimeError`
    where a processor's memory or a library of the GPU cannot get what it needs.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    words = ("can't allocate memory", "not enough memory", "out of memory", "alloc_failed")
    return isinstance(error, RuntimeError) and any(w in str(error).lower() for w in words)


def from_os_error(error: OSError, doing: str) -> StudioError:
    """Turn an operating-system error into a sentence; `doing` is what failed ("write the SAE")."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(
            f"The disk is full: could not {doing}. Free some space and retry.", details=str(error)
        )
    if isinstance(error, FileNotFoundError):
        return NotFound(f"There is no file {error.filename!r}.", details=str(error))
    if isinstance(error, PermissionError):
        return InvalidInput(
            f"Access to {error.filename!r} is not permitted: could not {doing}.", details=str(error)
        )
    return StudioError(f"Could not {doing}: {error.strerror or error}.", details=str(error))
