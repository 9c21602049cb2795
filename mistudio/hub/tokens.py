"""The user's own Hugging Face token store: read, written and cleared by the library."""

from __future__ import annotations

import re

import huggingface_hub
from huggingface_hub.utils import get_stored_tokens

from mistudio.core.errors import InvalidInput, NeedsToken, StudioError
from mistudio.hub import client, errors
from mistudio.hub.errors import Subject

_SHAPE = re.compile(r"^hf_[A-Za-z0-9]{20,}$")


def token_problem(token: str) -> str:
    """The sentence that says why a text is no access token, "" if it is one or empty."""
    if not token or _SHAPE.match(token):
        return ""
    return "An access token begins with hf_ and has 20 letters and digits or more after it."


def has_stored_token() -> bool:
    """Whether requests without a typed token carry the user's stored one."""
    return huggingface_hub.get_token() is not None


def who_am_i(token: str | None = None) -> str:
    """The user's name on the Hub behind a token (None: the stored one).

    Raises `NeedsToken` for a token that is not known, `NoAnswer`, `Offline`.
    """
    try:
        answer = client.get("/api/whoami-v2", Subject(), token)
    except NeedsToken as error:
        raise NeedsToken(
            "The Hub does not know this access token. Give another one.", details=error.details
        ) from error
    return str(answer.json().get("name", ""))


def remember(token: str) -> str:
    """Keep a token in the library's store, after the Hub has confirmed it; returns the user.

    Raises `InvalidInput`, `NeedsToken`, `NoAnswer`, `Offline`.
    """
    if not token or token_problem(token):
        raise InvalidInput(token_problem(token) or "There is no access token to remember.")
    user = who_am_i(token)  # within 5 s; the library itself would try much longer
    try:
        huggingface_hub.login(token=token, add_to_git_credential=False)
    except Exception as error:
        known = errors.from_library(error, Subject(), had_token=True)
        if known is not None:
            raise known from error
        if isinstance(error, ValueError):
            raise NeedsToken("The Hub does not accept this access token.") from error
        raise
    return user


def forget() -> bool:
    """Remove the active token from the library's store; whether there was one there.

    Other stored tokens stay. Raises `StudioError` if the environment still gives one.
    """
    active = huggingface_hub.get_token()
    names = [name for name, token in get_stored_tokens().items() if token == active]
    if active is None:
        return False
    try:
        for name in names:
            huggingface_hub.logout(name)
        if not names:
            huggingface_hub.logout()
    except OSError as error:
        raise StudioError(
            "The stored token is gone, but HF_TOKEN in the environment still gives one.",
            details=str(error),
        ) from error
    return True
