"""Command lines in processes of their own that meet a fault at a chosen moment.

A process that has imported everything forks one child per command, so that each starts at once.
Moments are counted in what a process leaves behind: files opened for writing, renamed or removed
below the data folder, and commits of the database. Between two of them a process that dies has
changed nothing, so a death at each is a death at any time.

Run as a program, it reads commands as JSON lines and answers each with how it ended.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Fault:
    """What happens at which moment. `where` is part of a path; only such moments are counted.

    "kill" is SIGKILL, "term" SIGTERM, "stop" a user's stop, "raise" an exception that nobody
    expects, "full" a disk without room from then on for `lasts` moments (0: to the end). "nothing"
    only counts.
    """

    kind: str = "nothing"
    at: int = 0
    where: str = ""
    lasts: int = 0


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit status (negative: the signal), what it printed, its moments."""

    status: int
    out: str
    err: str
    moments: int

    @property
    def result(self) -> dict[str, Any]:
        """The last line of its output."""
        return json.loads(self.out.splitlines()[-1])


@dataclass
class Nursery:
    """The process that forks the commands; to be closed."""

    folder: Path
    _process: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.doomed"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self, home: Path, *words: str, fault: Fault | None = None, patches: Sequence[str] = ()
    ) -> Ended:
        """`mistudio words…` on a data folder; its process runs the code of `patches` before."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {
            "words": [*words, "--home", str(home), "--json"],
            "fault": vars(fault or Fault()),
            "home": str(home),
            "out": str(self.folder / "out.txt"),
            "err": str(self.folder / "err.txt"),
            "moments": str(self.folder / "moments.txt"),
            "patches": list(patches),
        }
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the process that forks commands has ended"
        counted = Path(order["moments"])
        moments = int(counted.read_text() or 0) if counted.exists() else 0
        counted.unlink(missing_ok=True)
        out, err = (Path(str(order[name])).read_text(encoding="utf-8") for name in ("out", "err"))
        return Ended(int(answer), out, err, moments)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Doom:
    """Counts the moments of this process and lets the fault happen."""

    def __init__(self, fault: Fault, home: str, moments: str) -> None:
        self.fault, self._home, self._moments = fault, home, moments
        self.count = 0
        self._thread = 0
        self._busy = False

    def start(self) -> None:
        """Watch files and commits of this thread from now on."""
        import threading

        from mistudio.core import control
        from mistudio.store.database import _WriterFirst

        self._thread = threading.get_ident()
        self._controls: list[Any] = []
        made, atomic = control.JobControl.__init__, _WriterFirst.atomic
        doom = self

        def remember(own: Any, *rest: Any, **named: Any) -> None:
            made(own, *rest, **named)
            doom._controls.append(own)

        def watched(own: Any) -> Any:
            return _Watched(doom, atomic(own), outermost=not own.conn.in_transaction)

        control.JobControl.__init__ = remember  # type: ignore[method-assign]
        _WriterFirst.atomic = watched  # type: ignore[assignment, method-assign]
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"):
            return
        if event == "open":
            mode, flags = arguments[1], arguments[2] or 0
            writes = any(c in str(mode or "") for c in "wax+")
            if not writes and not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        self.moment(arguments[0], event in ("open", "os.mkdir"))

    def moment(self, path: Any, grows: bool) -> None:
        """One moment, if it is in the data folder and of the watched thread."""
        import threading

        if self._busy or threading.get_ident() != self._thread:
            return
        name = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""
        if not name.startswith(self._home) or self.fault.where not in name:
            return
        self._busy = True
        try:
            self.count += 1
            self._strike(name, grows)
        finally:
            self._busy = False

    def _strike(self, name: str, grows: bool) -> None:
        import errno
        import signal

        fault, since = self.fault, self.count - self.fault.at
        if fault.at == 0 or since < 0:
            return
        if fault.kind == "full" and grows and (fault.lasts == 0 or since < fault.lasts):
            raise OSError(errno.ENOSPC, "No space left on device", name)
        if since:
            return
        if fault.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.kind == "term":
            os.kill(os.getpid(), signal.SIGTERM)
        elif fault.kind == "stop":
            for control in list(self._controls):
                control.stop()
        elif fault.kind == "raise":
            raise LookupError("nobody expects this")

    def end(self) -> None:
        """Write down how many moments there were."""
        self._busy = True
        Path(self._moments).write_text(str(self.count))


class _Watched:
    """A transaction with a moment before it and one after its commit."""

    def __init__(self, doom: _Doom, inner: Any, *, outermost: bool) -> None:
        self._doom, self._inner, self._outermost = doom, inner, outermost
        self._name = f"{doom._home}/mistudio.db"

    def __enter__(self) -> Any:
        if self._outermost:
            self._doom.moment(self._name, False)
        return self._inner.__enter__()

    def __exit__(self, *failure: Any) -> Any:
        found = self._inner.__exit__(*failure)
        if self._outermost and failure[0] is None:
            self._doom.moment(self._name, False)
        return found


def _child(order: dict[str, Any]) -> int:
    """The command of one child."""
    for stream, name in ((1, "out"), (2, "err")):
        handle = os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, stream)
        os.close(handle)
    from mistudio import cli

    doom = _Doom(Fault(**order["fault"]), order["home"], order["moments"])
    for patch in order["patches"]:
        exec(compile(patch, "patch", "exec"), {})
    doom.start()
    try:
        return cli.main(order["words"])
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        doom.end()
        sys.stdout.flush()
        sys.stderr.flush()


def _serve() -> None:
    import importlib

    for name in (
        "mistudio.cli", "mistudio.commands", "mistudio.evaluation_commands",
        "mistudio.library_commands", "mistudio.training_commands", "mistudio.jobs.registry",
        "mistudio.jobs.crew", "mistudio.jobs.hub_pages", "mistudio.jobs.training_run",
        "mistudio.ml.training.loop", "mistudio.ml.evaluation.evaluate", "mistudio.ml.loading",
        "mistudio.ml.data.token_store", "mistudio.ml.formats.saelens", "mistudio.ml.lens",
        "mistudio.ml.evaluation.vectors", "mistudio.ml.activations.extract",
        "transformers.models.llama.modeling_llama", "transformers.models.auto.modeling_auto",
        "transformers.models.auto.tokenization_auto", "transformers.tokenization_utils_tokenizers",
    ):  # fmt: skip
        importlib.import_module(name)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            status = 70
            try:
                status = _child(order)
            finally:  # nothing of what this process is to do happens in its child
                os._exit(status)
        _, ended = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(ended)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
