"""Measures the real window: in processes of its own, on a virtual screen where there is one."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mistudio.core.control import JobControl
from mistudio.core.dataset_configs import TokenizeConfig
from mistudio.core.errors import InvalidInput, StudioError, Unsupported
from mistudio.core.events import SilentReporter
from mistudio.core.paths import Paths
from mistudio.core.settings import SettingsFile
from mistudio.jobs import sample
from mistudio.jobs.bench_hub import REPO, BenchHub
from mistudio.jobs.runner import Studio

PLAN_VARIABLE = "MISTUDIO_BENCH"  # names the plan that the window works off
PARTS = ("start", "load", "remote", "training")
DOWNLOAD_BYTES, DOWNLOAD_RATE = 4_000_000_000, 20e6
LIMIT_S = 1800.0
SCREEN = "1280x720x24"


class Goal(NamedTuple):
    """What a figure should reach; `most` is in its own unit."""

    what: str
    measured: float | None
    most: float

    @property
    def is_met(self) -> bool:
        return self.measured is not None and self.measured <= self.most

    def line(self) -> str:
        """For people."""
        shown = "—" if self.measured is None else f"{self.measured:g}"
        return f"{'met   ' if self.is_met else 'MISSED'}  {self.what}: {shown} (goal {self.most:g})"


def bench_window(
    parts: tuple[str, ...] = PARTS, rounds: int = 3, idle_s: float = 10.0, tokens: int = 300_000
) -> dict[str, Any]:
    """Start the window `rounds` times, and once for each other part; see `docs/speed.md`.

    Each part tells the machine's load (of the last minute) before it, as other programs slow all
    of this down. Raises `InvalidInput` for an unknown part, `Unsupported` without a screen.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown or rounds < 1 or idle_s < 1 or tokens < 20_000:
        raise InvalidInput(
            f"--only takes {', '.join(PARTS)}; rounds and seconds are at least 1, tokens 20,000.",
            code="invalid_config",
        )
    found: dict[str, Any] = {"cores": os.cpu_count()}
    with ExitStack() as stack:
        environment = stack.enter_context(_screen())
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mistudio-bench-")))
        plan = {"idle_s": idle_s, "tokens": tokens, "repo": REPO}
        if sys.dont_write_bytecode and not getattr(sys, "frozen", False):
            environment = _compiled(root, environment, plan)
        if "start" in parts:
            starts = [_run(root, environment, {**plan, "script": "start"}) for _ in range(rounds)]
            found["start"] = _middle(starts)
        if "remote" in parts:
            found["remote"] = _run(root, environment, {**plan, "script": "start"}, remote="on")
        if "training" in parts:
            training = {**plan, "script": "training", "tokens": 5_000_000}
            found["training"] = _run(root, environment, training, remote="on", prepared=True)
        if "load" in parts:
            hub = stack.enter_context(BenchHub(DOWNLOAD_BYTES, DOWNLOAD_RATE))
            found["load"] = _run(root, environment, {**plan, "script": "load"}, hub=hub)
            found["load"]["downloaded_bytes"] = hub.sent
    return found


def goals(found: dict[str, Any]) -> list[Goal]:
    """The goals of what was measured."""
    made: list[Goal] = []
    if start := found.get("start"):
        first, again = start["tab_first_ms"], start["tab_again_ms"]
        made += [
            Goal("start to a usable window (s)", start["usable_s"], 1.0),
            Goal("memory of the idle window (MB)", start["idle_memory_mb"], 250),
            Goal("slowest first visit of a tab (ms)", max(first.values()), 50),
            Goal("slowest later visit of a tab (ms)", max(again.values()), 50),
        ]
    if remote := found.get("remote"):
        made.append(Goal("idle, remote (repaints/s)", remote["idle"]["repaints_per_s"], 0))
    if training := found.get("training"):
        made.append(
            Goal("training, remote (repaints/s)", training["training"]["repaints_per_s"], 2)
        )
    if load := found.get("load"):
        first: dict[str, float] = load["first_load"] or {}
        rest: dict[str, float] = load["rest"]
        made += [
            Goal("99 % of the gaps while jobs run (ms)", rest["p99_ms"], 100),
            Goal(
                "longest gap while jobs run, others' turns left out (ms)", rest["own_max_ms"], 100
            ),
            Goal(
                "longest gap at the first load of torch, others' turns left out (ms)",
                first.get("own_max_ms"),
                100,
            ),
            Goal("phases without a download beside", _without_download(load), 0),
        ]
    return made


