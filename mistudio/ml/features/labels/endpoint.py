"""An OpenAI-compatible server on this machine as a writer and judge of labels.

Only loopback addresses are spoken to: the name is resolved, checked, and connected to by number.
No proxy is used and no redirect followed, so text leaves this machine in no way.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import socket
import ssl
import threading
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from mistudio.core.errors import InvalidInput, StudioError
from mistudio.core.label_configs import loopback_problem
from mistudio.ml.features.labels.prompts import ANSWER_TOKENS, Prompt, judged
from mistudio.ml.features.labels.writer import Check

TIMEOUT_S = 120.0
POLL_S = 0.1  # between looks at a cancel while an answer is awaited
LARGEST = 4 << 20  # bytes of an answer at most
ALTERNATIVES = 20  # tokens whose probability is asked for


class EndpointWriter:
    """Asks one prompt at a time with temperature 0."""

    def __init__(self, address: str, model: str, *, timeout_s: float = TIMEOUT_S) -> None:
        """Raises `InvalidInput` for an address that is not of this machine."""
        if problem := loopback_problem(address):
            raise InvalidInput(problem)
        parts = urlsplit(address)
        self.name = model
        self._host, self._secure = parts.hostname or "", parts.scheme == "https"
        self._port = parts.port or (443 if self._secure else 80)
        self._path = parts.path.rstrip("/") + "/chat/completions"
        self._timeout_s = timeout_s
        self._gives_logprobs = True

    def answer(self, prompt: Prompt, check: Check) -> str:
        """The text of the server's answer."""
        return _text(self._ask(prompt, ANSWER_TOKENS, check, logprobs=False))

    def fits(self, prompts: Sequence[Prompt], check: Check) -> list[float]:
        """By the first token's probabilities; by the answer 0 or 1 where there are none."""
        found = []
        for prompt in prompts:
            got = self._ask(prompt, 1, check, logprobs=self._gives_logprobs)
            value = _probability(got)
            self._gives_logprobs = self._gives_logprobs and value is not None
            found.append(judged(_text(got)) if value is None else value)
        return found

    def _ask(self, prompt: Prompt, tokens: int, check: Check, *, logprobs: bool) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.name,
            "messages": [
                {"role": "system", "content": prompt.system},
                {"role": "user", "content": prompt.user},
            ],
            "max_tokens": tokens,
            "temperature": 0,
            "stream": False,
        }
        if logprobs:
            body |= {"logprobs": True, "top_logprobs": ALTERNATIVES}
        return _Request(self._connection(), self._path, body).run(check, self._where())

    def _where(self) -> str:
        return f"{self._host}:{self._port}"

    def _connection(self) -> http.client.HTTPConnection:
        """To an address that the name resolves to and that is this machine's."""
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise InvalidInput(f"{self._host!r} is no address.", details=str(error)) from error
        local = [str(one[4][0]) for one in found if ip_address(one[4][0]).is_loopback]
        if not local:
            raise InvalidInput(f"{self._host!r} is not this machine; labels are asked of it only.")
        if self._secure:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout_s, context=context
            )
        return http.client.HTTPConnection(local[0], self._port, timeout=self._timeout_s)


class _Request:
    """One question on a thread of its own, so that a cancel need not wait for the answer."""

    def __init__(
        self, connection: http.client.HTTPConnection, path: str, body: dict[str, Any]
    ) -> None:
        self._connection, self._path = connection, path
        self._body = json.dumps(body, ensure_ascii=False).encode("utf-8")
        self._answer: tuple[int, bytes] | None = None
        self._error: Exception | None = None

    def run(self, check: Check, where: str) -> dict[str, Any]:
        """The answer; `check` may raise, then the connection is closed."""
        thread = threading.Thread(target=self._work, name="label endpoint", daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                check()
                thread.join(POLL_S)
        finally:
            self._close()
            thread.join()
        if self._error is not None:
            raise _unreachable(where, self._error)
        status, data = self._answer or (0, b"")
        if status != 200:
            raise StudioError(
                f"The server at {where} refused the question (HTTP {status}).",
                details=data[:2000].decode("utf-8", "replace"),
            )
        try:
            got = json.loads(data)
            _text(got)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise StudioError(
                f"The server at {where} does not answer as an OpenAI-compatible one does.",
                details=data[:2000].decode("utf-8", "replace"),
            ) from error
        return got

    def _work(self) -> None:
        try:
            headers = {"Content-Type": "application/json", "Accept": "application/json"}
            self._connection.request("POST", self._path, self._body, headers)
            answer = self._connection.getresponse()
            self._answer = (answer.status, answer.read(LARGEST))
        except (OSError, http.client.HTTPException, AttributeError, ValueError) as error:
            self._error = error  # closed by a cancel, too

    def _close(self) -> None:
        sock = self._connection.sock
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._connection.close()


def _unreachable(where: str, error: Exception) -> StudioError:
    if isinstance(error, TimeoutError):
        sentence = f"The server at {where} did not answer in time."
    elif isinstance(error, ConnectionRefusedError):
        sentence = f"Nothing listens at {where}; start the server, then try again."
    else:
        sentence = f"The server at {where} broke the connection."
    return StudioError(sentence, details=repr(error))


def _text(got: dict[str, Any]) -> str:
    return str(got["choices"][0]["message"]["content"] or "")


def _probability(got: dict[str, Any]) -> float | None:
    """P(1) / (P(0) + P(1)) of the first token; None if the server tells no probabilities."""
    try:
        first = got["choices"][0]["logprobs"]["content"][0]
        listed = [*first["top_logprobs"], first] if first["top_logprobs"] else [first]
        known = {str(one["token"]): float(one["logprob"]) for one in listed}
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    yes = sum(math.exp(p) for token, p in known.items() if token.strip() == "1")
    no = sum(math.exp(p) for token, p in known.items() if token.strip() == "0")
    return yes / (yes + no) if yes + no > 0 else 0.5
