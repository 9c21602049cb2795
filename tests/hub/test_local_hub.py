"""The stand-in answers the real client the way the Hub does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.local_hub import GOOD_TOKEN, LocalHub


def test_the_library_downloads_from_it(hub: LocalHub) -> None:
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    content = bytes(range(256)) * 1000
    hub.add("models", "acme/tiny", {"config.json": b"{}", "sub/weights.bin": content})
    path = hf_hub_download("acme/tiny", "sub/weights.bin")
    assert Path(path).read_bytes() == content
    assert (Path(snapshot_download("acme/tiny")) / "config.json").read_bytes() == b"{}"
    info = HfApi().model_info("acme/tiny", files_metadata=True)
    assert {s.rfilename: s.size for s in info.siblings or []} == {
        "config.json": 2,
        "sub/weights.bin": len(content),
    }
    assert [m.id for m in HfApi().list_models(search="TINY")] == ["acme/tiny"]


def test_gates_and_tokens(hub: LocalHub) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    hub.add("models", "acme/gated", {"config.json": b"{}"})
    hub.gated["acme/gated"] = {"alice"}
    with pytest.raises(GatedRepoError):
        hf_hub_download("acme/gated", "config.json")
    assert hf_hub_download("acme/gated", "config.json", token=GOOD_TOKEN)
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("acme/none", "config.json")


def test_a_search_has_pages(hub: LocalHub) -> None:
    from huggingface_hub import HfApi

    for i in range(5):
        hub.add("datasets", f"acme/set{i}", {"a.txt": b"a"})
    assert len(list(HfApi().list_datasets(search="set", limit=2))) == 2
    assert len(hub.requests("/api/datasets")) == 1
