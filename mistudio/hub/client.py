"""Asks the Hub: search, facts and files of a repository, small pieces of a file.

Every request is made once and ends a few seconds after the last byte that came, since the library's
own calls retry for 23 seconds when a server is down.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

import httpx2
from huggingface_hub.utils import build_hf_headers

import mistudio
from mistudio.core.errors import InvalidInput, NoAnswer, StudioError
from mistudio.core.repositories import repository_problem
from mistudio.hub import errors, setup
from mistudio.hub.errors import Subject

LIMIT_S = 5.0  # without a byte
MOST_S = 60.0  # a list of very many files takes a while; no answer takes longer
KINDS = {"model": "models", "dataset": "datasets"}
_SEARCHED = {
    "models": ("safetensors", "gguf", "config"),
    "datasets": ("description",),
}
_MALFORMED = (
    KeyError,
    TypeError,
    AttributeError,
    ValueError,
)  # what reading a strange answer gives
_BOTH = ("downloads", "gated", "private", "cardData", "tags", "usedStorage", "lastModified", "sha")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository at one commit; `sha256` is None unless it is a large file."""

    path: str
    size: int
    git_sha1: str
    sha256: str | None

    @property
    def etag(self) -> str:
        """The name of its content in the cache."""
        return self.sha256 or self.git_sha1


@dataclass(frozen=True)
class RepoFacts:
    """A repository at one commit, as the Hub describes it; unknown facts are None or empty."""

    id: str
    kind: str
    revision: str
    sha: str
    licence: str | None
    downloads: int | None
    gated: bool
    private: bool
    size_bytes: int | None
    """storage the Hub counts for it, all revisions"""
    description: str
    files: tuple[RemoteFile, ...]
    raw: dict[str, Any]
    """everything the Hub said"""


def open_client() -> httpx2.Client:
    """A client that follows redirects and leaves the token out of those to other hosts.

    Raises `InvalidInput` for a proxy, of the settings or of the environment, that is none.
    """
    try:
        return httpx2.Client(
            follow_redirects=True, proxy=setup.current().proxy or None, timeout=LIMIT_S
        )
    except (ValueError, ImportError, httpx2.InvalidURL) as error:
        raise errors.bad_proxy(error) from error


def headers_for(token: str | None) -> dict[str, str]:
    """Request headers; no token takes the one of the user's token store, if there is one."""
    made = build_hf_headers(
        token=token or None, library_name="mistudio", library_version=mistudio.__version__
    )
    # compressed answers could neither be resumed nor counted
    return {**made, "accept-encoding": "identity"}


def file_url(kind: str, repo: str, sha: str, path: str) -> str:
    """Where a file is fetched."""
    prefix = "datasets/" if kind == "dataset" else ""
    return f"{setup.endpoint()}/{prefix}{repo}/resolve/{quote(sha, safe='')}/{quote(path)}"


def get(
    path: str,
    subject: Subject,
    token: str | None = None,
    *,
    params: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
    check: Callable[[], object] = lambda: None,
    most: int = 64_000_000,
) -> httpx2.Response:
    """The answer to one GET, its body (at most `most` bytes) read; `check` is called meanwhile.

    Raises `Offline`, `NoAnswer` after 5 s without a byte (60 s in all), or what the Hub's refusal
    stands for.
    """
    if setup.is_offline():
        raise errors.offline()
    sent = {**headers_for(token), **(headers or {})}
    address = setup.endpoint() if path.startswith("/") else ""

    def ask(heard: Callable[[], object]) -> httpx2.Response:
        with (
            open_client() as client,
            client.stream("GET", address + path, params=params, headers=sent) as response,
        ):
            body = bytearray()
            for block in response.iter_bytes():
                heard()
                body += block
                if len(body) > most:
                    raise StudioError("The Hub's answer is too long.")
            # a response of its own: the connection is closed here
            return httpx2.Response(
                response.status_code,
                headers=[
                    item
                    for item in response.headers.multi_items()
                    if item[0].lower() not in ("content-encoding", "content-length")
                ],
                content=bytes(body),
                request=response.request,
            )

    try:
        answer = _within(LIMIT_S, ask, check)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise errors.unreachable(error, setup.endpoint()) from error
    if answer.status_code >= 400:
        raise errors.refusal(answer, subject, had_token="authorization" in sent)
    return answer


def _within(
    seconds: float,
    ask: Callable[[Callable[[], object]], httpx2.Response],
    check: Callable[[], object],
) -> httpx2.Response:
    """Run `ask` in a thread until it has told nothing for so long; its errors come through.

    A thread, because looking up a name and a dripping answer know no time limit.
    """
    answers: list[httpx2.Response] = []
    failures: list[Exception] = []
    begun = time.monotonic()
    last = [begun]

    def run() -> None:
        try:
            answers.append(ask(lambda: last.__setitem__(0, time.monotonic())))
        except (httpx2.HTTPError, httpx2.InvalidURL, StudioError, OSError) as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="hub request", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
        check()
        if time.monotonic() > min(last[0] + seconds, begun + MOST_S) and thread.is_alive():
            raise NoAnswer(f"The Hub did not answer within {seconds:.0f} s. Try again later.")
    if failures:
        raise failures[0]
    return answers[0]


