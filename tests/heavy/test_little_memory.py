"""A training that does not fit as a whole, in a process that may take 6 GB: `pytest -m heavy -s`.

MISTUDIO_SMOLLM2 names a folder with SmolLM2-135M-Instruct (safetensors), loaded here in 4 bits.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mistudio.core.configs import EvaluateConfig
from mistudio.core.dataset_configs import ImportDatasetConfig
from mistudio.core.model_configs import ImportModelConfig
from mistudio.core.paths import resources
from tests.helpers.studio import new_studio, run

pytestmark = pytest.mark.heavy
FOLDER = os.environ.get("MISTUDIO_SMOLLM2", "")
LIMIT = 6_000_000 * 1024
CHARACTERS = 120_000  # of text: some ten thousands of tokens, as 4 bits are slow on a processor
# About a twelfth of the latents fire from the first step on, which is when a step over active
# latents alone is fullest.
VALUES = {
    "model": "smol",
    "dataset": "text",
    "context": 128,
    "layer": 0,
    "architecture": "jumprelu",
    "first-threshold": 0.72,
    "bandwidth": 0.05,
    "width": 65_536,
    "batch": 8192,
    "tokens": 16_384,
    "window": 16_384,
    "eval-tokens": 1024,
    "checkpoint-every": 0,
}
TRAIN = ["train", *(word for name, value in VALUES.items() for word in (f"--{name}", str(value)))]


def command(home: Path, *words: str) -> list[str]:
    inside = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_DATA, ({LIMIT}, {LIMIT}));"
        "from mistudio.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    return [sys.executable, "-c", inside, *words, "--home", str(home), "--json"]


def result(home: Path, *words: str) -> tuple[dict[str, Any], list[dict[str, Any]], float]:
    """The result of a command, all it told, and the most data it held, in bytes."""
    most, told = 0, home.parent / "told.jsonl"
    with told.open("w") as out:
        process = subprocess.Popen(command(home, *words), stdout=out, stderr=subprocess.STDOUT)
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            found = re.search(r"VmData:\s+(\d+)", status)
            most = max(most, int(found.group(1)) * 1024 if found else 0)
            time.sleep(0.05)
    lines = [json.loads(line) for line in told.read_text().splitlines() if line.startswith("{")]
    assert process.returncode == 0, told.read_text()[-2000:]
    return lines[-1], lines, most


@pytest.mark.skipif(sys.platform != "linux", reason="limits and measures a process through Linux")
@pytest.mark.skipif(not FOLDER, reason="MISTUDIO_SMOLLM2 names no model")
def test_a_run_of_6_gb_chooses_its_pieces_and_ends_usable(tmp_path: Path) -> None:
    corpus = next((resources() / "sample" / "text").glob("corpus.*")).read_text(encoding="utf-8")
    text = tmp_path / "text.jsonl"
    text.write_text("\n".join(corpus[:CHARACTERS].splitlines()[:-1]), encoding="utf-8")
    studio = new_studio(tmp_path / "home")
    try:
        run(studio, "import_model", ImportModelConfig(path=FOLDER, name="smol", format="nf4"))
        run(studio, "import_dataset", ImportDatasetConfig(path=str(text), name="text"))
    finally:
        studio.close()
    home = tmp_path / "home"

    plan = result(home, *TRAIN, "--plan")[0]
    assert plan["free"] < LIMIT
    assert plan["whole"] > plan["free"]
    assert 64 <= plan["pieces"] < 8192
    assert plan["verdict"] == "fits"

    done, told, most = result(home, *TRAIN)
    sentences = [line.get("text", "") for line in told if line.get("event") == "note"]
    assert any("Batches go in pieces" in sentence for sentence in sentences)
    assert not any("ran out of memory" in sentence for sentence in sentences)
    assert most < LIMIT
    assert done["outcome"] == "completed"
    assert done["steps"] == 2
    assert done["explained_variance"] is not None
    assert done["ce_loss_score"] is not None
    sys.stdout.write(
        f"planned {plan['total'] / 1e9:.2f} GB in pieces of {plan['pieces']}, {most / 1e9:.2f} GB "
        f"of data at most\n"
    )

    studio = new_studio(tmp_path / "home")
    try:
        again = run(studio, "evaluate", EvaluateConfig(sae=done["sae"], tokens=1024))
    finally:
        studio.close()
    assert again["n"] > 0
