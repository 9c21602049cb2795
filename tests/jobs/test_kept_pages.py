"""What is kept of the pages that were read: copies, up to a size, as long as their store."""

from __future__ import annotations

import gc

from mistudio.jobs import kept_pages
from mistudio.jobs.feature_pages import Piece
from mistudio.jobs.kept_pages import KeptPages, pages_of


def test_an_answer_is_read_once_and_given_as_a_copy() -> None:
    kept, reads = KeptPages(), list[int]()

    def read() -> list[Piece]:
        reads.append(1)
        return [Piece(" a", 0.5, False)]

    first, second = kept.get("page", read), kept.get("page", read)
    second.append("mine")
    assert first == kept.get("page", read) == [Piece(" a", 0.5, False)]
    assert len(reads) == 1


def test_those_asked_for_longest_ago_go_first() -> None:
    kept, reads = KeptPages(most_bytes=2500), list[str]()

    def get(name: str) -> None:
        kept.get(name, lambda: reads.append(name) or name * 1000)

    for name in "abacab":
        get(name)
    assert reads == ["a", "b", "c", "b"]


def test_what_is_larger_than_all_room_is_still_given() -> None:
    kept = KeptPages(most_bytes=10)
    assert kept.get("page", lambda: "x" * 100) == kept.get("page", lambda: "x" * 100) == "x" * 100


def test_it_goes_with_its_store() -> None:
    class Store:
        pass

    store, before = Store(), len(kept_pages._kept)
    assert pages_of(store) is pages_of(store)
    assert len(kept_pages._kept) == before + 1
    del store
    gc.collect()
    assert len(kept_pages._kept) == before