def search(
    kind: str,
    words: str,
    *,
    limit: int = 20,
    cursor: str = "",
    token: str | None = None,
    check: Callable[[], object] = lambda: None,
) -> tuple[list[RepoFacts], str]:
    """Repositories that fit words, most downloaded first, and the cursor of the next page or ""."""
    plural = KINDS[kind]
    params: dict[str, Any] = {
        "search": words,
        "limit": limit,
        "sort": "downloads",
        "direction": -1,
        "expand": [*_BOTH, *_SEARCHED[plural]],
    }
    if cursor:
        params["cursor"] = cursor
    answer = get(f"/api/{plural}", Subject(kind), token, params=params, check=check)
    following = answer.links.get("next", {}).get("url", "")
    said = _json(answer)
    if not isinstance(said, list):
        raise _no_hub(f"a {type(said).__name__} instead of a list")
    found = [_facts(kind, item, "main") for item in said]
    return found, str(httpx2.URL(following).params.get("cursor", "")) if following else ""


def repo_facts(
    kind: str,
    repo: str,
    revision: str = "main",
    token: str | None = None,
    check: Callable[[], object] = lambda: None,
) -> RepoFacts:
    """A repository at a revision with its files, sizes and checksums."""
    if problem := repository_problem(repo):
        raise InvalidInput(problem)
    path = f"/api/{KINDS[kind]}/{repo}/revision/{quote(revision, safe='')}"
    subject = Subject(kind, repo, revision)
    answer = get(path, subject, token, params={"blobs": "true"}, check=check)
    facts = _facts(kind, _json(answer), revision)
    if all(file.etag for file in facts.files):
        return facts
    # some mirrors tell no more than names here
    return replace(facts, files=_tree(facts, subject, token, check))


def _tree(
    facts: RepoFacts, subject: Subject, token: str | None, check: Callable[[], object]
) -> tuple[RemoteFile, ...]:
    """The files of a commit as its tree tells them, page by page."""
    commit = quote(facts.sha or facts.revision, safe="")
    path = f"/api/{KINDS[facts.kind]}/{facts.id}/tree/{commit}"
    params: dict[str, Any] = {"recursive": "true"}
    files: list[RemoteFile] = []
    while params:
        answer = get(path, subject, token, params=params, check=check)
        try:
            files += [
                RemoteFile(
                    str(entry["path"]),
                    int(entry["size"]),
                    str(entry["oid"]),
                    (entry.get("lfs") or {}).get("oid"),
                )
                for entry in _json(answer)
                if entry["type"] == "file" and _is_safe(str(entry["path"]))
            ]
        except _MALFORMED as error:
            raise _no_hub(f"{type(error).__name__}: {error}") from error
        following = answer.links.get("next", {}).get("url", "")
        params = dict(httpx2.URL(following).params) if following else {}
    return tuple(files)


def read_piece(
    facts: RepoFacts,
    path: str,
    first: int,
    last: int,
    token: str | None = None,
    check: Callable[[], object] = lambda: None,
) -> bytes:
    """Bytes `first` to `last` (inclusive) of a file, fewer at its end.

    Raises `StudioError` if the server knows no ranges and the file is larger than 64 MB.
    """
    url = file_url(facts.kind, facts.id, facts.sha, path)
    subject = Subject(facts.kind, facts.id, facts.revision, path)
    wanted = {"range": f"bytes={first}-{last}"}
    try:
        answer = get(url, subject, token, headers=wanted, check=check)
    except StudioError as error:
        if error.code != errors.NO_RANGE:
            raise
        answer = get(url, subject, token, check=check)
    body = answer.content
    return body if answer.status_code == 206 else body[first : last + 1]


def _json(answer: httpx2.Response) -> Any:
    try:
        return answer.json()
    except ValueError as error:
        raise _no_hub(str(error)) from error


def _no_hub(details: str) -> StudioError:
    return NoAnswer(
        "What answers at the Hub's address is no Hub. Check the address in the settings.",
        details=details,
        code=errors.NO_HUB,
    )


def _facts(kind: str, said: dict[str, Any], revision: str) -> RepoFacts:
    try:
        return _read_facts(kind, said, revision)
    except _MALFORMED as error:
        raise _no_hub(f"{type(error).__name__}: {error}") from error


def _read_facts(kind: str, said: dict[str, Any], revision: str) -> RepoFacts:
    card = said.get("cardData") or {}
    files = [
        RemoteFile(
            str(item["rfilename"]),
            int(item.get("size") or 0),
            str(item.get("blobId") or ""),
            (item.get("lfs") or {}).get("sha256"),
        )
        for item in said.get("siblings") or ()
        if _is_safe(str(item["rfilename"]))
    ]
    return RepoFacts(
        id=str(said["id"]),
        kind=kind,
        revision=revision,
        sha=str(said.get("sha") or ""),
        licence=_licence(card.get("license"), said.get("tags") or []),
        downloads=_count(said.get("downloads")),
        gated=bool(said.get("gated")),
        private=bool(said.get("private")),
        size_bytes=_count(said.get("usedStorage")),
        description=str(said.get("description") or "").strip(),
        files=tuple(files),
        raw=said,
    )


def _count(said: Any) -> int | None:
    return said if isinstance(said, int) else None


def _is_safe(path: str) -> bool:
    """Whether a name stays inside a folder; the Hub never sends another, a false server might."""
    parts = path.split("/")
    return bool(path) and not any(part in ("", ".", "..") for part in parts) and "\\" not in path


def _licence(said: Any, tags: list[str]) -> str | None:
    if isinstance(said, list):
        return ", ".join(str(item) for item in said) or None
    if said:
        return str(said)
    return next((tag.removeprefix("license:") for tag in tags if tag.startswith("license:")), None)
