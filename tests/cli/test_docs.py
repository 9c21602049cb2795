"""The documentation holds: its commands run, and what it names, links and shows is there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from mistudio import cli
from mistudio.grammar import build_parser

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TUTORIAL = ROOT / "docs" / "tutorial.md"

# the tutorial's sizes are for a person; the same commands run here on little
SHORTER = {
    "--tokens 600000": "--tokens 8192 --batch 512 --eval-tokens 2000",
    "--tokens 20000": "--tokens 2000",
    "--width 1024": "--width 128",
    "--rows 3000": "--rows 100",
    "--feature 12": "--feature 12 --windows 2 --controls 19",
    "--features 12 --output": "--features 12 --max-tokens 8 --text-tokens 16 --output",
}
TEXTS = 150  # of the bundled samples


def commands(page: Path) -> list[str]:
    """The `mistudio` lines of a page's code blocks, without what explains them."""
    found = []
    for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            words = re.sub(r"^(\$ |\.venv/bin/)", "", line)
            if words.startswith("mistudio ") and "…" not in words:
                found.append(re.split(r"\s{2,}", words)[0].removeprefix("mistudio "))
    return found


def shortened(command: str) -> str:
    for given, small in SHORTER.items():
        command = command.replace(given, small)
    return command


def test_every_command_is_one_that_the_program_knows() -> None:
    parser = build_parser()
    for page in PAGES:
        for command in commands(page):
            # a word in capitals stands for something of the reader's
            words = shlex.split(re.sub(r"\b[A-Z]{3,}(_[A-Z]+)*\b", "1", command))
            try:
                parser.parse_args(words)
            except SystemExit as ended:
                if ended.code:  # --help and --version end with 0
                    pytest.fail(f"{page.name}: mistudio {command}")


def test_the_tutorial_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = tmp_path / "resources" / "sample"
    (sample / "text").mkdir(parents=True)
    (sample / "model").symlink_to(ROOT / "resources" / "sample" / "model")
    lines = (ROOT / "resources" / "sample" / "text" / "corpus.jsonl").read_text().splitlines()
    (sample / "text" / "corpus.jsonl").write_text("\n".join(lines[:TEXTS]) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MISTUDIO_HOME", str(tmp_path / "home"))
    told = commands(TUTORIAL)
    assert len(told) > 15
    for command in told:
        done = cli.main([*shlex.split(shortened(command)), "--json"])
        out, err = capsys.readouterr()
        assert done == 0, f"mistudio {command}: {err}"
        assert json.loads(out.splitlines()[-1])["event"] == "result", command
    for made in ("features.html", "claim.md", "run.md", "first-sae/cfg.json", "features.csv"):
        assert (tmp_path / made).stat().st_size > 100, made


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    named = re.findall(r"`((?:mistudio|tests|docs|resources)/[^`*\s]*)`", text)
    linked = re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", text)
    missing = [name for name in named if not (ROOT / name).exists()]
    missing += [link for link in linked if not (page.parent / link).exists()]
    assert not missing


def test_the_functions_behind_the_numbers_exist() -> None:
    """A row of a table that names a function says in its heading which module holds it."""
    from mistudio.ml.evaluation import definitions
    from mistudio.ml.steering import metrics

    text = (ROOT / "docs" / "numbers.md").read_text()
    _, evaluation, _, steering = re.split(r"^## ", text, flags=re.MULTILINE)
    for part, module in ((evaluation, definitions), (steering, metrics)):
        named = re.findall(r"^\| [^|]+ \| `(\w+)` \|", part, re.MULTILINE)
        assert len(named) > 5
        assert not [name for name in named if not callable(getattr(module, name, None))]
