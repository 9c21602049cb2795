"""SAEs come into the library from other programs' files and leave it as such."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mistudio.core.configs import (
    EvaluateConfig,
    ExportSaeConfig,
    HarvestConfig,
    ImportSaeConfig,
    SteerConfig,
)
from mistudio.core.control import JobControl
from mistudio.core.errors import StudioError
from mistudio.core.events import RecordingReporter
from mistudio.jobs import lookup
from mistudio.jobs.context import Result
from mistudio.jobs.runner import Studio
from mistudio.jobs.sae_library import add_sae, read_sae
from mistudio.ml.formats.saelens import write_saelens
from mistudio.ml.formats.sparsify import write_sparsify
from mistudio.ml.sae.matching_pursuit import Pursuit
from mistudio.store.database import _WriterFirst
from mistudio.store.records import SaeRow
from mistudio.store.tables import FEATURE_SETS, SAES, TOKENIZATIONS
from tests.helpers.studio import run


def is_used(studio: Studio, row: SaeRow) -> None:
    """Its features are found, and one of them steers."""
    harvest = HarvestConfig(sae=row.id, dataset="stories", rows=32, context=32)
    stored = run(studio, "harvest", harvest)
    assert (FEATURE_SETS.get(studio.db(), str(stored["feature_set"])).n_live or 0) > 5
    steer = SteerConfig(
        sae=row.id, feature=("2=30:clamp",), prompt="Once", unit="raw", max_tokens=8,
        temperature=0.0,
    )  # fmt: skip
    assert run(studio, "steer", steer)["acted"] > 0


def test_an_sae_goes_to_dictionary_learning_and_comes_back(trained: Studio, tmp_path: Path) -> None:
    out = tmp_path / "dl"
    made = run(trained, "export_sae", ExportSaeConfig(format="dictionary_learning", out=str(out)))
    assert made["format"] == "dictionary_learning"
    first = lookup.sae(trained, "last")
    result = run(trained, "import_sae", ImportSaeConfig(path=str(out), name="back"))
    assert result["format"] == "dictionary_learning"
    row = SAES.get(trained.db(), str(result["sae"]))
    assert (row.layer, row.hook_in, row.source_format) == (1, "resid_post", "dictionary_learning")
    assert row.model_id == first.model_id
    figures = run(trained, "evaluate", EvaluateConfig(sae=row.id, dataset="stories", tokens=1024))
    assert figures["ev"] == pytest.approx((first.evaluation or {})["ev"], abs=1e-5)
    kept = read_sae(trained, row).metadata
    assert kept["source_config"]["trainer"]["dict_class"] == "JumpReluAutoEncoder"


def test_a_groupmax_is_measured_read_steered_with_and_goes_back(
    trained: Studio, tmp_path: Path
) -> None:
    last = read_sae(trained, lookup.sae(trained, "last"))
    sae = replace(last, architecture="groupmax", k=last.n_latents // 4, threshold_F=None)
    write_sparsify(tmp_path / "in", sae, {"model_name": "tiny", "layer": 1, "hook": "resid_post"})
    found = run(trained, "import_sae", ImportSaeConfig(path=str(tmp_path / "in"), model="tiny"))
    assert (found["architecture"], found["layer"], found["hook"]) == ("groupmax", 1, "resid_post")
    row = SAES.get(trained.db(), str(found["sae"]))
    x = torch.randn(9, sae.d_in)
    assert torch.equal(read_sae(trained, row).reconstruct(x), sae.reconstruct(x))
    figures = run(trained, "evaluate", EvaluateConfig(sae=row.id, dataset="stories", tokens=1024))
    assert 0 < figures["l0"] <= sae.n_latents // 4
    is_used(trained, row)
    with pytest.raises(StudioError, match="SAELens has no groupmax"):
        run(trained, "export_sae", ExportSaeConfig(sae=row.id, out=str(tmp_path / "x")))
    out = ExportSaeConfig(sae=row.id, format="sparsify", out=str(tmp_path / "again"))
    run(trained, "export_sae", out)
    config = json.loads((tmp_path / "again" / "layers.1" / "cfg.json").read_text())
    assert (config["activation"], config["k"]) == ("groupmax", sae.k)


def test_a_matching_pursuit_is_measured_read_steered_with_and_goes_back(
    trained: Studio, tmp_path: Path
) -> None:
    last = read_sae(trained, lookup.sae(trained, "last"))
    sae = replace(
        last,
        architecture="matching_pursuit",
        W_enc_DF=last.W_dec_FO.T,
        b_enc_F=torch.zeros_like(last.b_enc_F),
        threshold_F=None,
        pursuit=Pursuit(0.05, 12),
    )
    write_saelens(tmp_path / "in", sae)
    found = run(trained, "import_sae", ImportSaeConfig(path=str(tmp_path / "in"), model="tiny"))
    assert (found["architecture"], found["layer"]) == ("matching_pursuit", 1)
    row = SAES.get(trained.db(), str(found["sae"]))
    x = torch.randn(9, sae.d_in)
    kept = read_sae(trained, row)
    assert kept.pursuit == sae.pursuit
    assert torch.equal(kept.reconstruct(x), sae.reconstruct(x))
    figures = run(trained, "evaluate", EvaluateConfig(sae=row.id, dataset="stories", tokens=1024))
    assert 0 < figures["l0"] <= 12
    is_used(trained, row)
    refused = ExportSaeConfig(sae=row.id, format="sparsify", out=str(tmp_path / "x"))
    with pytest.raises(StudioError, match="SAELens can hold it"):
        run(trained, "export_sae", refused)
    run(trained, "export_sae", ExportSaeConfig(sae=row.id, out=str(tmp_path / "again")))
    config = json.loads((tmp_path / "again" / "cfg.json").read_text())
    assert (config["architecture"], config["max_iterations"]) == ("matching_pursuit", 12)


def edit(folder: Path, **trainer: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "trainer": {**config["trainer"], **trainer}}))


def test_the_layer_is_read_from_the_submodule(trained: Studio, tmp_path: Path) -> None:
    out = tmp_path / "dl"
    run(trained, "export_sae", ExportSaeConfig(format="dictionary_learning", out=str(out)))
    edit(out, layer=3, submodule_name="resid_pre_layer_3")
    result = run(trained, "import_sae", ImportSaeConfig(path=str(out)))
    assert (result["layer"], result["hook"]) == (2, "resid_post")
    edit(out, layer=0, submodule_name="resid_pre_layer_0")
    result = run(trained, "import_sae", ImportSaeConfig(path=str(out)))
    assert (result["layer"], result["hook"]) == (0, "resid_pre")


def test_an_sae_that_does_not_say_where_it_reads_is_kept_with_a_warning(
    trained: Studio, tmp_path: Path
) -> None:
    out = tmp_path / "dl"
    run(trained, "export_sae", ExportSaeConfig(format="dictionary_learning", out=str(out)))
    edit(out, submodule_name=None, layer=1)
    reporter = RecordingReporter()
    result = run(trained, "import_sae", ImportSaeConfig(path=str(out)), reporter)
    assert (result["layer"], result["hook"]) == (None, None)
    assert any("naming both" in str(event.values) for event in reporter.events)
    named = ImportSaeConfig(path=str(out), layer=1, hook="resid_post")
    result = run(trained, "import_sae", named)
    assert (result["layer"], result["hook"]) == (1, "resid_post")


def test_what_is_refused_leaves_neither_row_nor_files(trained: Studio, tmp_path: Path) -> None:
    rows = len(SAES.select(trained.db()))
    files = sorted(trained.paths.home.rglob("*.safetensors"))
    (tmp_path / "bad").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad" / "config.json").write_text('{"trainer": {"dict_class": "IdentityDict"}}')
    torch.save({}, tmp_path / "bad" / "ae.pt")
    for path, words in (("bad", "IdentityDict"), ("empty", "holds no SAE")):
        with pytest.raises(StudioError, match=words):
            run(trained, "import_sae", ImportSaeConfig(path=str(tmp_path / path)))
    assert len(SAES.select(trained.db())) == rows
    assert sorted(trained.paths.home.rglob("*.safetensors")) == files


def test_what_breaks_after_the_row_is_written_leaves_its_files(
    trained: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, committed = lookup.sae(trained, "last"), _WriterFirst.atomic

    @contextmanager
    def broken(self: _WriterFirst) -> Iterator[object]:
        with committed(self) as inside:
            yield inside
        if not self.conn.in_transaction and SAES.select(trained.db(), "name = 'second'"):
            raise KeyboardInterrupt

    monkeypatch.setattr(_WriterFirst, "atomic", broken)
    with pytest.raises(KeyboardInterrupt):
        add_sae(
            trained,
            read_sae(trained, first),
            {},
            name="second",
            origin="trained",
            model=None,
            layer=None,
            hook=None,
        )
    monkeypatch.undo()
    (row,) = SAES.select(trained.db(), "name = 'second'")
    assert read_sae(trained, row).n_latents == first.n_latents


def measured_next(studio: Studio, config: ImportSaeConfig) -> tuple[Result, str]:
    """The result of the measurement that an import queues, and its warnings."""
    added, report = run(studio, "import_sae", config), RecordingReporter()
    found = studio.finish_now(str(added["next"]), report, JobControl())
    notes = [e.values for e in report.events if e.kind == "note"]
    return found, " ".join(str(n["sentence"]) for n in notes if n["level"] == "warning")


def test_an_imported_sae_is_measured_and_doubted_where_it_reads_the_wrong_thing(
    trained: Studio, tmp_path: Path
) -> None:
    first = lookup.sae(trained, "last")
    ours = (first.evaluation or {})["ev"]
    assert ours > 0.4
    right, wrong = str(tmp_path / "right"), str(tmp_path / "wrong")
    run(trained, "export_sae", ExportSaeConfig(out=right))
    found, warned = measured_next(trained, ImportSaeConfig(path=right, name="right"))
    assert found["ev"] == pytest.approx(ours, abs=0.1)
    assert (found["doubt"], warned) == ("", "")
    assert 500 < found["n"] <= 2048
    row = SAES.named(trained.db(), "right")
    assert (row.evaluation or {})["n"] == found["n"]
    # as if the scale of its input had been left out
    sae = read_sae(trained, first)
    write_saelens(Path(wrong), replace(sae, W_enc_DF=sae.W_enc_DF * 30), {})
    found, warned = measured_next(trained, ImportSaeConfig(path=wrong))
    assert found["ev"] < 0
    assert warned == found["doubt"]
    assert "less than the mean activation does" in warned
    # or the hook were another one
    place = ImportSaeConfig(path=right, layer=3, hook="attn_out")
    assert "may be another one" in measured_next(trained, place)[1]


def test_what_cannot_be_measured_at_once_is_only_imported(trained: Studio, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    run(trained, "export_sae", ExportSaeConfig(out=out))
    assert "next" not in run(trained, "import_sae", ImportSaeConfig(path=out, measure=False))
    for text in TOKENIZATIONS.select(trained.db()):
        TOKENIZATIONS.update(trained.db(), text.id, status="error")
    report = RecordingReporter()
    assert "next" not in run(trained, "import_sae", ImportSaeConfig(path=out), report)
    assert any("It is not measured" in str(event.values) for event in report.events)
