"""Downloads that go well: the cache is laid out so that every library finds the files."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from mistudio.core.errors import InvalidInput
from mistudio.hub.client import repo_facts
from mistudio.hub.download import cached_bytes, cached_snapshot, plan_download
from tests.hub.conftest import SIZE, WEIGHTS, Download


def test_the_library_finds_the_files(tiny: Download, hf_home: Path) -> None:
    from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download

    done = tiny.run()
    assert done.fetched_bytes == done.total_bytes == SIZE + 8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = hf_hub_download("acme/tiny", "model.safetensors", local_files_only=True)
        folder = snapshot_download("acme/tiny", local_files_only=True)
        scan = scan_cache_dir()
    assert Path(path).read_bytes() == WEIGHTS
    assert Path(folder) == done.folder
    assert Path(path).is_symlink()
    assert not Path(Path(path).readlink()).is_absolute()
    assert [str(w) for w in scan.warnings] == []
    (repo,) = scan.repos
    assert repo.size_on_disk == done.total_bytes
    assert [sorted(r.refs) for r in repo.revisions] == [["main"]]
    assert not list((hf_home / "hub").rglob("*.part"))
    assert not list((hf_home / "hub").rglob("building"))


def test_the_layout_is_the_library_s(tiny: Download, tmp_path: Path) -> None:
    from huggingface_hub import snapshot_download

    theirs = Path(snapshot_download("acme/tiny", cache_dir=tmp_path / "theirs")).parent.parent
    ours = tiny.run().folder.parent.parent

    def tree(folder: Path) -> dict[str, str]:
        return {
            str(p.relative_to(folder)): str(p.readlink()) if p.is_symlink() else "file"
            for p in folder.rglob("*")
            if not p.is_dir() and "trees" not in p.parts
        }

    assert tree(ours) == tree(theirs)
    modes = [
        oct((root / "blobs" / p.name).stat().st_mode)
        for root in (ours, theirs)
        for p in sorted((ours / "blobs").iterdir())
    ]
    assert modes[:2] == modes[2:]


def test_what_is_cached_is_not_fetched_again(tiny: Download) -> None:
    first = tiny.run()
    tiny.hub.sent.clear()
    plan = tiny.plan()
    assert cached_bytes(plan) == plan.total_bytes
    assert cached_snapshot(plan) == first.folder
    again = tiny.run()
    assert again.fetched_bytes == 0
    assert tiny.hub.sent == {}


def test_files_fetched_by_the_library_count(tiny: Download) -> None:
    from huggingface_hub import hf_hub_download

    hf_hub_download("acme/tiny", "model.safetensors")
    tiny.hub.sent.clear()
    assert cached_snapshot(tiny.plan()) is None
    assert tiny.run().fetched_bytes == 8
    assert tiny.hub.sent == {"config.json": 8}


def test_progress_reaches_the_end_and_never_falls(tiny: Download) -> None:
    tiny.hub.rate = 6_000_000
    tiny.run()
    shares = [float(e.values["fraction"]) for e in tiny.report.events if e.kind == "progress"]  # type: ignore[arg-type]
    assert shares == sorted(shares)
    assert 0 <= shares[0] < shares[-1] <= 1
    assert any("of 3.0 MB · model.safetensors (2 of 2)" in phase for phase in tiny.phases)
    rates = [str(e.values["rate"]) for e in tiny.report.events if e.kind == "progress"]
    assert any(rate.endswith("MB/s") for rate in rates)


def test_a_redirect_to_another_host_gets_no_token(tiny: Download) -> None:
    from tests.helpers.local_hub import GOOD_TOKEN

    tiny.hub.cdn = True
    tiny.hub.faults("model.safetensors").cuts = [1_000_000]
    assert (tiny.run(GOOD_TOKEN).folder / "model.safetensors").read_bytes() == WEIGHTS
    there = tiny.hub.requests("/cdn/")
    assert [seen.range for seen in there] == [None, "bytes=1000000-"]
    assert [seen.authorization for seen in there] == [None, None]


def test_some_files_only(tiny: Download) -> None:
    facts = repo_facts("model", "acme/tiny")
    assert [f.path for f in plan_download(facts, ["config.json"]).files] == ["config.json"]
    with pytest.raises(InvalidInput, match="no file 'none'"):
        plan_download(facts, ["none"])
