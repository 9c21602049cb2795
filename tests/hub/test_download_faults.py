"""Everything that can go wrong on the way: the right sentence, the right state, the right retry."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from mistudio.core.control import JobControl, Request
from mistudio.core.errors import (
    Cancelled,
    Damaged,
    DiskFull,
    Gated,
    NeedsToken,
    NoAnswer,
    NotFound,
    Offline,
    RateLimited,
)
from mistudio.hub import setup, transfer
from mistudio.hub.download import cached_bytes, cached_snapshot
from mistudio.hub.repo_cache import RepoCache
from mistudio.hub.transfer import Patience
from tests.helpers.local_hub import GOOD_TOKEN
from tests.hub.conftest import QUICK, SIZE, WEIGHTS, Download

FILE = "model.safetensors"


def is_whole(folder: Path) -> bool:
    return (folder / FILE).read_bytes() == WEIGHTS


def parts(hf_home: Path) -> list[int]:
    return [path.stat().st_size for path in (hf_home / "hub").rglob("*.part")]


def test_twenty_random_cuts(tiny: Download, record_property: Callable[[str, object], None]) -> None:
    cuts = random.Random(3)
    tiny.hub.faults(FILE).cuts = [cuts.randrange(1, SIZE // 12) for _ in range(20)]
    done = tiny.run()
    fetched = hashlib.sha256((done.folder / FILE).read_bytes()).hexdigest()
    assert fetched == hashlib.sha256(WEIGHTS).hexdigest()
    assert tiny.hub.faults(FILE).cuts == []
    share = max(tiny.hub.sent[FILE], done.fetched_bytes) / SIZE
    record_property("bytes_fetched_per_byte", share)
    assert share <= 1.1
    assert len(tiny.hub.requests(FILE)) == 21


def test_without_ranges_a_file_starts_again(tiny: Download) -> None:
    tiny.hub.has_ranges = False
    tiny.hub.faults(FILE).cuts = [1_000_000]
    assert is_whole(tiny.run().folder)
    assert tiny.hub.sent[FILE] == SIZE + 1_000_000
    assert "starts again (1.0 MB lost)" in tiny.notes


def test_without_ranges_the_same_cut_again_ends(tiny: Download, hf_home: Path) -> None:
    tiny.hub.has_ranges = False
    tiny.hub.faults(FILE).cuts = [1_000_000] * 50
    with pytest.raises(NoAnswer, match="broke off"):
        tiny.run()
    assert len(tiny.hub.requests(FILE)) == 5
    assert parts(hf_home) == [1_000_000]


def test_a_refused_range_starts_again(tiny: Download) -> None:
    tiny.hub.refuses_ranges = True
    tiny.hub.faults(FILE).cuts = [1_000_000]
    assert is_whole(tiny.run().folder)
    assert [seen.range for seen in tiny.hub.requests(FILE)] == [None, "bytes=1000000-", None]


@pytest.mark.parametrize(
    ("token", "kind", "sentence"),
    [
        (None, NeedsToken, "'acme/tiny' asks for an access token."),
        ("hf_" + "x" * 24, NeedsToken, "does not know this access token"),
        (GOOD_TOKEN, Gated, "The owner of 'acme/tiny' must grant access first."),
    ],
)
def test_refusals_end_at_once(
    tiny: Download, hf_home: Path, token: str | None, kind: type[Exception], sentence: str
) -> None:
    tiny.hub.gated["acme/tiny"] = set()
    with pytest.raises(kind, match=sentence) as caught:
        tiny.run(token)
    assert not getattr(caught.value, "retryable", True)
    assert len(tiny.hub.requests("resolve")) == 1
    assert not list((hf_home / "hub").glob("models--*"))


def test_a_user_who_was_let_in(tiny: Download) -> None:
    tiny.hub.gated["acme/tiny"] = {"alice"}
    assert is_whole(tiny.run(GOOD_TOKEN).folder)


def test_a_file_that_went_away(tiny: Download) -> None:
    plan = tiny.plan()
    (tiny.hub.root / "models/acme/tiny" / FILE).unlink()
    tiny.hub.listing("models", "acme/tiny")[1].pop(FILE)
    tiny.plan = lambda token=None: plan  # type: ignore[method-assign]
    with pytest.raises(NotFound, match=f"'acme/tiny' has no file '{FILE}'"):
        tiny.run()
    assert "8 B of 3.0 MB stay in the cache" in tiny.notes


def test_a_busy_server_says_how_long(tiny: Download) -> None:
    tiny.hub.retry_after_s = 1
    tiny.hub.faults(FILE).statuses = [429]
    begun = time.monotonic()
    assert is_whole(tiny.run().folder)
    assert time.monotonic() - begun >= 1.0
    assert "The Hub asks to wait 1 s." in tiny.notes
    assert "Waiting 1 s to try again" in tiny.phases


def test_a_busy_server_for_ever(tiny: Download) -> None:
    tiny.hub.retry_after_s = 0
    tiny.hub.faults(FILE).statuses = [429] * 9
    with pytest.raises(RateLimited) as caught:
        tiny.run()
    assert caught.value.retryable
    assert caught.value.retry_after_s == 0


def test_retry_now_ends_the_wait(tiny: Download) -> None:
    tiny.hub.retry_after_s = 600
    tiny.hub.faults(FILE).statuses = [429]
    waiting = threading.Event()

    def progress(fraction: float, phase: str, **_: Any) -> None:
        if phase.startswith("Waiting"):
            waiting.set()

    tiny.report.progress = progress  # type: ignore[method-assign]
    hurry = threading.Thread(target=lambda: waiting.wait(5) and tiny.control.hurry())
    hurry.start()
    begun = time.monotonic()
    assert is_whole(tiny.run().folder)
    assert time.monotonic() - begun < 20
    hurry.join()


def test_a_storm_of_500_passes(tiny: Download) -> None:
    tiny.hub.faults(FILE).statuses = [500, 502, 503]
    assert is_whole(tiny.run().folder)
    assert "The Hub has a problem (503)" in tiny.notes


def test_a_storm_of_500_stays(tiny: Download, hf_home: Path) -> None:
    tiny.hub.faults(FILE).cuts = [1_000_000]
    tiny.hub.faults(FILE).statuses = []
    plan = tiny.plan()
    tiny.plan = lambda token=None: plan  # type: ignore[method-assign]
    tiny.hub.faults("config.json").statuses = [500] * 9
    with pytest.raises(NoAnswer, match="The Hub has a problem") as caught:
        tiny.run()
    assert caught.value.retryable
    assert caught.value.code == "hub_problem"
    assert len(tiny.hub.requests("config.json")) == 4


def test_damage_is_fetched_once_more(tiny: Download) -> None:
    tiny.hub.faults(FILE).corrupt = 1
    assert is_whole(tiny.run().folder)
    assert "File 2 of 2 arrived damaged" in tiny.notes


def test_lasting_damage_is_an_error(tiny: Download, hf_home: Path) -> None:
    tiny.hub.faults(FILE).corrupt = 9
    with pytest.raises(Damaged, match="File 2 of 2 arrived damaged twice") as caught:
        tiny.run()
    assert caught.value.retryable
    assert tiny.hub.sent[FILE] == 2 * SIZE
    assert parts(hf_home) == []
    assert not list((hf_home / "hub").glob("models--*/snapshots/*"))


def test_a_small_file_is_verified_too(tiny: Download) -> None:
    tiny.hub.faults("config.json").corrupt = 9
    with pytest.raises(Damaged, match="File 1 of 2"):
        tiny.run()


def test_silence_ends_a_try(tiny: Download) -> None:
    tiny.hub.faults(FILE).stall_after = 1_000_000
    tiny.hub.faults(FILE).stalls = 1
    assert is_whole(tiny.run().folder)
    assert "No answer for 0 s; 1.0 of 3.0 MB are kept." in tiny.notes
    assert tiny.hub.requests(FILE)[1].range == "bytes=1000000-"


def test_lasting_silence_is_an_error(tiny: Download, hf_home: Path) -> None:
    tiny.patience = Patience(0.2, (0.01,), 0.0)
    tiny.hub.faults(FILE).stall_after = 0
    with pytest.raises(NoAnswer, match="No answer for 0 s"):
        tiny.run()
    assert parts(hf_home) == []


def test_an_early_end_is_resumed(tiny: Download) -> None:
    tiny.hub.faults(FILE).short_by = 1000
    with pytest.raises(NoAnswer, match="broke off"):
        tiny.run()
    tiny.hub.faults(FILE).short_by = 0
    assert is_whole(tiny.run().folder)


def test_no_room_at_the_start(
    tiny: Download, hf_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mistudio.core import disk_room

    monkeypatch.setattr(disk_room, "free_bytes", lambda path: 2_000_000)
    monkeypatch.setattr(disk_room, "reserved_bytes", lambda path: 0)
    with pytest.raises(DiskFull, match=r"Needs 3.0 MB, 2.0 MB are free"):
        tiny.run()
    assert not (hf_home / "hub").exists()


def test_a_disk_that_fills_pauses_the_job(
    tiny: Download, hf_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [10**12, 0]
    monkeypatch.setattr(transfer, "free_bytes", lambda path: free[0] if parts_small() else free[1])

    def parts_small() -> bool:
        return sum(parts(hf_home)) < 500_000

    tiny.hub.rate = 5_000_000
    running = Running(tiny)
    running.wait_for("paused")
    assert tiny.control.requested() is Request.PAUSE
    assert "Only 0 B are free" in tiny.notes
    assert "the download is paused" in tiny.notes
    kept = sum(parts(hf_home))
    assert 0 < kept < SIZE
    free[1] = 10**12
    tiny.control.resume()
    assert is_whole(running.result())
    assert tiny.hub.requests(FILE)[-1].range == f"bytes={kept}-"


def test_a_write_that_finds_no_room_pauses(tiny: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    room = [700_000]
    write = FileIO.write

    class Small(FileIO):
        def write(self, data: Any) -> int:
            if self.tell() >= room[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(self, data)

    monkeypatch.setattr("mistudio.hub.part_file.FileIO", Small)
    running = Running(tiny)
    running.wait_for("The disk is full")
    room[0] = SIZE
    tiny.control.resume()
    assert is_whole(running.result())


def test_a_full_disk_without_anyone_to_pause(
    tiny: Download, hf_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "free_bytes", lambda path: 0)
    with pytest.raises(DiskFull, match="Free some space and retry"):
        tiny.run(hold=lambda: None)


class Running:
    """A download in a thread of its own."""

    def __init__(self, download: Download) -> None:
        self.download = download
        self.error: BaseException | None = None
        self.folder: Path | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.folder = self.download.run().folder
        except BaseException as error:  # noqa: BLE001
            self.error = error

    def wait_for(self, words: str) -> None:
        """Until a note or a phase holds these words."""
        end = time.monotonic() + 10
        while time.monotonic() < end and self.thread.is_alive():
            if words in self.download.notes or any(words in p for p in self.download.phases):
                return
            time.sleep(0.01)
        raise AssertionError(f"{words!r} never came: {self.download.notes} {self.error}")

    def result(self) -> Path:
        self.thread.join(20)
        assert self.error is None
        assert self.folder is not None
        return self.folder


def test_pause_closes_the_connection_and_resume_goes_on(tiny: Download, hf_home: Path) -> None:
    tiny.hub.rate = 2_000_000
    running = Running(tiny)
    running.wait_for("(2 of 2)")
    tiny.control.pause()
    running.wait_for("Paused;")
    kept = sum(parts(hf_home))
    assert 0 < kept < SIZE
    tiny.hub.rate = None
    time.sleep(0.1)  # what would still arrive, were the connection open
    tiny.hub.sent.clear()
    time.sleep(0.2)
    assert tiny.hub.sent == {}
    assert sum(parts(hf_home)) == kept
    tiny.control.resume()
    assert is_whole(running.result())
    assert tiny.hub.requests(FILE)[-1].range == f"bytes={kept}-"


@pytest.mark.parametrize("state", ["flowing", "silent", "waiting", "unanswered"])
def test_cancel_takes_effect_within_a_second(
    tiny: Download, hf_home: Path, state: str, record_property: Callable[[str, object], None]
) -> None:
    tiny.patience = Patience()
    plan = tiny.plan()
    tiny.plan = lambda token=None: plan  # type: ignore[method-assign]
    faults = tiny.hub.faults(FILE)
    if state == "flowing":
        tiny.hub.rate = 1_000_000
    elif state == "silent":
        faults.stall_after = 300_000
    elif state == "waiting":
        faults.statuses = [500] * 9
    else:
        tiny.hub.delay_s = 30
    running = Running(tiny)
    if state == "unanswered":
        while not tiny.hub.requests("resolve"):
            time.sleep(0.01)
    else:
        running.wait_for({"waiting": "Waiting"}.get(state, "(2 of 2)"))
    begun = time.monotonic()
    tiny.control.cancel()
    running.thread.join(10)
    seconds = time.monotonic() - begun
    record_property("cancel_s", seconds)
    assert seconds < 10
    assert isinstance(running.error, Cancelled)
    assert cached_snapshot(plan) is None
    if state in ("flowing", "silent"):
        assert "stay in the cache; a retry goes on from there." in tiny.notes
        assert cached_bytes(plan) > 8
    if state == "unanswered":
        assert "Nothing was kept." in tiny.notes
        assert not list((hf_home / "hub").glob("models--*"))


def test_part_files_can_be_deleted(tiny: Download, hf_home: Path) -> None:
    tiny.hub.faults(FILE).cuts = [1_000_000] + [0] * 20
    with pytest.raises(NoAnswer):
        tiny.run()
    assert parts(hf_home) == [1_000_000]
    assert RepoCache("model", "acme/tiny").drop_unlinked() == 1_000_008
    assert not list((hf_home / "hub").glob("models--*"))


def test_an_unfinished_download_is_no_snapshot(tiny: Download) -> None:
    from huggingface_hub import scan_cache_dir, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    tiny.hub.faults(FILE).cuts = [1_000_000] + [0] * 20
    with pytest.raises(NoAnswer):
        tiny.run()
    with pytest.raises(LocalEntryNotFoundError):
        snapshot_download("acme/tiny", local_files_only=True)
    scan = scan_cache_dir()
    assert [str(w) for w in scan.warnings] == []
    assert [len(repo.revisions) for repo in scan.repos] == [0]


def test_offline_uses_what_is_there(tiny: Download) -> None:
    plan = tiny.plan()
    tiny.plan = lambda token=None: plan  # type: ignore[method-assign]
    address = setup.endpoint()
    setup.configure(address, offline=True)
    with pytest.raises(Offline):
        tiny.run()
    setup.configure(address)
    tiny.run()
    setup.configure(address, offline=True)
    assert is_whole(tiny.run().folder)


def test_going_offline_ends_a_running_download(tiny: Download, hf_home: Path) -> None:
    tiny.hub.rate = 1_000_000
    address = setup.endpoint()
    running = Running(tiny)
    running.wait_for("(2 of 2)")
    setup.configure(address, offline=True)
    running.thread.join(2)
    assert isinstance(running.error, Offline)
    assert "stay in the cache; a retry goes on from there." in tiny.notes
    asked, kept = len(tiny.hub.log), sum(parts(hf_home))
    assert 0 < kept < SIZE
    setup.configure(address)
    tiny.hub.rate = None
    assert is_whole(tiny.run().folder)
    assert tiny.hub.log[asked + 1].range == f"bytes={kept}-"


def test_a_page_in_place_of_the_file_costs_nothing_that_has_arrived(
    tiny: Download, hf_home: Path
) -> None:
    tiny.hub.faults(FILE).cuts = [1_000_000] + [0] * 20
    with pytest.raises(NoAnswer):
        tiny.run()
    plan = tiny.plan()
    tiny.plan = lambda token=None: plan  # type: ignore[method-assign]
    tiny.hub.files.clear()
    tiny.hub.has_ranges = False
    tiny.hub.faults(FILE).short_by = SIZE - 50
    with pytest.raises(NoAnswer, match="What came is another file"):
        tiny.run()
    assert parts(hf_home) == [1_000_000]
    tiny.hub.files.clear()
    tiny.hub.has_ranges = True
    assert tiny.run().fetched_bytes == SIZE - 1_000_000


def test_two_files_of_one_content_count_as_two(tiny: Download) -> None:
    tiny.hub.add("models", "acme/tiny", {"copy.safetensors": WEIGHTS})
    done = tiny.run()
    assert (done.total_bytes, done.fetched_bytes) == (2 * SIZE + 8, SIZE + 8)
    assert tiny.report.events[-1].values["fraction"] == 1.0


def test_a_server_that_is_gone(tiny: Download) -> None:
    plan = tiny.plan()
    tiny.plan = lambda token=None: plan  # type: ignore[method-assign]
    setup.configure("http://127.0.0.1:9")
    tiny.patience = QUICK
    begun = time.monotonic()
    with pytest.raises(NoAnswer, match="cannot be reached"):
        tiny.run()
    assert time.monotonic() - begun < 20


CHILD = """
import sys
from mistudio.hub import setup
setup.configure(sys.argv[1])
from mistudio.core.control import JobControl
from mistudio.core.events import SilentReporter
from mistudio.hub.client import repo_facts
from mistudio.hub.download import download, plan_download
plan = plan_download(repo_facts("model", "acme/tiny"))
download(plan, None, SilentReporter(), JobControl())
"""


def test_kill_and_restart_resumes(tiny: Download, hf_home: Path) -> None:
    tiny.hub.rate = 1_500_000
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, tiny.hub.url], env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    end = time.monotonic() + 20
    while sum(parts(hf_home)) < 1_000_000 and time.monotonic() < end:
        time.sleep(0.01)
    child.kill()
    child.wait()
    kept = sum(parts(hf_home))
    assert 1_000_000 <= kept < SIZE
    tiny.hub.rate = None
    tiny.hub.sent.clear()
    done = tiny.run()
    assert is_whole(done.folder)
    assert done.fetched_bytes == SIZE - kept
    assert tiny.hub.requests(FILE)[-1].range == f"bytes={kept}-"


def test_two_at_once_fetch_once(tiny: Download) -> None:
    tiny.hub.rate = 3_000_000
    other = Download(tiny.hub, control=JobControl())
    both = Running(tiny), Running(other)
    assert all(is_whole(running.result()) for running in both)
    assert tiny.hub.sent[FILE] == SIZE
    assert "another program downloads the same file" in tiny.notes + other.notes
