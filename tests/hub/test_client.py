"""Questions to the Hub end quickly, with sentences for whatever goes wrong."""

from __future__ import annotations

import threading
import time
from typing import Any

import httpx2
import pytest

from mistudio.core.errors import (
    Cancelled,
    Gated,
    InvalidInput,
    NeedsToken,
    NoAnswer,
    NotFound,
    Offline,
    RateLimited,
    StudioError,
)
from mistudio.hub import client, errors, setup
from mistudio.hub.client import repo_facts, search
from mistudio.hub.errors import Subject, asked_wait_s, from_library
from tests.helpers.local_hub import GOOD_TOKEN, LocalHub

BAD_TOKEN = "hf_" + "z" * 24


def test_a_search_has_pages_and_facts(hub: LocalHub) -> None:
    for i in range(5):
        hub.add("models", f"acme/tiny-{i}", {"a.txt": b"a" * (i + 1)})
    hub.gated["acme/tiny-1"] = set()
    hub.facts["acme/tiny-2"] = {"cardData": {"license": "mit"}, "downloads": 99}
    hub.facts["acme/tiny-3"] = {"tags": ["x", "license:apache-2.0"]}
    first, cursor = search("model", "Tiny", limit=3)
    rest, end = search("model", "Tiny", limit=3, cursor=cursor)
    assert [f.id for f in first + rest] == [f"acme/tiny-{i}" for i in range(5)]
    assert end == ""
    assert [f.gated for f in first] == [False, True, False]
    assert (first[2].licence, first[2].downloads) == ("mit", 99)
    assert rest[0].licence == "apache-2.0"
    assert rest[0].size_bytes == 4


def test_facts_name_every_file_and_its_checksum(hub: LocalHub) -> None:
    hub.add("datasets", "acme/words", {"a.txt": b"hello", "data/big.bin": bytes(200_000)})
    facts = repo_facts("dataset", "acme/words")
    small, big = facts.files
    assert (small.path, small.size, small.sha256) == ("a.txt", 5, None)
    assert small.etag == "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"  # git hash-object
    assert big.path == "data/big.bin"
    assert len(big.etag) == 64
    assert len(facts.sha) == 40


def test_names_that_leave_the_folder_are_left_out() -> None:
    said = {"id": "a/b", "siblings": [{"rfilename": n} for n in ("../x", "/etc/x", "ok", "a/../b")]}
    assert [f.path for f in client._facts("model", said, "main").files] == ["ok"]


@pytest.mark.parametrize(
    ("repo", "revision", "token", "kind", "sentence"),
    [
        ("acme/none", "main", None, NotFound, "no model 'acme/none' on the Hub. If it is private"),
        ("acme/none", "main", GOOD_TOKEN, NotFound, "There is no model 'acme/none' on the Hub.$"),
        ("acme/open", "v9", None, NotFound, "'acme/open' has no revision 'v9'"),
        ("acme/open", "main", BAD_TOKEN, NeedsToken, "does not know this access token"),
        ("acme//x", "main", None, InvalidInput, "Write owner/name or name"),
    ],
)
def test_refusals(
    hub: LocalHub, repo: str, revision: str, token: str | None, kind: type[Exception], sentence: str
) -> None:
    hub.add("models", "acme/open", {"a.txt": b"a"})
    with pytest.raises(kind, match=sentence) as caught:
        repo_facts("model", repo, revision, token)
    assert BAD_TOKEN not in str(vars(caught.value))


@pytest.mark.parametrize(
    ("status", "kind", "sentence"),
    [
        (429, RateLimited, "The Hub asks to wait 40 s."),
        (503, NoAnswer, r"The Hub has a problem \(503\)"),
        (418, StudioError, r"refused the request \(418\)"),
        (403, Gated, "does not permit reading 'acme/open'"),
    ],
)
def test_statuses(hub: LocalHub, status: int, kind: type[Exception], sentence: str) -> None:
    hub.add("models", "acme/open", {"a.txt": b"a"})
    hub.retry_after_s = 40
    hub.status_all = status
    with pytest.raises(kind, match=sentence):
        repo_facts("model", "acme/open")
    assert len(hub.log) == 1


