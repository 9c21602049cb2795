"""What the Hub and its client library say when something fails, as sentences for the user."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import httpx2
from huggingface_hub import errors as library

from mistudio.core.errors import (
    Gated,
    InvalidInput,
    NeedsToken,
    NoAnswer,
    NotFound,
    Offline,
    RateLimited,
    StudioError,
    Unsupported,
)
from mistudio.core.repositories import SENTENCE

DEFAULT_WAIT_S = 60.0
NO_RANGE = "no_range"
NO_HUB = "no_hub"
_RESET = re.compile(r"\bt\s*=\s*(\d+)")


@dataclass(frozen=True)
class Subject:
    """What was asked for: kind "model" or "dataset"; empty parts are not named in sentences."""

    kind: str = "model"
    repo: str = ""
    revision: str = ""
    file: str = ""

    @property
    def named(self) -> str:
        return f"'{self.repo}'" if self.repo else "The Hub"


def refusal(response: httpx2.Response, subject: Subject, *, had_token: bool) -> StudioError:
    """The error that an answer of status 400 or more stands for."""
    status, headers = response.status_code, response.headers
    reason = headers.get("X-Error-Code", "")
    details = f"{status} {reason} {headers.get('X-Error-Message', '')}".strip()
    if status == 429:
        wait = asked_wait_s(headers)
        return RateLimited(
            f"The Hub asks to wait {wait:.0f} s.", retry_after_s=wait, details=details
        )
    if status >= 500 or status == 408:
        return NoAnswer(
            f"The Hub has a problem ({status}). Try again later.",
            details=details,
            code="hub_problem",
        )
    if reason == "GatedRepo":
        if had_token or status == 403:
            return Gated(
                f"The owner of {subject.named} must grant access first. Open its page on the Hub "
                "and ask for it.",
                details=details,
            )
        return NeedsToken(f"{subject.named} asks for an access token.", details=details)
    if reason == "RevisionNotFound":
        return NotFound(
            f"{subject.named} has no revision '{subject.revision}'. The usual one is main.",
            details=details,
        )
    if reason == "EntryNotFound":
        return NotFound(f"{subject.named} has no file '{subject.file}'.", details=details)
    if reason == "DisabledRepo":
        return Unsupported(f"The Hub has closed {subject.named}.", details=details)
    if reason == "RepoNotFound" or status == 404:
        return _not_found(subject, details, had_token=had_token)
    if status == 401:
        if had_token:
            return NeedsToken(
                "The Hub does not know this access token. Give another one.", details=details
            )
        return NeedsToken(f"{subject.named} asks for an access token.", details=details)
    if status == 403:
        return Gated(f"The access token does not permit reading {subject.named}.", details=details)
    code = NO_RANGE if status == 416 else ""
    return StudioError(f"The Hub refused the request ({status}).", details=details, code=code)


def file_refusal(response: httpx2.Response, subject: Subject, *, had_token: bool) -> StudioError:
    """The error that a refused file stands for, which another server than the Hub may send."""
    from mistudio.hub.setup import endpoint

    status = response.status_code
    if response.url.host != httpx2.URL(endpoint()).host and status < 500:
        # an address that the Hub gave for a while; the next try gets a fresh one
        return NoAnswer(f"The Hub's file server refused ({status}). Try again later.")
    return refusal(response, subject, had_token=had_token)


def _not_found(subject: Subject, details: str, *, had_token: bool) -> StudioError:
    if not subject.repo:
        return NotFound("The Hub does not know this address.", details=details)
    sentence = f"There is no {subject.kind} '{subject.repo}' on the Hub."
    if not had_token:
        sentence += " If it is private, give an access token."
    return NotFound(sentence, details=details)


def asked_wait_s(headers: Mapping[str, str]) -> float:
    """Seconds that a 429 asks to wait: Retry-After as a number or a date, else RateLimit's t."""
    said = headers.get("Retry-After", "").strip()
    if said.isdigit():
        return float(said)
    if said:
        try:
            return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
        except (TypeError, ValueError):
            return DEFAULT_WAIT_S
    reset = _RESET.search(headers.get("ratelimit", ""))
    return float(reset[1]) if reset else DEFAULT_WAIT_S


def offline() -> Offline:
    """The error of asking the Hub while the program works offline."""
    return Offline("Offline mode is on; only what is on this machine can be used.")


def bad_proxy(error: Exception) -> InvalidInput:
    """The error of a proxy through which nothing can be asked."""
    kind = "A SOCKS proxy cannot be used" if isinstance(error, ImportError) else "This is no proxy"
    return InvalidInput(
        f"{kind}. Write it like http://host:port in the settings, or leave it empty.",
        details=type(error).__name__,
        code="bad_proxy",
    )


def unreachable(error: httpx2.HTTPError | httpx2.InvalidURL, address: str) -> StudioError:
    """The error that a failed or broken connection stands for."""
    details = f"{type(error).__name__}: {error}"
    if isinstance(error, (httpx2.InvalidURL, httpx2.UnsupportedProtocol)):
        return InvalidInput(
            f"'{address}' is no address of a Hub. Write it like https://huggingface.co.",
            details=details,
        )
    if isinstance(error, httpx2.ProxyError):
        return NoAnswer("The proxy does not answer. Check it in the settings.", details=details)
    if isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout)):
        return NoAnswer(
            f"The Hub at {address} cannot be reached. Check the network or work offline.",
            details=details,
        )
    if isinstance(error, httpx2.TimeoutException):
        return NoAnswer("The Hub does not answer. Try again later.", details=details)
    return NoAnswer("The connection to the Hub broke off.", details=details)


def from_library(error: Exception, subject: Subject, *, had_token: bool) -> StudioError | None:
    """The error behind an exception of huggingface_hub or of what wraps it; None: not the Hub's.

    Follows `__cause__` and `__context__`, since transformers and datasets wrap what they catch.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        found = _of_one(current, subject, had_token=had_token)
        if found is not None:
            return found
        current = current.__cause__ or current.__context__
    return None


def _of_one(error: BaseException, subject: Subject, *, had_token: bool) -> StudioError | None:
    if isinstance(error, StudioError):
        return error
    if isinstance(error, library.OfflineModeIsEnabled):
        return offline()
    if isinstance(error, library.HFValidationError):
        return InvalidInput(SENTENCE, details=str(error))
    if isinstance(error, library.HfHubHTTPError):
        return refusal(error.response, subject, had_token=had_token)
    if isinstance(error, (httpx2.HTTPError, httpx2.InvalidURL)):
        from mistudio.hub.setup import endpoint

        return unreachable(error, endpoint())
    return None
