"""SAEs whose files hold something else than what is used of them: it is said, and kept."""

from __future__ import annotations

from pathlib import Path

import torch

from mistudio.core.configs import EvaluateConfig, ExportSaeConfig, ImportSaeConfig
from mistudio.core.events import RecordingReporter
from mistudio.gui.tabs.training.import_preview import said_of
from mistudio.gui.tabs.training.sae_details import facts
from mistudio.jobs.runner import Studio
from mistudio.jobs.sae_preview import preview_sae
from mistudio.store.records import SaeRow
from mistudio.store.tables import SAES
from tests.helpers.studio import run
from tests.ml_formats.foreign_files import random, write_json

WIDTH, LATENTS, K = 32, 48, 3
UNSET = "Its threshold was never set; the k largest latents of each token stand in."


def imported(studio: Studio, folder: Path) -> tuple[SaeRow, list[str]]:
    """The SAE of a folder for the model `tiny`, and what was noted while it was imported."""
    reporter = RecordingReporter()
    config = ImportSaeConfig(path=str(folder), model="tiny")
    row = SAES.get(studio.db(), str(run(studio, "import_sae", config, reporter)["sae"]))
    return row, [str(event.values["sentence"]) for event in reporter.events if event.kind == "note"]


def without_threshold(folder: Path) -> Path:
    """A Matryoshka of dictionary_learning that was trained for a few steps."""
    W_dec = torch.nn.functional.normalize(random(LATENTS, WIDTH, seed=1), dim=1)
    state = {
        "W_enc": W_dec.T.contiguous(),
        "b_enc": torch.zeros(LATENTS),
        "W_dec": W_dec,
        "b_dec": torch.zeros(WIDTH),
        "k": torch.tensor(K, dtype=torch.int32),
        "threshold": torch.tensor(-1.0),
        "group_sizes": torch.tensor([16, 32]),
    }
    trainer = {
        "dict_class": "MatryoshkaBatchTopKSAE",
        "k": K,
        "submodule_name": "resid_post_layer_1",
    }
    write_json(folder / "config.json", {"trainer": trainer, "buffer": {"io": "out"}})
    torch.save(state, folder / "ae.pt")
    return folder


def test_a_batch_topk_without_a_threshold_keeps_k_and_says_so(
    trained: Studio, tmp_path: Path
) -> None:
    folder = without_threshold(tmp_path / "short")
    found = preview_sae(trained, str(folder))
    assert said_of(found) == UNSET
    row, notes = imported(trained, folder)
    assert (row.architecture, row.config) == ("topk", {"threshold_unset": True})
    assert UNSET in notes
    assert ["Read as", UNSET] in facts(row, "")
    measured = run(trained, "evaluate", EvaluateConfig(sae=row.id, dataset="stories", tokens=1024))
    assert 0 < measured["l0"] <= K
    out = tmp_path / "out"
    run(trained, "export_sae", ExportSaeConfig(sae=row.id, out=str(out)))
    again, notes = imported(trained, out)
    assert UNSET in notes
    assert again.config == row.config


def test_nothing_is_said_of_others(trained: Studio, tmp_path: Path) -> None:
    run(trained, "export_sae", ExportSaeConfig(out=str(tmp_path / "out")))
    assert preview_sae(trained, str(tmp_path / "out")).read_as == ""
    row, _ = imported(trained, tmp_path / "out")
    assert row.config is None
    assert "Read as" not in [name for name, _ in facts(row, "")]
