"""Which SAEs a repository of the Hub holds, before any of their files is fetched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mistudio.jobs.runner import Studio

if TYPE_CHECKING:
    from mistudio.hub.client import RepoFacts


@dataclass(frozen=True)
class OfferedSae:
    """One SAE: its folder ("" is the topmost) or file, which format it is of, its bytes."""

    place: str
    format: str
    size_bytes: int


@dataclass(frozen=True)
class SaeRepoPage:
    """A repository and the SAEs in it, in the order of their layers."""

    id: str
    licence: str | None
    gated: bool
    saes: list[OfferedSae]


def repository(studio: Studio, repo: str, revision: str = "main", token: str = "") -> SaeRepoPage:
    """What the Hub tells of a repository; offline the part of it that is in the cache.

    It waits for a server: call it in a thread of its own. Raises `NotFound`, `NeedsToken`,
    `NoAnswer`, `Offline`.
    """
    from mistudio.hub import client, offline, setup

    revision = revision or "main"
    if setup.is_offline():
        cached = offline.cached_facts("model", repo, revision)
        if cached is not None:
            return _page(cached)
    return _page(client.repo_facts("model", repo, revision, token or studio.tokens.of(repo)))


def _page(facts: RepoFacts) -> SaeRepoPage:
    from mistudio.ml.formats.listing import saes_of

    sizes = {file.path: file.size for file in facts.files}
    offered = [
        OfferedSae(one.place, one.format.title, sum(sizes[name] for name in one.files))
        for one in saes_of(sizes)
    ]
    return SaeRepoPage(facts.id, facts.licence, facts.gated, offered)
