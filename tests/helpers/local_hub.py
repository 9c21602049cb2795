"""A stand-in for the Hugging Face Hub on the loopback, with faults on demand.

Serves the folders root/models/OWNER/NAME and root/datasets/OWNER/NAME the way the Hub does: search
with pages, repository facts, file trees, files with ranges, entity tags and commit ids.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

GOOD_TOKEN = "hf_localgoodtokenlocalgoodtoken"
BLOCK = 65_536


@dataclass
class FileFaults:
    """What goes wrong with one file (by its path in the repository)."""

    cuts: list[int] = field(default_factory=list)
    """the next answers break off after so many bytes each"""
    stall_after: int | None = None
    """goes silent after so many bytes of an answer"""
    stalls: int = 1_000_000
    """how many answers stall"""
    corrupt: int = 0
    """how many answers carry zeros instead of the content"""
    short_by: int = 0
    """ends so many bytes early, and says so in Content-Length"""
    statuses: list[int] = field(default_factory=list)
    """the next answers are these errors instead of the file"""


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    range: str | None
    authorization: str | None
    agent: str | None


@dataclass(frozen=True)
class ServedFile:
    path: Path
    size: int
    sha256: str
    oid: str
    is_lfs: bool

    @property
    def etag(self) -> str:
        return f'"{self.sha256 if self.is_lfs else self.oid}"'


class LocalHub(ThreadingHTTPServer):
    """The server; set its fields to make it behave badly. `close` ends every connection."""

    daemon_threads = False
    block_on_close = True

    def __init__(self, root: Path, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.root = root
        self.log: list[Seen] = []
        self.tokens = {GOOD_TOKEN: "alice"}
        self.gated: dict[str, set[str]] = {}
        """repositories whose files only these users may read"""
        self.private: set[str] = set()
        self.facts: dict[str, dict[str, Any]] = {}
        """fields that replace or add to a repository's facts, such as downloads or cardData"""
        self.files: dict[str, FileFaults] = {}
        self.statuses: list[int] = []
        """the next answers of any kind are these errors"""
        self.status_all = 0
        """every answer is this error"""
        self.retry_after_s: float | None = None
        """sent with every 429"""
        self.has_ranges = True
        self.refuses_ranges = False
        """answers every range with 416"""
        self.names_only = False
        """lists of files tell neither sizes nor checksums, as some mirrors do"""
        self.branches: dict[str, set[str]] = {}
        """further names of a repository's only commit"""
        self.moved: dict[str, str] = {}
        """old names of repositories, which are redirected to the new ones"""
        self.delay_s = 0.0
        """before every answer"""
        self.rate: float | None = None
        """bytes per second of a file"""
        self.cdn = False
        """large files come from another address, by a redirect"""
        self.lfs_from = 100_000
        """files of so many bytes or more are large files, named by SHA-256"""
        self.sent: dict[str, int] = {}
        """body bytes sent per file"""
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self._connections: set[socket.socket] = set()
        self._listings: dict[tuple[str, str], tuple[str, dict[str, ServedFile]]] = {}
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), name="local hub")

    def start(self) -> LocalHub:
        self._thread.start()
        return self

    def close(self) -> None:
        self.closing.set()
        self.shutdown()
        with self.lock:
            open_now = list(self._connections)
        for connection in open_now:
            _hang_up(connection)
        self.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add(self, kind: str, repo: str, files: dict[str, bytes]) -> None:
        """Add files to a repository; kind is "models" or "datasets"."""
        for name, content in files.items():
            path = self.root / kind / repo / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self._listings.pop((kind, repo), None)

    def faults(self, name: str) -> FileFaults:
        """The faults of a file, to be changed."""
        return self.files.setdefault(name, FileFaults())

    def requests(self, part: str, method: str = "GET") -> list[Seen]:
        """Requests whose path holds a text."""
        with self.lock:
            return [seen for seen in self.log if part in seen.path and seen.method == method]

    def folder(self, kind: str, repo: str) -> Path | None:
        path = self.root / kind / repo
        return path if path.is_dir() and any(item.is_file() for item in path.rglob("*")) else None

    def ids(self, kind: str) -> list[str]:
        base = self.root / kind
        return sorted(
            f"{owner.name}/{repo.name}"
            for owner in (base.iterdir() if base.is_dir() else ())
            for repo in owner.iterdir()
            if repo.is_dir()
        )

    def listing(self, kind: str, repo: str) -> tuple[str, dict[str, ServedFile]]:
        """The commit id and the files of a repository, hashed once."""
        with self.lock:
            if (kind, repo) not in self._listings:
                self._listings[kind, repo] = _listing(self.root / kind / repo, self.lfs_from)
            return self._listings[kind, repo]

    def process_request(self, request: Any, client_address: Any) -> None:
        with self.lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self.lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""


