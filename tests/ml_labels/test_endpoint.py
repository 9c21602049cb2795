"""A server on this machine as the writer; nothing else is ever spoken to."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from mistudio.core.config import violations
from mistudio.core.errors import Cancelled, InvalidInput, StudioError
from mistudio.core.label_configs import LabelConfig, loopback_problem
from mistudio.ml.features.labels.endpoint import EndpointWriter
from mistudio.ml.features.labels.prompts import Prompt

ASKED = Prompt("judge", "Text: a cat")


class Server(ThreadingHTTPServer):
    """Answers every question with `reply`, a body or a status; holds while `held` is set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply: Any = {}
        self.seen: list[dict[str, Any]] = []
        self.arrived, self.go = threading.Event(), threading.Event()
        self.go.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server  # type: ignore[assignment]

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        body = json.loads(self.rfile.read(length))
        self.server.seen.append({"path": self.path, **body})
        self.server.arrived.set()
        self.server.go.wait(5)
        reply = self.server.reply
        status, data = (reply, b"no") if isinstance(reply, int) else (200, json.dumps(reply))
        data = data if isinstance(data, bytes) else data.encode()
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            pass  # the client has gone

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.go.set()
    made.shutdown()
    thread.join()
    made.server_close()


def answered(text: str, logprobs: dict[str, float] | None = None) -> dict[str, Any]:
    choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}}
    if logprobs is not None:
        listed = [{"token": t, "logprob": math.log(p)} for t, p in logprobs.items()]
        choice["logprobs"] = {"content": [{**listed[0], "top_logprobs": listed}]}
    return {"choices": [choice]}


def test_it_asks_and_reads_probabilities(server: Server) -> None:
    writer = EndpointWriter(server.url, "m")
    server.reply = answered("Numbers")
    assert writer.answer(ASKED, lambda: None) == "Numbers"
    assert server.seen[0]["path"] == "/v1/chat/completions"
    assert server.seen[0]["model"] == "m"
    assert server.seen[0]["messages"][1] == {"role": "user", "content": "Text: a cat"}
    assert server.seen[0]["max_tokens"] == 12
    server.reply = answered("0", {"0": 0.5, "1": 0.2, " 1": 0.1, "x": 0.2})
    assert writer.fits([ASKED], lambda: None) == [pytest.approx(0.3 / 0.8)]
    assert server.seen[-1]["top_logprobs"] == 20


def test_without_probabilities_the_answer_counts(server: Server) -> None:
    writer = EndpointWriter(server.url, "m")
    for text, expected in (("1", 1.0), (" 0.", 0.0), ("maybe", 0.5)):
        server.reply = answered(text)
        assert writer.fits([ASKED], lambda: None) == [expected]
    assert "logprobs" not in server.seen[-1], "it is not asked for again"


def test_a_cancel_does_not_wait_for_the_answer(server: Server) -> None:
    server.go.clear()

    def check() -> None:
        if server.arrived.is_set():
            raise Cancelled

    with pytest.raises(Cancelled):
        EndpointWriter(server.url, "m").answer(ASKED, check)
    assert not any(t.name == "label endpoint" for t in threading.enumerate())


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [(500, "refused the question"), ({"error": "x"}, "OpenAI-compatible"), ([], "OpenAI-comp")],
)
def test_refusals_are_sentences(server: Server, reply: Any, sentence: str) -> None:
    server.reply = reply
    with pytest.raises(StudioError, match=sentence):
        EndpointWriter(server.url, "m").answer(ASKED, lambda: None)


def test_silence_and_nobody_there_are_sentences(server: Server) -> None:
    server.go.clear()
    with pytest.raises(StudioError, match="in time"):
        EndpointWriter(server.url, "m", timeout_s=0.05).answer(ASKED, lambda: None)
    server.go.set()
    closed = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port = closed.server_address[1]
    closed.server_close()
    with pytest.raises(StudioError, match="Nothing listens"):
        EndpointWriter(f"http://127.0.0.1:{port}", "m").answer(ASKED, lambda: None)


@pytest.mark.parametrize(
    "address",
    [
        "http://example.org/v1",
        "http://10.0.0.1:8080",
        "https://0.0.0.0/v1",
        "http://127.0.0.1.example.org",
        "http://user@127.0.0.1:1/v1",
        "ftp://127.0.0.1",
        "127.0.0.1:8080",
        "http://[::1",
        "http://127.0.0.1:x",
    ],
)
def test_other_machines_are_refused(address: str) -> None:
    assert loopback_problem(address)
    with pytest.raises(InvalidInput):
        EndpointWriter(address, "m")
    config = LabelConfig(method="model", endpoint=address, endpoint_model="m")
    assert [found.field for found in violations(config)] == ["endpoint"]


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:8080/v1", "http://localhost:1", "https://[::1]:8443/v1"]
)
def test_this_machine_is_accepted(address: str) -> None:
    assert loopback_problem(address) == ""
    EndpointWriter(address, "m")
