"""The cache is listed and cleared with the library's tools; tokens live in the library's store."""

from __future__ import annotations

from pathlib import Path

import pytest

from mistudio.core.errors import InvalidInput, NeedsToken, NoAnswer, NotFound
from mistudio.hub import cache, offline, tokens
from tests.helpers.local_hub import GOOD_TOKEN, LocalHub
from tests.hub.conftest import SIZE, Download


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if not p.is_dir() and p.name != "CACHEDIR.TAG")


def test_an_empty_cache(hub: LocalHub) -> None:
    assert cache.cached_revisions() == []
    assert cache.leftovers() == []
    with pytest.raises(NotFound, match="'a/b' is not in the cache"):
        cache.delete_revision("model", "a/b")


def test_two_revisions_share_their_contents(tiny: Download, hf_home: Path) -> None:
    first = tiny.run()
    tiny.hub.add("models", "acme/tiny", {"config.json": b'{"a": 2}'})
    second = tiny.run()
    assert second.fetched_bytes == 8
    listed = {
        r.sha: (r.revision, r.size_bytes, r.freed_bytes) for r in cache.cached_revisions("model")
    }
    assert listed == {
        first.folder.name: (first.folder.name, SIZE + 8, 8),
        second.folder.name: ("main", SIZE + 8, 8),
    }
    assert cache.cached_revisions("dataset") == []
    assert cache.delete_revision("model", "acme/tiny", first.folder.name) == 8
    assert cache.delete_revision("model", "acme/tiny", second.folder.name) >= SIZE + 8
    assert not list((hf_home / "hub").glob("models--*"))
    assert files(hf_home / "hub") == []


def test_unfinished_downloads_are_listed_and_deleted(tiny: Download, hf_home: Path) -> None:
    tiny.hub.faults("model.safetensors").cuts = [1_000_000] + [0] * 20
    with pytest.raises(NoAnswer):
        tiny.run()
    assert cache.leftovers() == [cache.Leftover("acme/tiny", "model", 1_000_008)]
    assert offline.cached_ids("model") == set()
    assert cache.delete_leftover("model", "acme/tiny") == 1_000_008
    assert cache.leftovers() == []


def test_the_last_revision_takes_beginnings_along(tiny: Download, hf_home: Path) -> None:
    done = tiny.run()
    part = done.folder.parent.parent / "blobs" / ("a" * 64 + ".part")
    part.write_bytes(bytes(500))
    assert cache.delete_revision("model", "acme/tiny", done.folder.name) == SIZE + 508 + 40
    assert files(hf_home / "hub") == []


def test_what_a_snapshot_tells_without_the_hub(tiny: Download) -> None:
    done = tiny.run()
    facts = offline.cached_facts("model", "acme/tiny")
    assert facts is not None
    assert facts.sha == done.folder.name
    assert [(f.path, f.size, f.etag) for f in facts.files] == [
        (f.path, f.size, f.etag) for f in tiny.plan().files
    ]
    assert offline.cached_facts("model", "acme/other") is None
    assert offline.cached_facts("model", "acme/tiny", "v2") is None
    for outside in ("../..", "..", str(done.folder)):
        assert offline.cached_facts("model", "acme/tiny", outside) is None


def test_a_token_is_remembered_and_forgotten(hub: LocalHub, hf_home: Path) -> None:
    from huggingface_hub import get_token

    assert not tokens.has_stored_token()
    assert tokens.remember(GOOD_TOKEN) == "alice"
    assert get_token() == GOOD_TOKEN
    assert tokens.has_stored_token()
    assert tokens.who_am_i() == "alice"
    assert (hf_home / "token").stat().st_mode & 0o077 == 0
    assert tokens.forget()
    assert not tokens.has_stored_token()
    assert GOOD_TOKEN not in "".join(p.read_text() for p in hf_home.rglob("*") if p.is_file())
    assert not tokens.forget()


def test_a_wrong_token_is_not_remembered(hub: LocalHub, hf_home: Path) -> None:
    with pytest.raises(NeedsToken, match="does not know this access token"):
        tokens.remember("hf_" + "q" * 30)
    with pytest.raises(InvalidInput, match="begins with hf_"):
        tokens.remember("secret")
    assert not (hf_home / "token").exists()


@pytest.mark.parametrize(
    ("text", "fits"), [("", True), ("hf_" + "a" * 20, True), ("hf_short", False)]
)
def test_the_shape_of_a_token(text: str, fits: bool) -> None:
    assert (tokens.token_problem(text) == "") is fits