def _listing(folder: Path, lfs_from: int) -> tuple[str, dict[str, ServedFile]]:
    found: dict[str, ServedFile] = {}
    for path in sorted(item for item in folder.rglob("*") if item.is_file()):
        content = path.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        name = path.relative_to(folder).as_posix()
        found[name] = ServedFile(
            path, len(content), hashlib.sha256(content).hexdigest(), blob, len(content) >= lfs_from
        )
    told = "".join(name + file.oid for name, file in found.items())
    return hashlib.sha1(told.encode()).hexdigest(), found


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LocalHub

    def log_message(self, format: str, *args: Any) -> None:
        return

    def do_GET(self) -> None:
        self.route()

    def do_HEAD(self) -> None:
        self.route()

    def do_POST(self) -> None:
        self.route()

    def answer(self, status: int, body: Any = b"", headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status: int, code: str = "", message: str = "injected") -> None:
        headers = {"X-Error-Message": message}
        if code:
            headers["X-Error-Code"] = code
        if status == 429 and self.server.retry_after_s is not None:
            headers["Retry-After"] = str(int(self.server.retry_after_s))
        self.answer(status, {"error": message}, headers)

    def user(self) -> str | None:
        """The name behind the token; "" for no token, None for a bad one."""
        given = self.headers.get("Authorization") or ""
        return self.server.tokens.get(given.removeprefix("Bearer ")) if given else ""

    def permitted(self, kind: str, repo: str, *, content: bool) -> bool:
        hub, user = self.server, self.user()
        if user is None:
            self.refuse(401, message="Invalid credentials in Authorization header")
        elif hub.folder(kind, repo) is None or (repo in hub.private and not user):
            self.refuse(404 if user else 401, "RepoNotFound", "Repository not found")
        elif content and repo in hub.gated and user not in hub.gated[repo]:
            told = f"Access to {kind[:-1]} {repo} is restricted."
            self.refuse(403 if user else 401, "GatedRepo", told)
        else:
            return True
        return False

    def route(self) -> None:
        hub = self.server
        parts = urlsplit(self.path)
        query = parse_qs(parts.query, keep_blank_values=True)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with hub.lock:
            hub.log.append(
                Seen(
                    self.command,
                    self.path,
                    self.headers.get("Range"),
                    self.headers.get("Authorization"),
                    self.headers.get("User-Agent"),
                )
            )
            injected = hub.statuses.pop(0) if hub.statuses else hub.status_all
        if hub.delay_s:
            hub.closing.wait(hub.delay_s)
        if injected:
            return self.refuse(injected)
        path = unquote(parts.path)
        if path == "/api/whoami-v2":
            return self.whoami()
        if found := re.fullmatch(r"/api/(models|datasets)", path):
            return self.search(found[1], path, query)
        if found := re.fullmatch(r"/api/(models|datasets)/(.+)", path):
            return self.api(found[1], found[2], query, body)
        if found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+|[^/]+)/resolve/([^/]+)/(.+)", path):
            kind = "datasets" if found[1] else "models"
            return self.resolve(kind, found[2], found[3], found[4])
        if found := re.fullmatch(r"/cdn/(models|datasets)/([^/]+/[^/]+)/(.+)", path):
            return self.send_file(found[3], hub.listing(found[1], found[2])[1][found[3]], {})
        return self.refuse(404, message=f"no route {path}")

    def whoami(self) -> None:
        user = self.user()
        if not user:
            return self.refuse(401, message="Invalid username or password.")
        token = {"displayName": "t", "role": "read"}
        told = {"type": "user", "name": user, "fullname": user, "auth": {"accessToken": token}}
        return self.answer(200, told)

    def search(self, kind: str, path: str, query: dict[str, list[str]]) -> None:
        words = query.get("search", [""])[0].lower()
        ids = [repo for repo in self.server.ids(kind) if words in repo.lower()]
        first = int(query.get("cursor", ["0"])[0])
        limit = int(query.get("limit", ["1000"])[0])
        headers = {}
        if first + limit < len(ids):
            following = urlencode({**query, "cursor": [first + limit]}, doseq=True)
            headers["Link"] = f'<{self.server.url}{path}?{following}>; rel="next"'
        page = [self.facts(kind, repo) for repo in ids[first : first + limit]]
        return self.answer(200, page, headers)

    def api(self, kind: str, rest: str, query: dict[str, list[str]], body: bytes) -> None:
        pieces = rest.split("/")
        words = ("revision", "tree", "paths-info", "refs", "commits")
        length = 1 if len(pieces) == 1 or pieces[1] in words else 2
        repo, what = "/".join(pieces[:length]), (pieces[length] if len(pieces) > length else "")
        after = "/".join(pieces[length + 1 :])
        if repo in self.server.moved:
            where = self.path.replace(f"/{repo}", f"/{self.server.moved[repo]}", 1)
            return self.answer(307, b"", {"Location": where})
        if not self.permitted(kind, repo, content=what in ("tree", "paths-info")):
            return None
        sha, files = self.server.listing(kind, repo)
        revision, _, sub = (after, "", "") if what == "revision" else after.partition("/")
        if revision not in ("", "main", sha, *self.server.branches.get(repo, ())):
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if what in ("", "revision"):
            told = self.facts(kind, repo)
            with_sizes = query.get("blobs", [""])[0].lower() in ("1", "true")
            with_sizes = with_sizes and not self.server.names_only
            told["siblings"] = [_sibling(n, file, with_sizes) for n, file in files.items()]
            return self.answer(200, told)
        if what == "refs":
            branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": sha}
            return self.answer(200, {"branches": [branch], "tags": [], "converts": []})
        if what == "commits":
            date = "2026-01-01T00:00:00.000Z"
            commit = {"id": sha, "title": "first", "message": "", "authors": [], "date": date}
            return self.answer(200, [commit])
        if what == "paths-info":
            return self.answer(200, self.paths_info(files, body))
        recursive = query.get("recursive", [""])[0].lower() in ("true", "1")
        tree = _tree(files, sub.strip("/"), recursive)
        if tree is None:
            return self.refuse(404, "EntryNotFound", f"{sub} does not exist on {revision}")
        return self.answer(200, tree)

    def paths_info(self, files: dict[str, ServedFile], body: bytes) -> list[dict[str, Any]]:
        if "json" in (self.headers.get("Content-Type") or ""):
            paths = json.loads(body)["paths"]
        else:
            paths = parse_qs(body.decode()).get("paths", [])
        told: list[dict[str, Any]] = []
        for name in (path.strip("/") for path in paths):
            if name in files:
                told.append(_entry(name, files[name]))
            elif not name or any(known.startswith(name + "/") for known in files):
                told.append({"type": "directory", "path": name, "oid": "0" * 40, "size": 0})
        return told

    def facts(self, kind: str, repo: str) -> dict[str, Any]:
        sha, files = self.server.listing(kind, repo)
        told: dict[str, Any] = {
            "_id": "x",
            "id": repo,
            "sha": sha,
            "author": repo.split("/")[0],
            "private": repo in self.server.private,
            "gated": "manual" if repo in self.server.gated else False,
            "disabled": False,
            "downloads": 12,
            "likes": 3,
            "tags": [],
            "usedStorage": sum(file.size for file in files.values()),
            "createdAt": "2026-01-01T00:00:00.000Z",
            "lastModified": "2026-01-02T00:00:00.000Z",
        }
        if kind == "models":
            told |= {"modelId": repo, "pipeline_tag": "text-generation"}
        return told | self.server.facts.get(repo, {})

    def resolve(self, kind: str, repo: str, revision: str, name: str) -> None:
        hub = self.server
        if not self.permitted(kind, repo, content=True):
            return None
        sha, files = hub.listing(kind, repo)
        if revision not in ("main", sha):
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if name not in files:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        file = files[name]
        headers = {"X-Repo-Commit": sha, "ETag": file.etag}
        if file.is_lfs:
            headers |= {"X-Linked-Size": str(file.size), "X-Linked-Etag": file.etag}
        if file.is_lfs and hub.cdn and self.command == "GET":
            # another name of the same machine is another origin to a client
            where = f"http://localhost:{hub.server_address[1]}/cdn/{kind}/{repo}/{name}"
            return self.answer(302, b"", headers | {"Location": where})
        return self.send_file(name, file, headers)

    def send_file(self, name: str, file: ServedFile, headers: dict[str, str]) -> None:
        hub = self.server
        faults = hub.files.get(name) or FileFaults()
        with hub.lock:
            status = faults.statuses.pop(0) if faults.statuses and self.command == "GET" else 0
        if status:
            return self.refuse(status)
        first, last, code = 0, file.size - 1, 200
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if wanted and hub.has_ranges and self.command == "GET":
            if wanted[1]:
                first = int(wanted[1])
                last = min(int(wanted[2]), last) if wanted[2] else last
            else:
                first = max(file.size - int(wanted[2]), 0)
            if first >= file.size or hub.refuses_ranges:
                return self.answer(416, b"", {"Content-Range": f"bytes */{file.size}"})
            code = 206
            headers["Content-Range"] = f"bytes {first}-{last}/{file.size}"
        length = last - first + 1 - (faults.short_by if self.command == "GET" else 0)
        if hub.has_ranges:
            headers["Accept-Ranges"] = "bytes"
        self.send_response(code)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(length))
        self.send_header("Content-Type", "application/octet-stream")
        self.end_headers()
        if self.command == "GET":
            self.send_body(name, file, faults, first, length)
        return None

    def send_body(
        self, name: str, file: ServedFile, faults: FileFaults, first: int, length: int
    ) -> None:
        hub = self.server
        with hub.lock:
            cut = faults.cuts.pop(0) if faults.cuts else None
            zeros, faults.corrupt = faults.corrupt > 0, max(faults.corrupt - 1, 0)
            stall, faults.stalls = faults.stalls > 0, faults.stalls - 1
        end = length if cut is None else min(cut, length)
        done = 0
        with file.path.open("rb") as stream:
            stream.seek(first)
            while done < end and not hub.closing.is_set():
                if stall and faults.stall_after is not None and done >= faults.stall_after:
                    hub.closing.wait()
                    break
                count = min(BLOCK, end - done)
                if stall and faults.stall_after is not None:
                    count = min(count, max(faults.stall_after - done, 1))
                piece = stream.read(count)
                self.wfile.write(bytes(len(piece)) if zeros else piece)
                done += len(piece)
                with hub.lock:
                    hub.sent[name] = hub.sent.get(name, 0) + len(piece)
                if hub.rate:
                    hub.closing.wait(len(piece) / hub.rate)
        if done < length:
            self.close_connection = True
            # leave the bytes time to arrive: hanging up at once may take them back
            time.sleep(0.005)
            _hang_up(self.connection)