def _without_download(load: dict[str, Any]) -> int:
    return len(set(load["gaps"]) - set(load["download_beside"]))


def _compiled(root: Path, environment: dict[str, str], plan: dict[str, Any]) -> dict[str, str]:
    """The environment in which Python finds every module compiled, as it does for a user.

    Where it was told to keep nothing (`PYTHONDONTWRITEBYTECODE`), it would compile all of them
    anew at every start; so a start that does not count compiles them into a folder of ours.
    """
    kept = {k: v for k, v in environment.items() if k != "PYTHONDONTWRITEBYTECODE"}
    kept["PYTHONPYCACHEPREFIX"] = str(root / "compiled")
    _run(root, kept, {**plan, "script": "open"})
    return kept


def _middle(starts: list[dict[str, Any]]) -> dict[str, Any]:
    """The run with the median start, with every round's times beside it."""
    times = [run["usable_s"] for run in starts]
    middle = statistics.median_low(times)
    return {**next(run for run in starts if run["usable_s"] == middle), "usable_s_of_all": times}


def _run(
    root: Path,
    environment: dict[str, str],
    plan: dict[str, Any],
    *,
    remote: str = "off",
    hub: BenchHub | None = None,
    prepared: bool = False,
) -> dict[str, Any]:
    """One process of the program on a fresh data folder; returns what it wrote down."""
    with tempfile.TemporaryDirectory(dir=root) as folder:
        place = Path(folder)
        paths = Paths.at(place / "home")
        _settle(paths, remote, hub.url if hub else "http://127.0.0.1:9")
        if prepared:
            _prepare(paths)
        report, file = place / "report.json", place / "plan.json"
        told = {**environment, PLAN_VARIABLE: str(file), "HF_HOME": str(place / "hub")}
        load = os.getloadavg()[0]
        began = time.monotonic()
        plan = {**plan, "report": str(report), "began": began}
        file.write_text(json.dumps(plan), encoding="utf-8")
        process = subprocess.Popen(
            [*_program(), "--home", str(paths.home)], env=told, stderr=subprocess.PIPE, text=True
        )
        try:
            _, errors = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise StudioError("The window did not end in half an hour.") from None
        if not report.exists():
            raise StudioError("The window ended before it was measured.", details=errors)
        found = json.loads(report.read_text(encoding="utf-8"))
    if problem := found.pop("problem"):
        raise StudioError("The window could not be measured.", details=str(problem))
    return {"machine_load": round(load, 2), **found}


def _program() -> list[str]:
    """How this program is started: as a built one, or by this interpreter."""
    return (
        [sys.executable]
        if getattr(sys, "frozen", False)
        else [sys.executable, "-m", "mistudio.cli"]
    )


def _settle(paths: Paths, remote: str, hub: str) -> None:
    """The settings of a measurement; no server but ours is ever asked."""
    settings = SettingsFile(paths.settings)
    settings.values.remote_display = remote
    settings.values.hub_address = hub
    settings.values.confirm_close = False
    settings.save()


def _prepare(paths: Paths) -> None:
    """The sample's model and text, tokenised, so that a training begins at once."""
    studio = Studio(paths)
    try:
        sample.ensure(studio)
        config = TokenizeConfig(dataset=sample.NAME, model=sample.NAME, context=128)
        studio.run_now("tokenize", config, SilentReporter(), JobControl())
    finally:
        studio.close()


@contextmanager
def _screen() -> Generator[dict[str, str]]:
    """The environment of a window: a virtual screen of its own, else the one there is."""
    own = {name: value for name, value in os.environ.items() if name != "QT_QPA_PLATFORM"}
    server = shutil.which("Xvfb")
    if server is None:
        if not own.get("DISPLAY"):
            raise Unsupported("There is no screen. Install Xvfb (sudo apt install xvfb).")
        yield own
        return
    command = [server, "-displayfd", "1", "-screen", "0", SCREEN, "-nolisten", "tcp"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            number = process.stdout.readline().decode().strip()
            own.pop("WAYLAND_DISPLAY", None)
            yield {**own, "DISPLAY": f":{number}"}
        finally:
            process.terminate()
