"""Where one repository lies in the user's Hugging Face cache, laid out the library's way.

models--OWNER--NAME/blobs/<etag>              contents, named by SHA-256 or git SHA-1
                   /blobs/<etag>.part         ours: what has arrived of a content
                   /snapshots/<commit>/<path> links to the blobs, relative
                   /refs/<branch or tag>      the commit it names
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub.file_download import repo_folder_name

from mistudio.hub import setup
from mistudio.hub.client import RemoteFile

PART = ".part"


class RepoCache:
    """The cache folder of one repository; nothing is created before it is needed."""

    def __init__(self, kind: str, repo: str, cache: Path | None = None) -> None:
        """`kind` is "model" or "dataset"; `cache` is the user's unless another is named."""
        base = cache or setup.cache_folder()
        name = repo_folder_name(repo_id=repo, repo_type=kind)
        self.folder = base / name
        self.locks = base / ".locks" / name

    def blob(self, file: RemoteFile) -> Path:
        return self.folder / "blobs" / file.etag

    def part(self, file: RemoteFile) -> Path:
        return self.folder / "blobs" / (file.etag + PART)

    def lock(self, file: RemoteFile) -> Path:
        """The lock file that the library takes for the same content."""
        return self.locks / f"{file.etag}.lock"

    def snapshot(self, sha: str) -> Path:
        return self.folder / "snapshots" / sha

    def commit_of(self, revision: str) -> str | None:
        """The commit that a branch or tag named when it was last fetched; a commit is itself."""
        if revision.startswith("/") or ".." in revision.split("/"):
            return None  # what git takes for no name, and a path would leave the folder
        if self.snapshot(revision).is_dir():
            return revision
        try:
            return (self.folder / "refs" / revision).read_text().strip() or None
        except OSError:
            return None

    def has(self, sha: str, file: RemoteFile) -> bool:
        """Whether a file of a commit is here in full (by its size)."""
        return any(
            _size(path) == file.size for path in (self.blob(file), self.snapshot(sha) / file.path)
        )

    def cached_bytes(self, sha: str, files: Iterable[RemoteFile]) -> int:
        """Bytes of these files that need not be fetched, beginnings included."""
        return sum(
            file.size if self.has(sha, file) else min(_size(self.part(file)) or 0, file.size)
            for file in files
        )

    def is_complete(self, sha: str, files: Iterable[RemoteFile]) -> bool:
        """Whether every file has its place in the commit's snapshot."""
        snapshot = self.snapshot(sha)
        return all(_size(snapshot / file.path) == file.size for file in files)

    def prepare(self) -> None:
        """Create the folders that a content needs; without snapshots the library would warn."""
        (self.folder / "blobs").mkdir(parents=True, exist_ok=True)
        (self.folder / "snapshots").mkdir(exist_ok=True)
        tag = self.folder.parent / "CACHEDIR.TAG"
        if not tag.exists():
            # the standard's mark for backup programs, as the library writes it
            tag.write_text("Signature: 8a477f597d28d172789f06886806bc55\n")

    def finish(self, revision: str, sha: str, files: Iterable[RemoteFile]) -> Path:
        """Link every file into the commit's snapshot and name the commit; returns the snapshot.

        A new snapshot appears at once with all its files. Raises OSError.
        """
        snapshot = self.snapshot(sha)
        if snapshot.is_dir():
            self._link(snapshot, files)
        else:
            # at the same depth, so that relative links stay true after the rename
            building = self.folder / "building"
            building.mkdir(exist_ok=True)
            try:
                fresh = Path(tempfile.mkdtemp(dir=building))
                fresh.chmod(self.folder.stat().st_mode)
                self._link(fresh, files)
                fresh.replace(snapshot)
            finally:
                shutil.rmtree(building, ignore_errors=True)
        self._name(revision, sha)
        return snapshot

    def _link(self, folder: Path, files: Iterable[RemoteFile]) -> None:
        for file in files:
            pointer = folder / file.path
            if _size(pointer) == file.size:
                continue
            pointer.parent.mkdir(parents=True, exist_ok=True)
            pointer.unlink(missing_ok=True)
            blob = self.blob(file)
            try:
                pointer.symlink_to(os.path.relpath(blob, pointer.parent))
            except OSError:
                # a disk without links: the library moves the content there, too
                shutil.move(blob, pointer)

    def _name(self, revision: str, sha: str) -> None:
        if revision == sha:
            return
        ref = self.folder / "refs" / revision
        if ref.is_file() and ref.read_text() == sha:
            return
        ref.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self.folder)
        with os.fdopen(handle, "w") as stream:
            stream.write(sha)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(ref)

    def unlinked(self) -> list[Path]:
        """Part files, and contents that no snapshot shows: what unfinished downloads left."""
        blobs = self.folder / "blobs"
        if not blobs.is_dir():
            return []
        shown = {
            os.path.realpath(link)
            for link in (self.folder / "snapshots").rglob("*")
            if link.is_symlink()
        }
        return sorted(
            path
            for path in blobs.iterdir()
            if path.is_file()
            and not path.name.endswith(".incomplete")  # the library's own, maybe at work now
            and (path.name.endswith(PART) or os.path.realpath(path) not in shown)
        )

    def drop_unlinked(self) -> int:
        """Delete what unfinished downloads left; returns the bytes. Raises OSError."""
        freed = 0
        for path in self.unlinked():
            freed += path.lstat().st_size
            path.unlink()
        self.drop_if_empty()
        return freed

    def drop_if_empty(self) -> None:
        """Remove the repository's folders if they hold no file."""
        if self.folder.is_dir() and not any(not p.is_dir() for p in self.folder.rglob("*")):
            shutil.rmtree(self.folder, ignore_errors=True)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
