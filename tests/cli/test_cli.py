"""The command line: grammar, output, exit status, and what it does not import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mistudio import cli
from mistudio.core.training_rules import ARCHITECTURES, JUMPRELU_PENALTIES
from tests.helpers.studio import stories_file
from tests.helpers.tiny import save_tiny_llama

TRAIN = [
    "train",
    "--model",
    "tiny",
    "--dataset",
    "stories",
    "--width",
    "64",
    "--k",
    "4",
    "--layer",
    "1",
    "--tokens",
    "1280",
    "--batch",
    "64",
    "--window",
    "1024",
    "--context",
    "32",
    "--eval-tokens",
    "1024",
    "--seed",
    "3",
    "--architecture",
    "topk",
]


class Shell:
    """Runs commands on one data folder in this process."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._home = home
        self._capsys = capsys
        self.err = ""
        self.notes: list[str] = []

    def __call__(self, *words: str, status: int = 0) -> dict[str, Any]:
        """The last JSON line of a command, which must end with `status`."""
        found = cli.main([*words, "--json", "--home", str(self._home)])
        out, self.err = self._capsys.readouterr()
        assert found == status, self.err
        lines = [json.loads(line) for line in out.splitlines()]
        self.notes = [line["text"] for line in lines if line["event"] == "note"]
        assert lines[-1]["event"] == ("result" if status == 0 else "error")
        return lines[-1]


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path / "home", capsys)


def test_a_researchers_path_with_their_own_text_and_model(shell: Shell, tmp_path: Path) -> None:
    text, model = stories_file(tmp_path), save_tiny_llama(tmp_path / "tiny")
    assert shell("dataset", "import", str(text), "--name", "stories")["samples"] == 240
    assert shell("model", "import", str(model))["layers"] == 4
    done = shell("dataset", "tokenize", "stories", "--model", "tiny", "--context", "32")
    assert done["context"] == 32
    trained = shell(*TRAIN)
    assert (trained["outcome"], trained["steps"], trained["tokens"]) == ("completed", 20, 1280)
    assert sum(note.startswith("The length is 20 steps") for note in shell.notes) == 1
    assert shell("sae", "list")["saes"][0]["latents"] == 64
    assert shell("sae", "show", "last")["id"] == trained["sae"]
    assert shell("sae", "eval", "last", "--tokens", "1024")["n"] > 500
    out = tmp_path / "out"
    assert shell("sae", "export", "last", "--format", "saelens", "--out", str(out))["bytes"] > 0
    assert json.loads((out / "cfg.json").read_text())["k"] == 4
    assert shell("sae", "import", str(out), "--name", "again")["name"] == "again"
    found = shell("features", "extract", trained["sae"], "--context", "32", "--rows", "50")
    assert found["features"] == 64
    rows = shell("features", "list", trained["sae"], "--sort", "max", "--limit", "3")["features"]
    assert len(rows) == 3
    page = shell("features", "show", trained["sae"], str(rows[0]["index"]))
    assert page["row"]["index"] == rows[0]["index"]
    word = rows[0]["top_tokens"].split()[0]
    hits = shell("features", "search", trained["sae"], word)["features"]
    assert rows[0]["index"] in [row["index"] for row in hits]
    steered = shell(
        "steer", "--sae", trained["sae"], "--feature", f"{rows[0]['index']}=3:add",
        "--prompt", "Once upon", "--max-tokens", "6",
    )  # fmt: skip
    assert steered["kl"] > 0
    jobs = shell("jobs")["jobs"]
    assert {job["status"] for job in jobs} == {"completed"}
    assert shell("jobs", "log", jobs[0]["id"])["job"] == jobs[0]["id"]
    run = shell("train", "list")["trainings"][0]
    assert (run["status"], run["step"]) == ("completed", 20)
    assert shell("train", "show", "last")["config"]["k"] == 4
    shell("train", "delete", run["id"], status=1)
    assert "Delete 1 run?" in shell.err
    gone = shell("train", "delete", run["id"], "--yes")
    assert (gone["deleted"]["ids"], gone["saes_kept"]) == ([run["id"]], 1)
    assert shell("train", "list")["trainings"] == []
    shell("sae", "delete", "again", "--yes")
    assert [row["id"] for row in shell("sae", "list")["saes"]] == [trained["sae"]]


