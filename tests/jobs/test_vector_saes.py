"""SAEs of vectors without a language model are measured on what their training held out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mistudio.cli import main
from mistudio.core.configs import EvaluateConfig
from mistudio.core.control import JobControl
from mistudio.core.errors import Mismatch, NotFound
from mistudio.core.events import RecordingReporter
from mistudio.core.model_configs import ImportActivationsConfig
from mistudio.core.run_configs import WriteSaeConfig
from mistudio.core.sae_figures import NO_MODEL
from mistudio.jobs import lookup
from mistudio.jobs.runner import Studio
from mistudio.store.records import SaeRow
from mistudio.store.tables import ACTIVATION_SETS, JOBS, SAES, TRAININGS
from tests.helpers.studio import new_studio, run, tiny_studio, tiny_training
from tests.jobs.test_training_life import AtStep
from tests.jobs.test_training_together import planted

CONFIG = tiny_training(model="", dataset="", activations="vectors", layer=0)


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    opened = new_studio(tmp_path / "data")
    np.save(tmp_path / "x.npy", planted(6000))
    run(opened, "import_activations", ImportActivationsConfig(str(tmp_path / "x.npy"), "vectors"))
    yield opened
    opened.close()


def stopped(studio: Studio) -> SaeRow:
    """The SAE of a run that was stopped, which is not measured at its end."""
    control = JobControl()
    job = studio.submit("train", CONFIG)
    assert studio.execute(job, AtStep(30, control.stop), control) == "completed"
    training = TRAININGS.get(studio.db(), JOBS.get(studio.db(), job).target_id or "")
    row = SAES.get(studio.db(), training.sae_id or "")
    assert row.evaluation is None
    return row


def test_the_figures_are_those_of_the_end_of_a_run(studio: Studio) -> None:
    made = run(studio, "train", CONFIG)
    row = SAES.get(studio.db(), str(made["sae"]))
    at_the_end = row.evaluation
    assert at_the_end
    SAES.update(studio.db(), row.id, evaluation=None)
    report = RecordingReporter()
    told = run(studio, "evaluate", EvaluateConfig(sae=row.id), report)
    assert SAES.get(studio.db(), row.id).evaluation == at_the_end
    assert json.loads((studio.paths.absolute(row.path) / "evaluation.json").read_text())
    assert told["n"] == 150
    assert "ce_loss_score" not in told
    notes = [e.values.get("sentence") for e in report.events if e.kind == "note"]
    assert notes == [NO_MODEL]


def test_after_a_stop_and_of_a_checkpoint(
    studio: Studio, capsys: pytest.CaptureFixture[str]
) -> None:
    row = stopped(studio)
    write = WriteSaeConfig(training=str(row.training_id), step=20)
    written = run(studio, "write_sae", write)
    home = str(studio.paths.home)
    for sae in (row.id, str(written["sae"])):
        assert main(["sae", "eval", sae, "--home", home]) == 0
        said = capsys.readouterr().out
        assert said.startswith(f"150 held-out vectors. {NO_MODEL}")
        assert "Explained variance" in said
        figures = SAES.get(studio.db(), sae).evaluation or {}
        assert (figures["n"], figures["part"]) == (150, "evaluation")
        assert figures["ev"] > 0


def test_what_is_missing_is_told(studio: Studio) -> None:
    row = stopped(studio)
    with pytest.raises(Mismatch, match="vectors that have no language model"):
        studio.submit("evaluate", EvaluateConfig(sae=row.id, dataset="stories"))
    ACTIVATION_SETS.delete(studio.db(), ACTIVATION_SETS.named(studio.db(), "vectors").id)
    with pytest.raises(NotFound, match=r"activations that SAE .* was trained on are no longer"):
        studio.submit("evaluate", EvaluateConfig(sae=row.id))


def test_vectors_that_name_their_model_need_no_text(tmp_path: Path) -> None:
    studio = tiny_studio(tmp_path)
    np.save(tmp_path / "x.npy", planted(6000, 32))
    told = ImportActivationsConfig(
        str(tmp_path / "x.npy"), "vectors", model="tiny", layer=1, hook="resid_post"
    )
    run(studio, "import_activations", told)
    row = stopped(studio)
    assert row.model_id is not None
    assert lookup.reads_vectors(row)
    assert run(studio, "evaluate", EvaluateConfig(sae=row.id))["n"] == 150
    text = EvaluateConfig(sae=row.id, dataset="stories", tokens=1024)
    assert "ce_loss_score" in run(studio, "evaluate", text)
    studio.close()
