"""Small trainings that are disturbed and gone on with, and what of them must equal a quiet one."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mistudio.core.atomic import sha256_file
from tests.helpers.doomed import ROOT, Ended, Fault, Nursery

LAYER = "1"
SOURCES = ("live", "stored", "imported")
ARCHITECTURES: dict[str, tuple[str, ...]] = {
    "topk": ("--architecture", "topk"),
    "batch_topk": ("--architecture", "batch_topk", "--k-anneal", "2"),
    "matryoshka": ("--architecture", "matryoshka_batch_topk"),
    "standard": ("--architecture", "standard", "--target-l0", "12"),
    "gated": ("--architecture", "gated", "--target-l0", "12"),
    "jumprelu-tanh": ("--architecture", "jumprelu", "--jumprelu-penalty", "tanh"),
    "jumprelu-step": ("--architecture", "jumprelu", "--jumprelu-penalty", "step"),
    "jumprelu-quadratic": ("--architecture", "jumprelu", "--jumprelu-penalty", "quadratic"),
}
TRANSCODERS: dict[str, tuple[str, ...]] = {
    "transcoder": ("--encoder", "transcoder", "--architecture", "jumprelu"),
    "skip_transcoder": ("--encoder", "skip_transcoder", "--architecture", "batch_topk"),
}
# 47 steps over two epochs, checkpoints between two metric rows, latents that die and revive
SIZES = (
    "--width", "96", "--k", "6", "--tokens", "3008", "--batch", "64", "--window", "2048",
    "--context", "32", "--checkpoint-every", "7", "--eval-tokens", "1024",
    "--learning-rate", "3e-3", "--dead-window", "640", "--aux-k", "8", "--seed", "3",
)  # fmt: skip
CLOCKS = (
    "tokens_per_s", "train_seconds", "gpu_percent", "memory_bytes", "created_at", "updated_at",
    "training_id",
)  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """What a training left that an undisturbed one leaves to the byte."""

    status: str
    weights: str
    rows: list[tuple[Any, ...]]
    evaluation: dict[str, Any]
    training: dict[str, Any]
    last_checkpoint: dict[str, str]
    best: list[int]

    @property
    def held_out(self) -> list[int]:
        """The steps that were measured on held-out text."""
        rows = [dict(row) for row in self.rows]
        return [row["step"] for row in rows if row["heldout_ev"] is not None]


def few_texts(folder: Path) -> Path:
    """Pieces of the bundled text, about 8,000 tokens."""
    lines = (ROOT / "resources/sample/text/corpus.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines[:40:2]]
    path = folder / "few.jsonl"
    pieces = [text[low : low + 600] for text in texts for low in (0, 600)]
    path.write_text("".join(json.dumps({"text": piece}) + "\n" for piece in pieces))
    return path


def vectors(folder: Path) -> Path:
    """A file of made-up activations: sparse sums of fixed directions."""
    rng = np.random.default_rng(5)
    directions = rng.normal(size=(48, 24))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    codes = (rng.random((4000, 48)) < 0.08) * (1 + rng.random((4000, 48)))
    path = folder / "vectors.npy"
    np.save(path, (codes @ directions + 0.3).astype(np.float32))
    return path


def done(ended: Ended) -> Ended:
    """The command, which must have succeeded."""
    assert ended.status == 0, ended.out + ended.err
    return ended


def make_base(nursery: Nursery, home: Path, sources: tuple[str, ...] = SOURCES) -> None:
    """A data folder with the bundled model, a little text, and its activations of both kinds."""
    scratch = home.parent
    done(nursery.run(home, "dataset", "import", str(few_texts(scratch)), "--name", "few"))
    done(nursery.run(home, "dataset", "tokenize", "few", "--model", "sample", "--context", "32"))
    if "stored" in sources:
        hooks = ("--hooks", "resid_post", "--hooks", "mlp_in", "--hooks", "mlp_out")
        words = ("--layers", LAYER, *hooks, "--name", "stored")
        done(nursery.run(home, "activations", "extract", "sample", "few", *words))
    if "imported" in sources:
        words = ("import", str(vectors(scratch)), "--name", "imported")
        done(nursery.run(home, "activations", *words))


def train_words(source: str, *words: str) -> tuple[str, ...]:
    """The command that trains on one of the sources."""
    live = ("--model", "sample", "--dataset", "few", "--layer", LAYER)
    where = live if source == "live" else ("--activations", source)
    if source == "stored":
        where = (*where, "--layer", LAYER)
    return ("train", *where, *SIZES, *words)


def facts(home: Path) -> Facts:
    """What the only training of a data folder left. Nothing may lie about or be at work."""
    with closing(sqlite3.connect(home / "mistudio.db")) as db:
        db.row_factory = sqlite3.Row
        trainings = [dict(row) for row in db.execute("SELECT * FROM trainings")]
        saes = [dict(row) for row in db.execute("SELECT * FROM saes")]
        metrics = [dict(row) for row in db.execute("SELECT * FROM training_metrics ORDER BY step")]
        checkpoints = [dict(row) for row in db.execute("SELECT * FROM checkpoints")]
        working = [
            (row["kind"], row["status"])
            for row in db.execute(
                "SELECT * FROM jobs WHERE status IN ('queued', 'running', 'paused', 'interrupted')"
            )
        ]
    assert working == []
    assert len(trainings) == 1
    (training,) = trainings
    assert [sae["id"] for sae in saes] == [training["sae_id"]]
    (sae,) = saes
    run, files = home / "runs" / training["id"], home / sae["path"]
    left = leftovers(home, sae["path"])
    assert not left, left
    on_disk = {path.name for path in (run / "checkpoints").glob("step_*")}
    assert {Path(row["path"]).name for row in checkpoints} == on_disk
    assert sha256_file(files / "sae_weights.safetensors") == sae["weights_hash"]
    evaluation = json.loads(sae["evaluation"] or "{}")
    if evaluation:
        assert json.loads((files / "evaluation.json").read_text()) == evaluation
    told = ("current_step", "total_steps", "tokens_seen", "error_code", "latest_loss", "latest_l0")
    told += ("latest_dead", "latest_ev")
    newest = run / "checkpoints" / f"step_{training['current_step']:08d}"
    return Facts(
        status=training["status"],
        weights=sae["weights_hash"],
        rows=[tuple((k, v) for k, v in row.items() if k not in CLOCKS) for row in metrics],
        evaluation={k: v for k, v in evaluation.items() if "seconds" not in k},
        training={name: training[name] for name in told},
        last_checkpoint={p.name: sha256_file(p) for p in sorted(newest.glob("*.safetensors"))},
        best=[row["step"] for row in checkpoints if row["is_best"]],
    )


def leftovers(home: Path, sae: str) -> list[str]:
    """Files that nobody needs any more, or that no row knows."""
    hidden = [
        path
        for path in home.rglob("*")
        if path.name.startswith(".") or path.suffix in (".tmp", ".part", ".old", ".bin")
    ]
    hidden = [path for path in hidden if "activations" not in path.parts]
    unknown = [path for path in (home / "saes").glob("*") if path != home / sae]
    folders = [p for part in ("calibration", "evaluation") for p in home.glob(f"runs/*/{part}")]
    torn = [path for path in home.glob("runs/*/checkpoints/step_*") if not _whole(path)]
    found = [*hidden, *unknown, *folders, *torn, *(home / "tmp").glob("*")]
    return [str(path.relative_to(home)) for path in found]


def _whole(checkpoint: Path) -> bool:
    return (checkpoint / "manifest.json").is_file()


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """What runs the commands of a module's tests."""
    with Nursery(tmp_path_factory.mktemp("nursery")) as made:
        yield made