def test_a_fresh_home_knows_the_sample(shell: Shell) -> None:
    assert [row["name"] for row in shell("dataset", "list")["datasets"]] == ["sample"]
    assert [row["name"] for row in shell("model", "list")["models"]] == ["sample"]
    assert shell("model", "show", "sample")["architecture"] == "LlamaForCausalLM"


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (("sae", "show", "last"), 1, "There is no SAE yet."),
        (("dataset", "import", "/nowhere/x.txt"), 1, "There is no file '/nowhere/x.txt'."),
        (("model", "import", "/nowhere"), 1, "There is no file or folder '/nowhere'."),
        (("train", "resume", "last"), 1, "There is no training yet."),
        (("train", "--width", "abc"), 2, "Latents must be a whole number"),
        (("features", "list", "last", "--limit", "0"), 2, "--limit must be at least 1"),
        (("train", "--model", "x"), 2, "Dataset is missing."),
        (
            ("train", "--model", "x", "--dataset", "y", "--width", "0"),
            2,
            "Latents must lie between",
        ),
        (("steer", "--sae", "last", "--feature", "1=2"), 2, "Prompt is missing."),
        (("jobs", "show", "job_x"), 1, "There is no job 'job_x'."),
    ],
)
def test_failures_are_one_sentence(
    shell: Shell, words: tuple[str, ...], status: int, sentence: str
) -> None:
    found = shell(*words, status=status)
    assert sentence in found["message"]
    assert shell.err.count("\n") == 1
    assert "Traceback" not in shell.err


def test_usage_errors_end_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["frobnicate", "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["event"] == "error"
    assert "invalid choice" in err
    assert err.count("\n") == 1


def test_a_window_without_a_screen_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    assert cli.main(["--home", str(tmp_path)]) == 1
    assert "no screen to open the window on" in capsys.readouterr().err


def test_a_data_folder_that_cannot_be_one_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert cli.main(["jobs", "--home", str(tmp_path / "file")]) == 1
    assert "cannot be the data folder" in capsys.readouterr().err


def test_the_step_benchmark_names_its_ratio(shell: Shell) -> None:
    found = shell(
        "bench", "train-step", "--d-in", "16", "--width", "64", "--k", "4", "--batch", "64",
        "--steps", "3", "--architecture", "all",
    )  # fmt: skip
    assert all(row["step_over_gemm"] > 0 for row in found["steps"])
    seen = [(row["architecture"], round(row["density"], 2)) for row in found["steps"]]
    assert {name for name, _ in seen} == set(ARCHITECTURES)
    firing = [density for name, density in seen if name == "standard"]
    assert firing[0] > 0.3, "as it starts"
    assert firing[1:] == pytest.approx([4 / 64, 0.02], abs=0.02), "with k and with 2 %"
    penalties = [row["penalty"] for row in found["steps"] if row["architecture"] == "jumprelu"]
    assert penalties == [name for name in JUMPRELU_PENALTIES for _ in range(3)]


def test_the_command_line_needs_neither_qt_nor_torch_to_start() -> None:
    check = (
        "import sys, mistudio.cli, mistudio.commands, mistudio.jobs.registry\n"
        "print(sorted({'PySide6', 'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", check],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert found.stdout.strip() == "[]"


def test_a_settings_file_may_follow_train(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "Run.JSON"
    path.write_text('{"model": "absent-model", "dataset": "d"}', encoding="utf-8")
    assert "absent-model" in shell("train", str(path), status=1)["message"]
    assert "absent-model" in shell("train", str(path), "--width", "64", status=1)["message"]


def test_only_a_training_runs_in_several_processes(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    told = shell("sae", "list", status=1)["message"]
    assert "without a launcher" in told
    assert "without a launcher" in shell("train", "--plan", status=1)["message"]
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    assert shell("sae", "list")["saes"] == []
