"""Long runs on the bundled sample, by hand: `pytest -m heavy tests/heavy`."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mistudio.core.configs import ExportSaeConfig
from mistudio.jobs import steering_presets
from mistudio.jobs.runner import Studio
from tests.helpers.studio import new_studio, run

pytestmark = pytest.mark.heavy

TRAIN = [
    "train",
    "--model",
    "sample",
    "--dataset",
    "sample",
    "--width",
    "1024",
    "--k",
    "32",
    "--layer",
    "2",
    "--context",
    "128",
    "--tokens",
    "400000",
    "--checkpoint-every",
    "40",
    "--seed",
    "5",
    "--eval-tokens",
    "4096",
]


def command(home: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "mistudio.cli", *words, "--home", str(home), "--json"]


def result(home: Path, *words: str) -> dict[str, Any]:
    """The result of a command run as a process of its own."""
    found = subprocess.run(command(home, *words), capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    home = tmp_path_factory.mktemp("demo")
    return home, result(home, "demo")


def test_the_demo_reaches_its_figures(demo: tuple[Path, dict[str, Any]]) -> None:
    found = demo[1]
    assert found["explained_variance"] >= 0.70
    assert found["l0"] <= 32
    assert found["dead_fraction"] <= 0.10
    assert found["ce_loss_score"] >= 0.80
    assert found["steering"]["kl"] > 0
    assert found["steering"]["identity_at_zero"] is True
    with contextlib.closing(new_studio(demo[0])) as studio:
        (preset,) = steering_presets.presets(studio)
    assert preset.row.name == found["preset"]
    assert preset.row.name.startswith("Sample: ")
    assert preset.is_available
    assert preset.config.feature == (f"{found['steering']['feature']}=1.0",)


def test_the_demos_sae_opens_in_saelens(demo: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Needs MISTUDIO_SAELENS_PYTHON: a Python with sae-lens 6.54."""
    python = os.environ.get("MISTUDIO_SAELENS_PYTHON")
    if not python:
        pytest.skip("no Python with SAELens named")
    import safetensors.torch
    import torch

    from mistudio.ml.formats.saelens import read_saelens

    studio = Studio(new_studio(demo[0]).paths)
    out = tmp_path / "sae"
    run(studio, "export_sae", ExportSaeConfig(out=str(out)))
    studio.close()
    sae, _ = read_saelens(out)
    x_BD = 20 * torch.randn(64, sae.d_in, generator=torch.Generator().manual_seed(0))
    safetensors.torch.save_file({"x": x_BD}, tmp_path / "x.safetensors")
    script = (
        "import sys, torch, safetensors.torch as st\n"
        "from sae_lens import SAE\n"
        "sae = SAE.load_from_disk(sys.argv[1])\n"
        "x = st.load_file(sys.argv[2])['x']\n"
        "with torch.no_grad(): f = sae.encode(x); y = sae.decode(f)\n"
        "st.save_file({'f': f.contiguous(), 'y': y.contiguous()}, sys.argv[3])\n"
        "print(sae.cfg.metadata.model_name, sae.cfg.metadata.hook_name, sae.cfg.architecture())\n"
    )
    ended = subprocess.run(
        [python, "-c", script, str(out), str(tmp_path / "x.safetensors"), str(tmp_path / "y")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "WANDB_MODE": "disabled"},
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == ["sample", "model.layers.2", "jumprelu"]
    theirs = safetensors.torch.load_file(tmp_path / "y")
    f_BF = sae.encode(x_BD)
    assert f_BF.count_nonzero() > 0
    assert torch.equal(theirs["f"], f_BF)
    assert torch.equal(theirs["y"], sae.decode(f_BF))


def test_killed_three_times_ends_with_the_same_weights(tmp_path: Path) -> None:
    undisturbed = result(tmp_path / "a", *TRAIN)["weights_hash"]
    home, rng = tmp_path / "b", random.Random(os.getpid())
    words = TRAIN
    for _ in range(3):
        process = subprocess.Popen(command(home, *words), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        steps, wanted = 0, rng.randint(1, 6)
        for line in process.stdout:
            steps += '"name": "training"' in line
            if steps >= wanted:
                time.sleep(rng.random() / 5)
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.close()
        assert process.wait() == -signal.SIGKILL
        words = ["train", "resume", "last"]
    assert result(home, *words)["weights_hash"] == undisturbed


def test_live_training_keeps_four_fifths_of_the_floor(tmp_path: Path) -> None:
    """Tokens/s of the job against 1/(1/forward + 1/step), all in one process."""
    from tests.heavy.live_rate import measure

    found = measure(tmp_path, model="sample", layer=2, width=4096, tokens=290_000)
    assert found["ratio"] >= 0.80, found
