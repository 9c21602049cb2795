"""What the window and the command line ask of the Hub and of the cache: plain records.

Every function here may wait for a server or a disk: call it in a thread of its own.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mistudio.core.errors import InUse, NotFound, StudioError, Unsupported
from mistudio.core.repositories import from_address
from mistudio.jobs.runner import Studio
from mistudio.store.tables import JOBS, MODELS

if TYPE_CHECKING:
    from mistudio.hub.cache import CachedRevision
    from mistudio.hub.client import RepoFacts


@dataclass(frozen=True)
class FoundRepo:
    """One hit of a search; kind is "model" or "dataset", unknown numbers are None.

    `size_bytes` is what the Hub stores for it, all revisions together.
    """

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
    are in the cache already. `problem` is the sentence why it cannot be used, "" if it can; with
    several GGUF files one must be chosen, and the bytes are those of the first.
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
    """One revision of a repository in the cache; `revision` is its branch or tag, else its sha.

    `freed_bytes` come free when it is deleted: contents that other revisions share stay.
    """

    id: str
    kind: str
    revision: str
    sha: str
    size_bytes: int
    freed_bytes: int
    path: Path


def search(studio: Studio, kind: str, words: str, limit: int = 20) -> list[FoundRepo]:
    """Models or datasets that fit words, most downloaded first; offline those in the cache.

    Raises `NoAnswer` within 5 s, `RateLimited`.
    """
    from mistudio.hub import client, offline, setup

    here = offline.cached_ids(kind)
    if setup.is_offline():
        fitting = sorted(repo for repo in here if words.strip().lower() in repo.lower())
        return [
            FoundRepo(repo, kind, None, None, None, False, False, True) for repo in fitting[:limit]
        ]
    found, _ = client.search(kind, from_address(words)[0], limit=limit)
    return [
        FoundRepo(
            facts.id,
            kind,
            facts.size_bytes,
            facts.licence,
            facts.downloads,
            facts.gated,
            facts.private,
            facts.id in here,
        )
        for facts in found
    ]


def model_page(studio: Studio, repo: str, revision: str = "main", token: str = "") -> ModelPage:
    """What the Hub tells of a model, and its weights counted from a few kilobytes of its files.

    Offline it is read from the cache. Raises `NotFound`, `NeedsToken`, `NoAnswer`, `Offline`.
    """
    from mistudio.hub import client, offline, setup

    given = token or studio.tokens.of(repo)
    revision = revision or "main"
    if setup.is_offline():
        cached = offline.cached_facts("model", repo, revision)
        if cached is not None:
            return _page(cached, given)
    return _page(client.repo_facts("model", repo, revision, given), given)


def _page(facts: RepoFacts, token: str | None) -> ModelPage:
    from mistudio.hub import model_files, setup
    from mistudio.hub.repo_cache import RepoCache

    problem, ggufs = "", model_files.gguf_files(facts)
    paths: list[str] = []
    try:
        paths = model_files.wanted_files(facts)
    except Unsupported as error:
        problem = error.sentence
    except StudioError:
        paths = ggufs[:1]  # one is to be chosen
    taken = [file for file in facts.files if file.path in set(paths)]
    online = not setup.is_offline()
    config = model_files.read_config(facts, token) if online else {}
    weights = model_files.count_weights(facts, paths, token) if online else None
    return ModelPage(
        id=facts.id,
        sha=facts.sha,
        licence=facts.licence,
        gated=facts.gated,
        downloads=facts.downloads,
        download_bytes=sum(file.size for file in taken),
        cached_bytes=RepoCache("model", facts.id).cached_bytes(facts.sha, taken),
        files=[RepoFile(file.path, file.size) for file in facts.files],
        gguf_files=ggufs,
        architecture=model_files.architecture(config),
        needs_code=bool(config.get("auto_map")),
        linear_weights=weights.linear if weights else None,
        other_weights=weights.other if weights else None,
        has_pickle_only=model_files.has_pickle_only(facts),
        problem=problem,
    )


def cached_models(studio: Studio) -> list[CachedRepo]:
    """Revisions of models in the Hugging Face cache, by name."""
    return _cached("model")


def cached_datasets(studio: Studio) -> list[CachedRepo]:
    """Revisions of datasets in the Hugging Face cache, by name."""
    return _cached("dataset")


def _cached(kind: str) -> list[CachedRepo]:
    from mistudio.hub import cache

    def shown(item: CachedRevision) -> CachedRepo:
        return CachedRepo(**dataclasses.asdict(item))

    return [shown(item) for item in cache.cached_revisions(kind)]


def delete_cached(studio: Studio, repo_kind: str, id: str, sha: str = "") -> int:
    """Delete a revision from the cache (all of the repository if `sha` is ""); the bytes freed.

    What an unfinished download left goes with the last revision. Raises `InUse` with what needs
    it, `NotFound`.
    """
    from mistudio.hub import cache
    from mistudio.hub.repo_cache import RepoCache

    folder = RepoCache(repo_kind, id).folder.absolute() / "snapshots"
    for row in MODELS.select(studio.db()):
        path = studio.paths.absolute(row.path)
        if path.is_relative_to(folder / sha if sha else folder):
            raise InUse(f"Used by model {row.name!r}.")
    _require_no_download(studio, repo_kind, id)
    return cache.delete_revision(repo_kind, id, sha)


def _require_no_download(studio: Studio, kind: str, repo: str) -> None:
    if (kind, repo) in repositories_under_way(studio):
        raise InUse(f"'{repo}' is being downloaded.")


def repositories_under_way(studio: Studio) -> set[tuple[str, str]]:
    """(kind, id) of the repositories that queued, running, held or interrupted jobs download."""
    return {
        (kind, str(job.config.get("repo")))
        for kind in ("model", "dataset")
        for job in JOBS.select(
            studio.db(),
            "kind = ? AND status IN ('queued', 'running', 'paused', 'interrupted')",
            [f"download_{kind}"],
        )
    }


@dataclass(frozen=True)
class UnfinishedDownload:
    """Bytes in the cache that a download which did not end left for its retry."""

    id: str
    kind: str
    size_bytes: int


def unfinished_downloads(studio: Studio) -> list[UnfinishedDownload]:
    """Repositories with beginnings of files in the cache."""
    from mistudio.hub import cache

    return [UnfinishedDownload(item.id, item.kind, item.size_bytes) for item in cache.leftovers()]


def delete_unfinished(studio: Studio, repo_kind: str, id: str) -> int:
    """Delete what unfinished downloads of a repository left; the bytes freed.

    Raises `InUse` while it is being downloaded, `NotFound` if there is nothing.
    """
    from mistudio.hub import cache

    _require_no_download(studio, repo_kind, id)
    freed = cache.delete_leftover(repo_kind, id)
    if not freed:
        raise NotFound(f"There is no unfinished download of '{id}'.")
    return freed


@dataclass(frozen=True)
class TokenState:
    """Whether the user's Hugging Face token store (or HF_TOKEN) gives a token."""

    has_stored: bool


def token_state() -> TokenState:
    """Whether requests without a typed token carry a stored one."""
    from mistudio.hub import tokens

    return TokenState(tokens.has_stored_token())


def token_problem(token: str) -> str:
    """The sentence that says why a text is no access token, "" if it is one or empty."""
    from mistudio.hub import tokens

    return tokens.token_problem(token)


def remember_token(token: str) -> str:
    """Keep a token in the user's Hugging Face token store; returns the user it belongs to.

    Raises `InvalidInput`, `NeedsToken` if the Hub does not know it, `NoAnswer`, `Offline`.
    """
    from mistudio.hub import tokens

    return tokens.remember(token)


def forget_token() -> bool:
    """Remove the active token from the user's token store; whether there was one."""
    from mistudio.hub import tokens

    return tokens.forget()


def download_room(studio: Studio, bytes: int) -> tuple[int, int, int]:
    """(bytes needed, bytes free, bytes of the disk to keep free) where the cache lies."""
    from mistudio.core.disk_room import free_bytes, reserved_bytes
    from mistudio.hub import setup

    folder = setup.cache_folder()
    return bytes, free_bytes(folder), reserved_bytes(folder)
