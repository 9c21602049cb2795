"""The program as a user starts it: appears, is raised by a second start, ends by SIGTERM."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "mistudio.cli", "--home"]


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    pause = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if condition():
            return True
        pause.wait(0.02)
    return False


def log_text(home: Path) -> str:
    file = home / "logs" / "mistudio.jsonl"
    return file.read_text() if file.exists() else ""


class Program:
    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        self.home = home
        self.process = subprocess.Popen(
            [*COMMAND, str(home)], env=environment, stderr=subprocess.PIPE, text=True
        )

    def appears(self) -> bool:
        return wait_for(lambda: "window shown" in log_text(self.home))

    def end(self, number: int) -> tuple[int, str]:
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=20)
        return self.process.returncode, errors


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "QT_QPA_PLATFORM": "offscreen",
        "MISTUDIO_HEARTBEAT": str(tmp_path / "gaps.json"),
    }


@pytest.fixture
def program(tmp_path: Path, environment: dict[str, str]) -> Iterator[Program]:
    made = Program(tmp_path / "home", environment)
    yield made
    if made.process.poll() is None:
        made.process.kill()
        made.process.communicate()


@pytest.mark.window
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["term", "int"])
def test_a_signal_ends_it_in_order(program: Program, tmp_path: Path, number: int) -> None:
    assert program.appears()
    code, errors = program.end(number)
    assert code == 0
    assert "Traceback" not in errors
    assert not (program.home / "logs" / "fault.log").exists()
    assert (program.home / "window.ini").exists()
    gaps = json.loads((tmp_path / "gaps.json").read_text())
    assert gaps["ticks"] > 0


@pytest.mark.window
def test_a_second_start_raises_the_first_and_ends(
    program: Program, environment: dict[str, str]
) -> None:
    assert program.appears()
    second = subprocess.run([*COMMAND, str(program.home)], env=environment, timeout=30, check=False)
    assert second.returncode == 0
    assert program.process.poll() is None
    assert log_text(program.home).count("window shown") == 1
    assert program.end(signal.SIGTERM)[0] == 0


@pytest.mark.window
def test_after_a_kill_it_starts_again(program: Program, environment: dict[str, str]) -> None:
    assert program.appears()
    program.process.kill()
    program.process.communicate()
    (program.home / "logs" / "mistudio.jsonl").unlink()
    again = Program(program.home, environment)
    assert again.appears()
    assert again.end(signal.SIGTERM)[0] == 0


@pytest.mark.window
@pytest.mark.skipif(shutil.which("xvfb-run") is None, reason="needs Xvfb")
def test_it_maps_a_window_on_a_bare_x_server(tmp_path: Path) -> None:
    script = (
        f"{sys.executable} -m mistudio.cli --home {tmp_path / 'home'} & program=$!; "
        f"while ! grep -q 'window shown' {tmp_path}/home/logs/mistudio.jsonl 2>/dev/null; "
        "do kill -0 $program || exit 3; sleep 0.05; done; "
        "kill -TERM $program; wait $program"
    )
    environment = {k: v for k, v in os.environ.items() if k != "QT_QPA_PLATFORM"}
    done = subprocess.run(
        ["xvfb-run", "-a", "-s", "-screen 0 1280x720x24", "bash", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_window_leaves_torch_alone() -> None:
    code = "import sys, mistudio.gui.app; print(sorted({'torch', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
