"""What the user's Hugging Face cache holds, and deleting from it with the library's own tools."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CacheNotFound, HFCacheInfo, scan_cache_dir

from mistudio.core.errors import NotFound
from mistudio.hub import setup
from mistudio.hub.repo_cache import RepoCache


@dataclass(frozen=True)
class CachedRevision:
    """One commit of a repository in the cache; `revision` is a branch or tag of it, else itself.

    `freed_bytes` come free when it is deleted: contents that other commits share stay.
    """

    id: str
    kind: str
    revision: str
    sha: str
    size_bytes: int
    freed_bytes: int
    path: Path


@dataclass(frozen=True)
class Leftover:
    """What unfinished downloads of a repository left: beginnings and contents nothing shows."""

    id: str
    kind: str
    size_bytes: int


def scan() -> HFCacheInfo | None:
    """The library's view of the cache, None if there is none yet."""
    try:
        return scan_cache_dir(setup.cache_folder())
    except CacheNotFound:
        return None


def cached_revisions(kind: str = "") -> list[CachedRevision]:
    """Commits in the cache, of models or datasets or both, by name."""
    found = scan()
    if found is None:
        return []
    wanted = (kind,) if kind else ("model", "dataset")
    return sorted(
        (
            CachedRevision(
                repo.repo_id,
                str(repo.repo_type),
                _shown(revision.refs) or revision.commit_hash,
                revision.commit_hash,
                revision.size_on_disk,
                found.delete_revisions(revision.commit_hash).expected_freed_size,
                revision.snapshot_path,
            )
            for repo in found.repos
            if repo.repo_type in wanted
            for revision in repo.revisions
            if revision.nb_files
        ),
        key=lambda item: (item.kind, item.id.lower(), item.revision),
    )


def _shown(refs: frozenset[str]) -> str:
    return "main" if "main" in refs else min(refs, default="")


def leftovers() -> list[Leftover]:
    """Unfinished downloads in the cache."""
    base = setup.cache_folder()
    found: list[Leftover] = []
    for kind in ("model", "dataset"):
        for folder in sorted(base.glob(f"{kind}s--*")):
            repo = folder.name.removeprefix(f"{kind}s--").replace("--", "/")
            size = sum(path.lstat().st_size for path in RepoCache(kind, repo).unlinked())
            if size:
                found.append(Leftover(repo, kind, size))
    return found


def delete_leftover(kind: str, repo: str) -> int:
    """Delete what unfinished downloads of a repository left; returns the bytes. Raises OSError."""
    return RepoCache(kind, repo).drop_unlinked()


def delete_revision(kind: str, repo: str, sha: str = "") -> int:
    """Delete one commit of a repository, all of it if `sha` is empty; returns the bytes freed.

    Contents that another commit shares stay. Raises `NotFound`, OSError.
    """
    found = scan()
    matching = [
        item
        for item in (found.repos if found else ())
        if item.repo_id == repo and item.repo_type == kind
    ]
    known = [r.commit_hash for item in matching for r in item.revisions]
    chosen = [commit for commit in known if sha in ("", commit)]
    if found is None or not chosen:
        if matching and not sha:
            return delete_leftover(kind, repo)
        raise NotFound(f"'{repo}' is not in the cache.")
    cache = RepoCache(kind, repo)
    before = _blob_bytes(cache)
    found.delete_revisions(*chosen).execute()
    if cache.folder.is_dir() and len(chosen) == len(known):
        cache.drop_unlinked()
    shutil.rmtree(cache.locks, ignore_errors=True)
    return before - _blob_bytes(cache)


def _blob_bytes(cache: RepoCache) -> int:
    """Bytes of real files, links not followed."""
    return sum(
        path.lstat().st_size
        for path in cache.folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    )
