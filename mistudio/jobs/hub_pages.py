"""What the window and the command line ask of the Hub and of the cache: plain records.

Every function here may wait for a server or a disk: call it in a thread of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mistudio.core.settings import Settings


@dataclass(frozen=True)
class FoundRepo:
    """One hit of a search; kind is "model" or "dataset", unknown numbers are None."""

    id: str
    kind: str
    size_bytes: int | None
    licence: str | None
    downloads: int | None
    gated: bool
    private: bool
    cached: bool


@dataclass(frozen=True)
class RepoFile:
    """A file of a repository and its size in bytes."""

    path: str
    size: int


@dataclass(frozen=True)
class ModelPage:
    """What is known of a model before it is downloaded.

    `download_bytes` are those of the files that a download takes, `cached_bytes` how many of them
    are in the cache already. `problem` is the sentence why it cannot be used, "" if it can.
    """

    id: str
    sha: str
    licence: str | None
    gated: bool
    downloads: int | None
    download_bytes: int
    cached_bytes: int
    files: list[RepoFile]
    gguf_files: list[str]
    architecture: str | None
    needs_code: bool
    linear_weights: int | None
    other_weights: int | None
    has_pickle_only: bool
    problem: str


@dataclass(frozen=True)
class CachedRepo:
    """One revision of a repository in the cache; `revision` is its branch or tag, else its sha."""

    id: str
    kind: str
    revision: str
    sha: str
    size_bytes: int
    path: Path


def configure(settings: Settings) -> None:
    """Ask the Hub that the settings name, or none when they say offline."""
    from mistudio.hub import setup

    setup.configure(settings.hub_address, settings.offline, settings.proxy)
