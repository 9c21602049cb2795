"""Downloads from the command line that end early and go on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mistudio.core.paths import Paths
from mistudio.core.settings import SettingsFile
from mistudio.jobs.runner import Studio
from mistudio.ml.formats.saelens import write_saelens
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.store.tables import JOBS
from tests.cli.test_cli import Shell
from tests.helpers.local_hub import LocalHub
from tests.helpers.studio import new_studio
from tests.helpers.tiny import save_tiny_llama
from tests.ml_formats.foreign_files import K, parts

WEIGHTS = "model.safetensors"


@pytest.fixture
def shell(tmp_path: Path, hub: LocalHub, capsys: pytest.CaptureFixture[str]) -> Shell:
    """Commands on a data folder whose settings name the local Hub."""
    paths = Paths.at(tmp_path / "home")
    settings = SettingsFile(paths.settings)
    settings.values.hub_address = hub.url
    settings.save()
    return Shell(paths.home, capsys)


@pytest.fixture
def size(tmp_path: Path, hub: LocalHub) -> int:
    """Bytes of the weights of tiny/llama on the Hub, whose connections are to break."""
    folder = save_tiny_llama(tmp_path / "source")
    hub.add("models", "tiny/llama", {path.name: path.read_bytes() for path in folder.iterdir()})
    return (folder / WEIGHTS).stat().st_size


def job_of(home: Path) -> tuple[str, str]:
    """Id and status of the only download."""
    studio: Studio = new_studio(home)
    found = [(job.id, job.status) for job in JOBS.select(studio.db(), "kind = 'download_model'")]
    studio.close()
    return found[0]


def test_a_killed_download_is_resumed_and_checked(
    hub: LocalHub, shell: Shell, size: int, tmp_path: Path
) -> None:
    hub.rate = 100_000
    child = subprocess.Popen(
        [sys.executable, "-m", "mistudio.cli", "model", "import", "tiny/llama"],
        env={
            **os.environ,
            "MISTUDIO_HOME": str(tmp_path / "home"),
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 30
    while hub.sent.get(WEIGHTS, 0) < size // 2 and time.monotonic() < end:
        threading.Event().wait(0.01)
    child.kill()
    child.wait()
    hub.rate = None
    shell("jobs", "list")
    job, status = job_of(tmp_path / "home")
    assert status == "interrupted"
    found = shell("jobs", "resume", job)
    assert found["status"] == "ready"
    models = shell("model", "list")["models"]
    assert [row["status"] for row in models if row["name"] == "llama"] == ["ready"]
    assert hub.sent[WEIGHTS] <= 1.1 * size + 131_072  # what was under way when it died


def test_a_retry_also_checks_the_model(
    hub: LocalHub, shell: Shell, size: int, tmp_path: Path
) -> None:
    hub.gated["tiny/llama"] = set()
    shell("model", "import", "tiny/llama", status=1)
    assert "asks for an access token" in shell.err
    hub.gated.clear()
    shell("jobs", "retry", job_of(tmp_path / "home")[0])
    models = shell("model", "list")["models"]
    assert [row["status"] for row in models if row["name"] == "llama"] == ["ready"]


def test_an_sae_of_the_hub_by_folder_or_address(
    hub: LocalHub, shell: Shell, size: int, tmp_path: Path
) -> None:
    shell("model", "import", "tiny/llama")
    made = parts()
    metadata = {"model_name": "tiny/llama", "layer": 1, "hook": "resid_post"}
    sae = SparseAutoencoder(made["W_enc"], made["b_enc"], made["W_dec"], made["b_dec"], "topk", k=K)
    write_saelens(tmp_path / "sae", sae, metadata)
    files = {f"layers/L1/{path.name}": path.read_bytes() for path in (tmp_path / "sae").iterdir()}
    hub.add("models", "lab/saes", files)
    shell("sae", "import", "lab/saes", "--folder", "layers/L2", status=1)
    assert "no file or folder 'layers/L2'" in shell.err
    # its width is not that of the model, which is found by its repository
    address = "https://huggingface.co/lab/saes/tree/main/layers/L1"
    shell("sae", "import", address, status=1)
    assert "expects width 16" in shell.err
