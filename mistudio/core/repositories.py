"""Repository ids of the Hugging Face Hub: what is one, and what a pasted address means."""

from __future__ import annotations

import re

_SHAPE = re.compile(r"^(?:[A-Za-z0-9_.-]+/)?[A-Za-z0-9_.-]+$")
_ADDRESS = re.compile(
    r"^https?://[^/]+/(?:datasets/|models/)?(?P<id>[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)?)"
    r"(?:/(?:tree|blob|resolve)/(?P<revision>[^/?#]+))?"
)
_RESERVED = ("tree", "blob", "resolve", "viewer", "discussions")
SENTENCE = "Write owner/name or name, for example gpt2."


def repository_problem(text: str) -> str:
    """The sentence that says why a text is no repository id, "" if it is one."""
    if not _SHAPE.match(text) or "--" in text or ".." in text:
        return SENTENCE
    for part in text.split("/"):
        if not 1 <= len(part) <= 96 or part[0] in "-." or part[-1] in "-.":
            return SENTENCE
    return ""


def from_address(text: str) -> tuple[str, str]:
    """(id, revision) of a pasted Hub address; any other text comes back stripped, revision ""."""
    found = _ADDRESS.match(text.strip())
    if found is None:
        return text.strip(), ""
    repo = found["id"]
    owner, _, name = repo.partition("/")
    return (owner if name in _RESERVED else repo), found["revision"] or ""
