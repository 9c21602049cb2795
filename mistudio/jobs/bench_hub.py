"""A Hub of one model on this machine's own address, for measuring beside a download."""

from __future__ import annotations

import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

REPO = "bench/model"
_SHA = "b" * 40
_BLOCK = bytes(range(256)) * 256  # 64 KiB
_SMALL = {"config.json": b'{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}'}
_WEIGHTS = "model.safetensors"


class BenchHub(ThreadingHTTPServer):
    """Serves `REPO`, whose weights of `size` bytes arrive at `rate` bytes a second."""

    daemon_threads = True

    def __init__(self, size: int, rate: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.size, self.rate = size, rate
        self.sent = 0
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), name="bench hub")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> BenchHub:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.ended.set()
        self.shutdown()
        self.server_close()
        self._thread.join()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: BenchHub  # type: ignore[assignment]  # it is of no other kind here

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not told on the terminal."""

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def _route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if re.fullmatch(rf"/api/models/{REPO}(/revision/[^/]+)?", path):
            self._answer(self._facts())
        elif re.fullmatch(rf"/api/models/{REPO}/tree/[^/]+/?", path):
            self._answer(
                [{"type": "file", "oid": "0" * 40, **f} for f in self._facts()["siblings"]]
            )
        elif found := re.fullmatch(rf"/{REPO}/resolve/[^/]+/(.+)", path):
            self._file(found[1])
        else:
            self._answer({"error": "not here"}, 404, {"X-Error-Code": "EntryNotFound"})

    def _facts(self) -> dict[str, Any]:
        sizes = {**{name: len(body) for name, body in _SMALL.items()}, _WEIGHTS: self.server.size}
        files: list[dict[str, Any]] = []
        for name, size in sizes.items():
            file: dict[str, Any] = {"rfilename": name, "path": name, "size": size}
            file["blobId"] = "0" * 40
            if name == _WEIGHTS:
                file["lfs"] = {"size": size, "sha256": "c" * 64, "oid": "c" * 64, "pointerSize": 1}
            files.append(file)
        known: dict[str, Any] = {"_id": "x", "id": REPO, "modelId": REPO, "sha": _SHA}
        return {**known, "private": False, "gated": False, "tags": [], "siblings": files}

    def _answer(self, body: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _file(self, name: str) -> None:
        size = self.server.size if name == _WEIGHTS else len(_SMALL.get(name, b""))
        if not size:
            self._answer({"error": "no such file"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        first = int(wanted[1]) if wanted else 0
        last = min(size - 1, int(wanted[2])) if wanted and wanted[2] else size - 1
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        tag = "c" * 64 if name == _WEIGHTS else "d" * 40
        self.send_header("X-Repo-Commit", _SHA)
        self.send_header("ETag", f'"{tag}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        if self.command == "HEAD":
            return
        if name in _SMALL:
            self.wfile.write(_SMALL[name][first : last + 1])
        else:
            self._stream(last - first + 1)

    def _stream(self, count: int) -> None:
        began, sent = time.monotonic(), 0
        while sent < count and not self.server.ended.is_set():
            sent += self.wfile.write(_BLOCK[: min(len(_BLOCK), count - sent)])
            self.server.sent += min(len(_BLOCK), count)
            ahead = sent / self.server.rate - (time.monotonic() - began)
            if ahead > 0:
                self.server.ended.wait(ahead)