def test_a_server_that_is_down_or_silent(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.LIMIT_S <= 5
    monkeypatch.setattr(client, "LIMIT_S", 1.0)
    hub.delay_s = 60
    begun = time.monotonic()
    with pytest.raises(NoAnswer, match=r"does not answer|did not answer"):
        search("model", "x")
    assert time.monotonic() - begun < 20
    setup.configure("http://127.0.0.1:9")
    begun = time.monotonic()
    with pytest.raises(NoAnswer, match="cannot be reached"):
        search("model", "x")
    assert time.monotonic() - begun < 20


def test_a_question_can_be_cancelled(hub: LocalHub) -> None:
    hub.delay_s = 60
    cancelled = threading.Event()
    threading.Timer(0.2, cancelled.set).start()

    def check() -> None:
        if cancelled.is_set():
            raise Cancelled

    begun = time.monotonic()
    with pytest.raises(Cancelled):
        search("model", "x", check=check)
    assert time.monotonic() - begun < 20
    hub.closing.set()


@pytest.mark.parametrize(
    "said", ["<html>", "{}", "[1]", "null", '[{"id": "a/b", "cardData": [1]}]', '[{"name": 1}]']
)
def test_something_else_answers(hub: LocalHub, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    answer = httpx2.Response(200, content=said.encode(), request=httpx2.Request("GET", hub.url))
    monkeypatch.setattr(client, "get", lambda *a, **k: answer)
    with pytest.raises(NoAnswer, match="is no Hub"):
        search("model", "x")
    with pytest.raises(NoAnswer, match="is no Hub"):
        repo_facts("model", "a/b")


@pytest.mark.parametrize(
    ("proxy", "sentence"),
    [("nonsense", "This is no proxy"), ("socks5://127.0.0.1:9", "A SOCKS proxy cannot be used")],
)
def test_a_proxy_that_is_none(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch, proxy: str, sentence: str
) -> None:
    monkeypatch.setattr(setup, "_current", setup.HubSetup(hub.url, proxy=proxy))
    with pytest.raises(InvalidInput, match=sentence):
        search("model", "x")
    assert hub.log == []


def test_a_mirror_that_tells_names_only_is_asked_for_its_tree(hub: LocalHub) -> None:
    hub.add("datasets", "acme/words", {"a.txt": b"hello", "data/big.bin": bytes(200_000)})
    told = repo_facts("dataset", "acme/words").files
    hub.names_only = True
    assert repo_facts("dataset", "acme/words").files == told


def test_a_long_list_may_take_longer_than_the_silence_that_is_borne(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LIMIT_S", 0.4)
    steps = iter(range(4))

    def slowly(heard: Any) -> httpx2.Response:
        for _ in steps:
            threading.Event().wait(0.2)
            heard()
        return httpx2.Response(200)

    assert client._within(0.4, slowly, lambda: None).status_code == 200


def test_a_piece_where_ranges_are_refused(hub: LocalHub) -> None:
    hub.add("models", "acme/open", {"a.txt": b"0123456789"})
    hub.refuses_ranges = True
    facts = repo_facts("model", "acme/open")
    assert client.read_piece(facts, "a.txt", 2, 5) == b"2345"


@pytest.mark.parametrize("address", ["nonsense", "ftp://x", "http://"])
def test_an_address_that_is_none(hub: LocalHub, address: str) -> None:
    setup.configure(address)
    with pytest.raises(InvalidInput, match="no address of a Hub"):
        search("model", "x")


def test_offline_asks_nobody(hub: LocalHub) -> None:
    setup.configure(hub.url, offline=True)
    with pytest.raises(Offline, match="Offline mode is on"):
        search("model", "x")
    assert hub.log == []


def test_waiting_times() -> None:
    assert asked_wait_s({"Retry-After": "7"}) == 7
    assert asked_wait_s({"ratelimit": '"api";r=0;t=55'}) == 55
    assert asked_wait_s({}) == 60
    assert asked_wait_s({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0


def test_errors_of_the_library_become_ours(hub: LocalHub) -> None:
    from huggingface_hub import hf_hub_download

    hub.add("models", "acme/gated", {"a.txt": b"a"})
    hub.gated["acme/gated"] = set()

    def failure(**values: Any) -> StudioError | None:
        with pytest.raises((OSError, ValueError)) as caught:
            hf_hub_download("acme/gated", "a.txt", **values)
        return from_library(
            caught.value, Subject("model", "acme/gated"), had_token="token" in values
        )

    assert isinstance(failure(), NeedsToken)
    assert isinstance(failure(token=GOOD_TOKEN), Gated)
    setup.configure(hub.url, offline=True)
    assert isinstance(failure(force_download=True), Offline)
    assert from_library(ValueError("other"), Subject(), had_token=False) is None


def test_the_setup_reaches_every_library(hub: LocalHub) -> None:
    import datasets.config
    from huggingface_hub import constants, hf_hub_url

    setup.configure("http://127.0.0.1:1234/", offline=True)
    assert setup.endpoint() == "http://127.0.0.1:1234"
    assert hf_hub_url("a/b", "c").startswith("http://127.0.0.1:1234/a/b")
    assert constants.is_offline_mode()
    assert datasets.config.HF_ENDPOINT == "http://127.0.0.1:1234"
    assert datasets.config.HF_HUB_OFFLINE
    assert errors.offline().code == "offline"
