"""What a repository in the cache can tell without the Hub."""

from __future__ import annotations

import json
from pathlib import Path

from mistudio.hub.client import RemoteFile, RepoFacts
from mistudio.hub.repo_cache import RepoCache

_INDEX = "model.safetensors.index.json"


def cached_ids(kind: str) -> set[str]:
    """Repositories of which the cache shows at least one commit."""
    from mistudio.hub.setup import cache_folder

    prefix = f"{kind}s--"
    return {
        folder.name.removeprefix(prefix).replace("--", "/")
        for folder in cache_folder().glob(f"{prefix}*")
        if any((folder / "snapshots").glob("*/*"))
    }


def cached_facts(kind: str, repo: str, revision: str = "main") -> RepoFacts | None:
    """A repository as its snapshot shows it, None if there is none; much is unknown then."""
    cache = RepoCache(kind, repo)
    sha = cache.commit_of(revision)
    snapshot = cache.snapshot(sha) if sha else None
    if sha is None or snapshot is None or not snapshot.is_dir():
        return None
    files = tuple(_remote(path, snapshot) for path in sorted(snapshot.rglob("*")) if path.is_file())
    if not files:
        return None
    return RepoFacts(
        id=repo,
        kind=kind,
        revision=revision,
        sha=sha,
        licence=None,
        downloads=None,
        gated=False,
        private=False,
        size_bytes=None,
        description="",
        files=files,
        raw={},
    )


def _remote(path: Path, snapshot: Path) -> RemoteFile:
    etag = path.readlink().name if path.is_symlink() else ""
    is_large = len(etag) == 64
    return RemoteFile(
        path.relative_to(snapshot).as_posix(),
        path.stat().st_size,
        "" if is_large else etag,
        etag if is_large else None,
    )


def lacks_shards(facts: RepoFacts) -> bool:
    """Whether a cached model's own index names weight files that are not here."""
    names = {file.path for file in facts.files}
    if _INDEX not in names or "model.safetensors" in names:
        return False
    index = RepoCache(facts.kind, facts.id).snapshot(facts.sha) / _INDEX
    try:
        needed = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError):
        return True
    return not needed <= names
