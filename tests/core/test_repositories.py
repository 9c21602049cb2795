"""What is a repository id, and what a pasted address of the Hub means."""

from __future__ import annotations

import pytest

from mistudio.core.repositories import from_address, place_in_address, repository_problem


@pytest.mark.parametrize("text", ["gpt2", "a/b", "Owner-1/name_2.x", "a" * 96, f"o/{'n' * 96}"])
def test_ids(text: str) -> None:
    assert repository_problem(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a/b/c",
        "-a",
        "a-",
        ".a",
        "a.",
        "a--b",
        "a..b",
        "a b",
        "é/x",
        "a/",
        "/a",
        "o/-n",
        "a" * 97,
        "gpt2\n",
        "a/b\n",
        "a\\b",
    ],
)
def test_no_ids(text: str) -> None:
    assert repository_problem(text) == "Write owner/name or name, for example gpt2."


def test_a_token_in_the_wrong_field_is_refused() -> None:
    assert "access token" in repository_problem("hf_" + "Planted0" * 4)
    assert repository_problem("hf_short") == ""


HUB = "https://huggingface.co"


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        (" o/n ", ("o/n", "")),
        ("words to search", ("words to search", "")),
        (f"{HUB}/o/n", ("o/n", "")),
        (f"{HUB}/o/n/", ("o/n", "")),
        (f"{HUB}/gpt2", ("gpt2", "")),
        (f"{HUB}/gpt2/tree/v1", ("gpt2", "v1")),
        (f"{HUB}/gpt2/blob/main/config.json", ("gpt2", "main")),
        (f"{HUB}/o/n/tree/v1/folder", ("o/n", "v1")),
        (f"{HUB}/datasets/o/n", ("o/n", "")),
        (f"{HUB}/datasets/o/n/viewer/default/train?row=3", ("o/n", "")),
        (f"{HUB}/datasets/squad?library=x#top", ("squad", "")),
        (
            f"{HUB}/datasets/o/n/tree/refs%2Fconvert%2Fparquet/default",
            ("o/n", "refs/convert/parquet"),
        ),
        (f"{HUB}/datasets/o/n/resolve/abc/data/a.parquet?download=true", ("o/n", "abc")),
        ("huggingface.co/datasets/o/n", ("o/n", "")),
        ("hf.co/o/n/tree/dev", ("o/n", "dev")),
        ("http://127.0.0.1:8000/o/n", ("o/n", "")),
    ],
)
def test_addresses(text: str, meaning: tuple[str, str]) -> None:
    assert from_address(text) == meaning


def test_the_place_that_an_address_shows() -> None:
    address = "https://huggingface.co/google/scope/tree/main/layer_2/width%5F16k"
    assert place_in_address(address) == "layer_2/width_16k"
    assert place_in_address("https://hf.co/google/scope/blob/main/a.npz?x=1") == "a.npz"
    for text in ("https://huggingface.co/google/scope", "google/scope", "scope/tree/main/x"):
        assert place_in_address(text) == ""
