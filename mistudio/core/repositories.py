"""Repository ids of the Hugging Face Hub: what is one, and what a pasted address means."""

from __future__ import annotations

import re
from urllib.parse import unquote

_SHAPE = re.compile(r"(?:[A-Za-z0-9_.-]+/)?[A-Za-z0-9_.-]+")
_ADDRESS = re.compile(
    r"(?:https?://[^/\s]+|(?:www\.)?(?:huggingface\.co|hf\.co))/(?P<path>[^?#\s]+)\S*"
)
_KINDS = ("datasets", "models")
_PAGES = ("tree", "blob", "resolve", "raw", "viewer", "discussions", "commits", "commit")
_OF_REVISION = ("tree", "blob", "resolve", "raw", "commits", "commit")
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{20,}")
SENTENCE = "Write owner/name or name, for example gpt2."
TOKEN_SENTENCE = "This is an access token; write it into the field for it."


def repository_problem(text: str) -> str:
    """The sentence that says why a text is no repository id, "" if it is one.

    An access token reads like a name, but must not get into a job's row or a search.
    """
    if _TOKEN.search(text):
        return TOKEN_SENTENCE
    if not _SHAPE.fullmatch(text) or "--" in text or ".." in text:
        return SENTENCE
    for part in text.split("/"):
        if not 1 <= len(part) <= 96 or part[0] in "-." or part[-1] in "-.":
            return SENTENCE
    return ""


def from_address(text: str) -> tuple[str, str]:
    """(id, revision) of a pasted Hub address; any other text comes back stripped, revision ""."""
    repo, revision, _ = _parts_of(text)
    return repo, revision


def place_in_address(text: str) -> str:
    """The folder or file of the repository that a pasted Hub address shows, "" if it shows none."""
    return _parts_of(text)[2]


def _parts_of(text: str) -> tuple[str, str, str]:
    """Id, revision, and folder or file of an address."""
    found = _ADDRESS.fullmatch(text.strip())
    if found is None:
        return text.strip(), "", ""
    parts = [unquote(part) for part in found["path"].strip("/").split("/")]
    if parts[0] in _KINDS and len(parts) > 1:
        parts = parts[1:]
    page = next((i for i, part in enumerate(parts[1:3], 1) if part in _PAGES), 2)
    repo = "/".join(parts[: min(page, 2)])
    if len(parts) <= page + 1 or parts[page] not in _OF_REVISION:
        return repo, "", ""
    return repo, parts[page + 1], "/".join(parts[page + 2 :])