def _entry(name: str, file: ServedFile) -> dict[str, Any]:
    told: dict[str, Any] = {"type": "file", "path": name, "oid": file.oid, "size": file.size}
    if file.is_lfs:
        told["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 130}
    return told


def _sibling(name: str, file: ServedFile, with_sizes: bool) -> dict[str, Any]:
    told: dict[str, Any] = {"rfilename": name}
    if with_sizes:
        told |= {"size": file.size, "blobId": file.oid}
        if file.is_lfs:
            told["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": 130}
    return told


def _tree(files: dict[str, ServedFile], below: str, recursive: bool) -> list[dict[str, Any]] | None:
    """Entries below a folder; None if there is no such folder."""
    prefix = below + "/" if below else ""
    inside = {name: file for name, file in files.items() if name.startswith(prefix)}
    if not inside and below:
        return None
    folders: set[str] = set()
    entries: list[dict[str, Any]] = []
    for name, file in inside.items():
        parts = name[len(prefix) :].split("/")
        depth = len(parts) if recursive else min(len(parts), 2)
        folders |= {prefix + "/".join(parts[:i]) for i in range(1, depth)}
        if recursive or len(parts) == 1:
            entries.append(_entry(name, file))
    listed = [
        {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
        for folder in sorted(folders)
    ]
    return listed + entries