@pytest.fixture(scope="module")
def base(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with what trainings read, made once a module."""
    home = tmp_path_factory.mktemp("base") / "home"
    home.mkdir()
    make_base(nursery, home)
    return home


def copy_of(base: Path, home: Path) -> Path:
    """A data folder of its own for one run."""
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(base, home)
    return home


@dataclass(frozen=True)
class Survived:
    """A disturbed training at its end: the moments at which it was disturbed, of how many."""

    facts: Facts
    struck: list[str]


def survive(
    nursery: Nursery,
    home: Path,
    words: tuple[str, ...],
    moments: int,
    rng: random.Random,
    kinds: tuple[str, ...],
) -> Survived:
    """Train, meet a fault of each kind at a random moment, go on; then go on to the end.

    "torn" is a kill after which the newest checkpoint is cut off, as a power failure may leave it.
    """
    struck: list[str] = []
    for number, kind in enumerate((*kinds, "")):
        # what goes on has fewer moments left than what begins
        at = rng.randint(1, moments // (1 + number))
        fault = Fault("kill" if kind == "torn" else kind, at) if kind else Fault()
        before = _status(home)
        if before in ("completed", "stopped"):  # killed between its end and that of the process
            done(nursery.run(home, "jobs", "list"))
            break
        command = words if before is None else ("train", "resume", "last")
        ended = nursery.run(home, *command, fault=fault)
        # what is raised while a line is logged is shown by the log itself
        assert kind == "raise" or "Traceback" not in ended.err, ended.err
        assert ended.status == 0 or kind, f"{struck}: {ended.out}{ended.err}"
        if ended.status == 0:
            break
        struck.append(f"{kind}@{fault.at}")
        if kind == "torn":
            _tear(home, rng)
    return Survived(facts(home), struck)


def _tear(home: Path, rng: random.Random) -> None:
    kept = sorted(home.glob("runs/*/checkpoints/step_*/manifest.json"))
    if kept:
        file = rng.choice(sorted(kept[-1].parent.iterdir()))
        os.truncate(file, file.stat().st_size // 2)


def _status(home: Path) -> str | None:
    """How the training stands, None before there is one."""
    with closing(sqlite3.connect(home / "mistudio.db")) as db:
        found = db.execute("SELECT status FROM trainings").fetchall()
    return str(found[0][0]) if found else None
