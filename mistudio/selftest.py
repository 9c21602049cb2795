"""Checks an installation: every library that is loaded late does its smallest real work."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)


def _torch() -> str:
    import torch

    a_NN = torch.arange(9.0).reshape(3, 3)
    assert float((a_NN @ a_NN).trace()) == float((a_NN.T * a_NN).sum())
    return f"torch {torch.__version__}, {'CUDA' if torch.cuda.is_available() else 'CPU'}"


def _database() -> str:
    from mistudio.store.database import Store

    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "check.db", Path(folder) / "backups")
        version = store.db().execute("SELECT sqlite_version()").fetchone()[0]
        store.db().execute("SELECT * FROM features_fts WHERE features_fts MATCH 'x'").fetchall()
        store.close()
    return f"SQLite {version} with full-text search"


def _sample() -> str:
    import torch

    from mistudio.core.paths import resources
    from mistudio.ml.activations.capture import Capture
    from mistudio.ml.device import choose_device
    from mistudio.ml.loading import load_model

    loaded = load_model(resources() / "sample" / "model", choose_device())
    ids_BS = torch.tensor([loaded.tokenizer("And the king said")["input_ids"]])
    x_BSD = Capture(loaded, 1, "resid_post")(ids_BS.to(loaded.device))
    return f"sample model, activations {tuple(x_BSD.shape)}"


def _files() -> str:
    import safetensors.torch
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "check.safetensors"
        safetensors.torch.save_file({"x": torch.ones(2)}, path)
        assert safetensors.torch.load_file(path)["x"].sum() == 2
    return "safetensors"


def _window() -> str:
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    import pyqtgraph
    from PySide6.QtCore import qVersion
    from PySide6.QtWidgets import QApplication

    application = QApplication.instance() or QApplication(sys.argv[:1])
    plot = pyqtgraph.PlotWidget()
    plot.plot([0, 1], [0, 1])
    assert not plot.grab().isNull()
    plot.close()
    application.processEvents()
    return f"Qt {qVersion()}, pyqtgraph {pyqtgraph.__version__}"


CHECKS: tuple[tuple[str, Callable[[], str]], ...] = (
    ("database", _database),
    ("torch", _torch),
    ("files", _files),
    ("sample", _sample),
    ("window", _window),
)


def run() -> int:
    """Print one line per check as JSON; returns 0 if all passed, else 1."""
    failed = 0
    for name, check in CHECKS:
        try:
            line = {"check": name, "ok": True, "found": check()}
        except Exception as error:
            log.exception("check %s failed", name)
            line = {"check": name, "ok": False, "found": f"{type(error).__name__}: {error}"}
            failed += 1
        sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.write(json.dumps({"event": "result", "failed": failed}) + "\n")
    return 1 if failed else 0
