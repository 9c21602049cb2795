"""Kills a process at every step of a deletion that can be taken back, and of taking it back.

Run as a program with a folder; writes one JSON line. A child process dies by SIGKILL just before
each thing it would do to the disk: opening a file to write, making, renaming or removing one, and
around the transactions. The parent then starts anew on the same folder and says what it found.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mistudio.core.paths import Paths
from mistudio.jobs import set_aside
from mistudio.jobs.runner import Studio
from mistudio.store import aside
from mistudio.store.jobs import add_job
from mistudio.store.tables import DATASETS, FEATURE_SETS, JOBS, SAES, TOKENIZATIONS, TRAININGS

EVENTS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "sqlite3.connect")


def world(home: Path) -> str:
    """A tokenised dataset that a run and a feature set read; returns the run's id."""
    studio = Studio(Paths.at(home))
    db = studio.db()
    dataset = DATASETS.insert(db, name="tales", source="local", status="ready")
    tokens = TOKENIZATIONS.insert(
        db,
        dataset_id=dataset.id,
        tokenizer_name="t",
        settings_hash="h",
        context=8,
        status="ready",
        path=f"datasets/{dataset.id}/tokens/x",
    )
    run = TRAININGS.insert(
        db,
        name="run",
        encoder_type="sae",
        architecture="topk",
        layer=0,
        hook="resid_post",
        status="paused",
    )
    db.execute("INSERT INTO training_datasets VALUES (?, ?, 1, 'now', 'now')", [run.id, tokens.id])
    db.execute(
        "INSERT INTO training_metrics (training_id, step, layer, hook, loss, created_at, "
        "updated_at) VALUES (?, 1, 0, 'resid_post', 0.5, 'now', 'now')",
        [run.id],
    )
    sae = SAES.insert(
        db,
        name="sae",
        origin="training",
        encoder_type="sae",
        architecture="topk",
        d_in=4,
        d_out=4,
        n_latents=8,
        path="saes/x",
        training_id=run.id,
        status="ready",
    )
    FEATURE_SETS.insert(db, sae_id=sae.id, tokenization_id=tokens.id, status="ready")
    job = add_job(db, "train", "gpu", "Train run", {}, target_id=run.id)
    JOBS.update(db, job.id, status="paused")
    folder = studio.paths.run(run.id) / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"w" * 1000)
    studio.close()
    return run.id


def content(studio: Studio) -> dict[str, Any]:
    """Every row of every table but the jobs' times, and every file but the database's."""
    db = studio.db()
    names = [
        r["name"]
        for r in db.query("SELECT name FROM sqlite_master WHERE type = 'table'")
        if "fts" not in r["name"] and not r["name"].startswith(("sqlite", "_", "feature_rev"))
    ]
    rows = {
        n: sorted(
            json.dumps(r, sort_keys=True, default=bytes.hex) for r in db.query(f"SELECT * FROM {n}")
        )
        for n in names
    }
    home = studio.paths.home
    left = (f for f in home.rglob("*") if f.is_file())
    files = sorted(str(f.relative_to(home)) for f in left if not f.name.startswith("mistudio.db"))
    return {"rows": rows, "files": files}


def dies_at(moment: int, work: Callable[[], object]) -> bool:
    """Do it in a child that is killed at its n-th moment; True if it lived to the end."""
    child = os.fork()
    if child == 0:
        seen = 0

        def tick() -> None:
            nonlocal seen
            seen += 1
            if seen == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if event in EVENTS or writes:
                tick()

        for module, name in ((aside, "take_out"), (aside, "put_back")):
            setattr(module, name, _around(getattr(module, name), tick))
        sys.addaudithook(hook)
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _around(function: Callable[..., Any], tick: Callable[[], None]) -> Callable[..., Any]:
    def wrapped(*arguments: Any) -> Any:
        tick()
        result = function(*arguments)
        tick()
        return result

    return wrapped


def delete(home: Path, run: str) -> None:
    """As the window does it."""
    set_aside.set_aside(Studio(Paths.at(home)), "trainings", run)


def delete_and(home: Path, run: str, then: Callable[[Studio, Path], object]) -> Callable[[], None]:
    """Put aside now, so that the moments are those of what follows."""
    studio = Studio(Paths.at(home))
    folder = set_aside.set_aside(studio, "trainings", run)
    studio.close()

    def work() -> None:
        then(Studio(Paths.at(home)), folder)

    return work


def main(base: Path) -> None:
    """For each of the three acts: what each moment of death led to."""
    found: dict[str, list[str]] = {}
    run = world(base / "first")
    studio = Studio(Paths.at(base / "first"))
    before = content(studio)
    studio.close()
    for act in ("delete", "undo", "finish"):
        moment, lived, ends = 0, False, list[str]()
        while not lived:
            moment += 1
            home = base / act
            shutil.copytree(base / "first", home)
            if act == "delete":
                lived = dies_at(moment, lambda home=home, run=run: delete(home, run))
            else:
                then = set_aside.take_back if act == "undo" else set_aside.finish
                lived = dies_at(moment, delete_and(home, run, then))
            set_aside._lives = lambda plan: False  # who put it aside is this process or dead
            ends.append(outcome(home, run, before))
            shutil.rmtree(home)
        found[act] = ends
    sys.stdout.write(json.dumps(found))


def outcome(home: Path, run: str, before: dict[str, Any]) -> str:
    """After a start: "as before", "gone" without a trace, or what is wrong."""
    studio = Studio(Paths.at(home))
    studio.recover()
    after = content(studio)
    studio.close()
    if (home / "deleted").exists():
        return f"left aside: {[str(p) for p in (home / 'deleted').rglob('*')]}"
    if after == before:
        return "as before"
    gone = {**before["rows"]}
    for table in ("trainings", "training_datasets", "training_metrics"):
        gone[table] = []
    files = [name for name in before["files"] if run not in name]
    jobs = [json.loads(row)["status"] for row in after["rows"]["jobs"]]
    saes = [json.loads(row)["training_id"] for row in after["rows"]["saes"]]
    same = all(after["rows"][t] == gone[t] for t in gone if t not in ("jobs", "saes"))
    if same and files == after["files"] and jobs == ["cancelled"] and saes == [None]:
        return "gone"
    return json.dumps({"rows": after["rows"], "files": after["files"]})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
