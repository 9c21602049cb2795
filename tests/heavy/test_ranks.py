"""Training in several processes from the command line, as torchrun starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mistudio.core.config import to_dict
from mistudio.store import trainings
from mistudio.store.tables import SAES, TRAININGS
from tests.helpers.processes import PROCESS_S, ROOT, finish, free_port, start_ranks
from tests.helpers.studio import new_studio, tiny_studio, tiny_training

pytestmark = pytest.mark.heavy


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))  # of the processes, which are to leave it empty
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    tiny_studio(tmp_path).close()
    return tmp_path / "data"


def words(home: Path, *rest: str, verb: str = "train") -> list[str]:
    return ["-m", "mistudio.cli", verb, *rest, "--home", str(home), "--json"]


def config_file(home: Path, name: str, **values: object) -> str:
    path = home.parent / f"{name}.json"
    path.write_text(json.dumps(to_dict(tiny_training(name=name, seed=3, **values))))
    return str(path)


def results(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines() if '"event": "result"' in line]


def by_torchrun(home: Path, *rest: str, verb: str = "train") -> dict[str, Any]:
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2"]
    launcher += ["--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    found = subprocess.run(
        [sys.executable, *launcher, *words(home, *rest, verb=verb)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=PROCESS_S,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    (told,) = results(found.stdout)  # one of the two reports
    return told


def alone(home: Path, *rest: str, verb: str = "train") -> dict[str, Any]:
    found = subprocess.run(
        [sys.executable, *words(home, *rest, verb=verb)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PROCESS_S,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return results(found.stdout)[0]


def wait_for_steps(first: subprocess.Popen[str]) -> None:
    assert first.stdout is not None
    for line in first.stdout:
        if "Training: step" in line:
            return
    pytest.fail("no step was made")


def curve(home: Path, training: str) -> list[dict[str, Any]]:
    studio = new_studio(home)
    try:
        return trainings.metrics(studio.db(), training)
    finally:
        studio.close()


@pytest.mark.parametrize("architecture", ["batch_topk", "jumprelu"])
def test_torchrun_trains_what_one_process_trains(home: Path, architecture: str) -> None:
    one = alone(home, config_file(home, "one", architecture=architecture))
    two = by_torchrun(home, config_file(home, "two", architecture=architecture))
    assert two["outcome"] == "completed"
    rows = list(zip(curve(home, one["training"]), curve(home, two["training"]), strict=True))
    assert len(rows) == 10
    for a, b in rows:
        for key in ("loss", "reconstruction", "l0", "grad_norm"):
            assert b[key] == pytest.approx(a[key], rel=1e-4), (a["step"], key)
    for key in ("explained_variance", "l0", "ce_loss_score"):
        assert two[key] == pytest.approx(one[key], rel=1e-4)
    studio = new_studio(home)
    assert [row.status for row in TRAININGS.select(studio.db())] == ["completed", "completed"]
    assert len(SAES.select(studio.db())) == 2
    studio.close()
    assert not list((home.parent / "scratch").glob("mistudio*"))


def sweep_words(**values: object) -> list[str]:
    flags = to_dict(tiny_training(seed=3, **values))
    kept = ("model", "dataset", "width", "k", "tokens", "batch", "window", "context", "seed")
    kept += ("checkpoint_every", "eval_tokens", "learning_rate")
    told = [word for n in kept for word in (f"--{n.replace('_', '-')}", str(flags[n]))]
    return [*told, "--layers", "0,1", "--vary", "input_norm=constant,whitening"]


def test_torchrun_trains_a_sweep_as_one_process_does(home: Path) -> None:
    one = alone(home, *sweep_words(), verb="sweep")
    two = by_torchrun(home, *sweep_words(), verb="sweep")
    assert len(one["trainings"]) == len(two["trainings"]) == 4
    for a, b in zip(one["trainings"], two["trainings"], strict=True):
        assert b["outcome"] == "completed"
        rows = zip(curve(home, a["training"]), curve(home, b["training"]), strict=True)
        for x, y in rows:
            for key in ("loss", "reconstruction", "l0", "grad_norm"):
                assert y[key] == pytest.approx(x[key], rel=1e-4), (a["training"], x["step"], key)
        assert b["explained_variance"] == pytest.approx(a["explained_variance"], rel=1e-4)
    assert not list((home.parent / "scratch").glob("mistudio*"))


def test_a_sweep_asked_to_stop_pauses_in_all_and_goes_on_alone(home: Path) -> None:
    whole = alone(home, *sweep_words(tokens=64 * 400), verb="sweep")
    ranks = start_ranks(words(home, *sweep_words(tokens=64 * 400), verb="sweep"))
    wait_for_steps(ranks[0])
    for rank in ranks:
        rank.send_signal(signal.SIGTERM)
    first, second = finish(ranks)
    assert (first[0], second[0]) == (130, 0), first[2] + second[2]
    rest = alone(home, "resume", "last")
    for a, b in zip(whole["trainings"], rest["trainings"], strict=True):
        assert b["explained_variance"] == pytest.approx(a["explained_variance"], rel=1e-3)


def test_torchrun_continues_a_run_as_one_process_does(home: Path) -> None:
    begun = alone(home, config_file(home, "begun"))["training"]
    length = ("--tokens", str(2 * tiny_training().tokens))
    one = alone(home, "continue", begun, *length, "--name", "one")
    two = by_torchrun(home, "continue", begun, *length, "--name", "two")
    assert two["outcome"] == "completed"
    assert one["steps"] == two["steps"] == 200
    rows = list(zip(curve(home, one["training"]), curve(home, two["training"]), strict=True))
    assert rows
    for a, b in rows:
        for key in ("loss", "reconstruction", "l0", "grad_norm"):
            assert b[key] == pytest.approx(a[key], rel=1e-4), (a["step"], key)
    assert two["explained_variance"] == pytest.approx(one["explained_variance"], rel=1e-4)


def test_one_asked_to_stop_pauses_all_and_another_number_goes_on(home: Path) -> None:
    whole = alone(home, config_file(home, "whole", tokens=64 * 600))
    ranks = start_ranks(words(home, config_file(home, "cut", tokens=64 * 600)))
    wait_for_steps(ranks[0])
    for rank in ranks:  # as a launcher does on Ctrl-C, more than once
        rank.send_signal(signal.SIGTERM)
        rank.send_signal(signal.SIGTERM)
    first, second = finish(ranks)
    assert (first[0], second[0]) == (130, 0), first[2] + second[2]
    rest = alone(home, "resume", "last")
    assert rest["outcome"] == "completed"
    assert rest["explained_variance"] == pytest.approx(whole["explained_variance"], rel=1e-4)
    assert not list((home.parent / "scratch").glob("mistudio*"))


def test_a_process_that_dies_leaves_a_failed_run_that_can_go_on(home: Path) -> None:
    ranks = start_ranks(words(home, config_file(home, "hurt", tokens=64 * 600)))
    wait_for_steps(ranks[0])
    ranks[1].kill()
    first, _ = finish(ranks)
    assert first[0] == 1
    assert "Another process of this training has ended" in first[1] + first[2]
    assert not list((home.parent / "scratch").glob("mistudio*"))
    studio = new_studio(home)
    (row,) = TRAININGS.select(studio.db())
    assert row.status == "failed"
    studio.close()
    assert by_torchrun(home, "resume", row.id)["outcome"] == "completed"


def test_other_commands_refuse_a_launcher(home: Path) -> None:
    for status, _, err in finish(start_ranks(["-m", "mistudio.cli", "sae", "list"])):
        assert status != 0
        assert "without a launcher" in err


def test_a_training_that_cannot_begin_ends_every_process(home: Path) -> None:
    first, second = finish(start_ranks(words(home, config_file(home, "none", model="absent"))))
    assert "absent" in first[1] + first[2]
    assert first[0] != 0
    assert second[0] != 0
