"""An SAE that was trained without some positions of a row is measured and used without them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mistudio.cli import main
from mistudio.core.comparison_configs import CompareSaesConfig, SurvivalConfig
from mistudio.core.config import command_line, config_hash, from_dict, to_dict
from mistudio.core.configs import EvaluateConfig, ExportSaeConfig, HarvestConfig, ImportSaeConfig
from mistudio.core.errors import InvalidInput, Mismatch, StudioError
from mistudio.core.events import RecordingReporter
from mistudio.core.model_configs import ExtractConfig, ImportActivationsConfig
from mistudio.core.paths import Paths
from mistudio.core.sweep_configs import SweepConfig
from mistudio.core.training_configs import TrainConfig
from mistudio.jobs import lookup, skipped_positions, training_plan
from mistudio.jobs.runner import Studio
from mistudio.jobs.training_starts import continued
from mistudio.ml.activations.masking import REASONS
from mistudio.ml.activations.statistics_file import load_statistics
from mistudio.ml.data.token_store import TokenStore
from mistudio.ml.formats.saelens import write_saelens
from mistudio.ml.training.checkpoint import checkpoint_path, load_checkpoint
from mistudio.ml.training.run_state import restore_run
from mistudio.store import trainings
from mistudio.store.records import SaeRow
from mistudio.store.tables import FEATURE_SETS, SAES, TRAININGS
from tests.helpers.studio import run, tiny_studio, tiny_training
from tests.jobs.test_crew import by_two
from tests.jobs.test_sae_metadata import THEIRS, made
from tests.jobs.test_training_together import planted

TEXT, SKIPPED = "0,5-7", (0, 5, 6, 7)


def short(**values: object) -> TrainConfig:
    return tiny_training(**{"tokens": 64 * 40, "skip_positions": TEXT, **values})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("skipping")
    studio = tiny_studio(folder)
    run(studio, "train", short(name="plain", skip_positions=""))
    report = RecordingReporter()
    run(studio, "train", short(name="skipping"), report)
    studio.close()
    said = [e.values["sentence"] for e in report.events if e.kind == "note"]
    (folder / "said.json").write_text(json.dumps(said))
    return folder


@pytest.fixture
def studio(home: Path) -> Iterator[Studio]:
    opened = Studio(Paths.at(home / "data"))
    yield opened
    opened.close()


def text_of(studio: Studio) -> TokenStore:
    text = lookup.tokenization(studio, lookup.training_tokenization(studio, sae(studio)))
    assert text is not None
    return TokenStore(studio.paths.absolute(text.path or ""))


def sae(studio: Studio, name: str = "skipping") -> SaeRow:
    return lookup.sae(studio, name)


def kept_in(studio: Studio, part: str, skipped: tuple[int, ...] = SKIPPED) -> int:
    """Content tokens of a part without those at some positions, counted on the files."""
    store = text_of(studio)
    content = np.array(store.mask[list(store.rows(part))]) == 0
    content[:, list(skipped)] = False
    return int(content.sum())


def imported(studio: Studio, path: Path, report: RecordingReporter | None = None) -> SaeRow:
    config = ImportSaeConfig(path=str(path), model="tiny", measure=False)
    return SAES.get(studio.db(), str(run(studio, "import_sae", config, report)["sae"]))


def measured(studio: Studio, row: SaeRow) -> dict[str, Any]:
    text = lookup.training_tokenization(studio, sae(studio))
    return run(studio, "evaluate", EvaluateConfig(sae=row.id, dataset=text, tokens=10**6))


def harvested(studio: Studio, row: SaeRow, **values: Any) -> dict[str, Any]:
    text = lookup.training_tokenization(studio, sae(studio))
    config = HarvestConfig(sae=row.id, dataset=text, rows=64, context=32, **values)
    found = run(studio, "harvest", config)["feature_set"]
    return FEATURE_SETS.get(studio.db(), str(found)).summary or {}


def test_a_run_measures_and_learns_without_them(studio: Studio, home: Path) -> None:
    row, plain = sae(studio), sae(studio, "plain")
    folder = studio.paths.run(row.training_id or "")
    statistics = load_statistics(folder / "statistics.json")
    assert statistics.n_tokens == kept_in(studio, "train") + kept_in(studio, "calibration")
    assert statistics.dropped["listed"] > 0
    held = (row.evaluation or {})["n"]
    assert held == kept_in(studio, "evaluation")
    assert held < (plain.evaluation or {})["n"] == kept_in(studio, "evaluation", ())
    looks = trainings.held_out(studio.db(), row.training_id or "")
    assert {look["heldout_n"] for look in looks.values()} == {held}
    (told,) = [s for s in json.loads((home / "said.json").read_text()) if "Left out" in s]
    assert " tokens at positions that are skipped" in told
    assert row.weights_hash != plain.weights_hash


def test_a_run_of_one_pass_counts_what_it_can_learn_from(studio: Studio) -> None:
    result = run(studio, "train", short(tokens=0, batch=256))
    assert result["tokens"] == kept_in(studio, "train") // 256 * 256


def test_stored_activations_train_the_same_sae(studio: Studio) -> None:
    text = lookup.training_tokenization(studio, sae(studio))
    wanted = ExtractConfig("tiny", text, layers="1", rows=0, batch=64, dtype="fp32")
    made = run(studio, "extract_activations", wanted)
    config = short(model="", dataset="", activations=str(made["activations"]))
    assert run(studio, "train", config)["weights_hash"] == sae(studio).weights_hash


def test_what_is_measured_later_leaves_out_the_same(studio: Studio) -> None:
    row, plain = sae(studio), sae(studio, "plain")
    at_the_end = row.evaluation
    assert measured(studio, row).items() >= (at_the_end or {}).items()
    counts = kept_in(studio, "evaluation")
    both = run(studio, "compare_saes", CompareSaesConfig(row.id, plain.id, tokens=10**6))
    assert both["n"] == counts, "a token counts if it does for both"
    report = run(
        studio, "survival", SurvivalConfig(row.id, format="fp32", tokens=10**6, min_firings=2)
    )
    assert report["n"] == counts


def test_features_are_found_without_them(studio: Studio) -> None:
    found, plain = harvested(studio, sae(studio)), harvested(studio, sae(studio, "plain"))
    assert found["settings"]["skip_positions"] == list(SKIPPED)
    assert "skip_positions" not in plain["settings"]
    listed = found["masked"]["at_skipped_positions"]
    assert found["n_all"] == plain["n_all"]
    assert found["n_tokens"] == plain["n_tokens"] - listed
    assert listed > 0


def test_the_files_tell_it_and_an_import_reads_it(studio: Studio, tmp_path: Path) -> None:
    run(studio, "export_sae", ExportSaeConfig(sae=sae(studio).id, out=str(tmp_path / "out")))
    told = json.loads((tmp_path / "out" / "cfg.json").read_text())["metadata"]
    assert (told["seqpos_slice"], told["skip_positions"]) == ([None], TEXT), "no slice says 0,5-7"
    report = RecordingReporter()
    again = imported(studio, tmp_path / "out", report)
    assert "Positions 0,5-7 of a row are left out" in str(report.events)
    own, other = measured(studio, sae(studio)), measured(studio, again)
    assert other["n"] == own["n"]
    assert other["ev"] == pytest.approx(own["ev"], abs=1e-9)
    assert harvested(studio, again)["settings"]["skip_positions"] == list(SKIPPED)


@pytest.mark.parametrize(
    ("text", "kept"), [("0", [1, None]), ("0-1,31", [2, 31]), ("1,3-4", [None]), ("", [None])]
)
def test_what_saelens_is_told(text: str, kept: list[int | None]) -> None:
    told = skipped_positions.told_to_others(text, 32)
    assert told == {"seqpos_slice": kept, **({"skip_positions": text} if text else {})}
    assert (
        skipped_positions.skipped_by(told, 32)
        == from_dict(TrainConfig, {"skip_positions": text}).skipped
    )


@pytest.mark.parametrize(
    ("kept", "size", "skipped"),
    [
        ([1, None], 77, (0,)),
        ([4, -4], 16, (0, 1, 2, 3, *range(12, 32))),
        ([0, None, 2], 32, tuple(range(1, 32, 2))),
        ([3, None], None, (0, 1, 2)),
        ([None], 32, ()),
        ("1:", 32, ()),
    ],
)
def test_a_slice_of_saelens_is_applied(
    studio: Studio, tmp_path: Path, kept: Any, size: int | None, skipped: tuple[int, ...]
) -> None:
    told = {**THEIRS, "model_name": "tiny", "seqpos_slice": kept, "context_size": size}
    write_saelens(tmp_path / "in", made(), told)
    report = RecordingReporter()
    row = imported(studio, tmp_path / "in", report)
    said = str(report.events)
    assert ("of a row are left out" in said) == bool(skipped)
    assert ("is no slice of positions such as [1, null]. No position is left out." in said) == (
        kept == "1:"
    )
    # its norm cut refers to the same tokens; none is so far from the others that it is cut
    assert measured(studio, row)["n"] == kept_in(studio, "evaluation", skipped)
    found = harvested(studio, row)
    assert tuple(found["settings"].get("skip_positions", ())) == skipped
    run(studio, "export_sae", ExportSaeConfig(sae=row.id, out=str(tmp_path / "out")))
    again = json.loads((tmp_path / "out" / "cfg.json").read_text())["metadata"]
    assert again["seqpos_slice"] == kept


def test_several_processes_leave_out_the_same(studio: Studio) -> None:
    values = {**to_dict(short(tokens=66 * 20, batch=66)), "layers": "0,1"}
    config = from_dict(SweepConfig, values)
    group = run(studio, "sweep", config)["sweep"]
    alone = trainings.of_group(studio.db(), group)
    for one, two in zip(alone, by_two(studio, config), strict=True):
        figures = [SAES.get(studio.db(), row.sae_id or "").evaluation or {} for row in (one, two)]
        assert figures[1]["ev"] == pytest.approx(figures[0]["ev"], rel=1e-3)


def test_what_is_refused_before_it_is_queued(studio: Studio, tmp_path: Path) -> None:
    for text, words in (("32", "0 to 31"), ("0-31", "All 32 positions"), ("x", "no position")):
        with pytest.raises(InvalidInput, match=words):
            studio.submit("train", short(skip_positions=text))
        tokens = lookup.training_tokenization(studio, sae(studio))
        with pytest.raises(InvalidInput, match=words):  # the text says how long its rows are
            studio.submit("train", short(skip_positions=text, context=0, dataset=tokens))
    np.save(tmp_path / "x.npy", planted(3000))
    run(studio, "import_activations", ImportActivationsConfig(str(tmp_path / "x.npy"), "bare"))
    bare = short(model="", dataset="", activations="bare", layer=0)
    with pytest.raises(InvalidInput, match="none of them has a position to skip"):
        studio.submit("train", bare)
    parent = TRAININGS.get(studio.db(), sae(studio).training_id or "")
    with pytest.raises(Mismatch, match="Skip positions cannot change in a continued run"):
        continued(studio, parent.id, tokens=64 * 80, skip_positions="0")
    assert continued(studio, parent.id, tokens=64 * 80).skip_positions == TEXT


def test_a_plan_counts_what_is_read_and_refuses_what_is_not_there(studio: Studio) -> None:
    tokens = lookup.training_tokenization(studio, sae(studio))
    halved = short(skip_positions="0-15", dataset=tokens, tokens=0, context=0)
    whole = dataclasses.replace(halved, skip_positions="")
    times = [training_plan.plan_training(studio, [config]).seconds for config in (halved, whole)]
    assert 2 * times[0] == pytest.approx(times[1], rel=0.02)
    with pytest.raises(InvalidInput, match="Position 32 cannot be skipped"):
        training_plan.plan_training(studio, [dataclasses.replace(halved, skip_positions="32")])


def test_a_run_from_before_there_was_the_setting_goes_on(studio: Studio) -> None:
    """What it stored does not know the setting, and what it would store now but for it is alike."""
    row = TRAININGS.get(studio.db(), sae(studio, "plain").training_id or "")
    saved = load_checkpoint(checkpoint_path(studio.paths.run(row.id), 20))
    values = json.loads(json.dumps(saved.values))
    assert values["config"].pop("skip_positions") == ""
    stored = from_dict(TrainConfig, row.config)
    older = dataclasses.replace(saved, values=values)
    state = restore_run(older, torch.device("cpu"), stored, values["origin"])
    again = state.checkpoint(values["data"], values["origin"], values["metadata"])
    assert again.values["config_hash"] == values["config_hash"] == config_hash(stored)
    for later in ("subspace_init", "held_out_share"):  # these have come since, and are not hashed
        del values["config"][later]
    digest = hashlib.sha256(json.dumps(values["config"], sort_keys=True).encode()).hexdigest()
    assert digest == values["config_hash"]
    assert set(values["data"]["counts"]) == {*REASONS, "leftover"}
    assert not {"skip_positions", "listed"} & set(values["metadata"])
    row_values = {name: v for name, v in row.config.items() if name != "skip_positions"}
    TRAININGS.update(studio.db(), row.id, config=row_values)
    going_on = continued(studio, row.id, 20, tokens=64 * 40, name="gone on")
    assert run(studio, "train", going_on)["weights_hash"] == sae(studio, "plain").weights_hash


def test_a_text_that_turns_out_to_have_shorter_rows(studio: Studio) -> None:
    config = short(context=0, dataset="fresh", skip_positions="4000")
    path = studio.paths.home / "fresh.txt"
    path.write_text("\n\n".join(f"A fox number {i} ran away from the old mill." for i in range(90)))
    home = ["--home", str(studio.paths.home)]
    assert main(["dataset", "import", str(path), "--name", "fresh", *home]) == 0
    with pytest.raises(StudioError, match="Position 4,000 cannot be skipped: a row has 512"):
        run(studio, "train", config)


def test_the_command(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    line = command_line("train", short())
    assert "--skip-positions 0,5-7" in line
    home = ["--home", str(studio.paths.home)]
    refused = ["train", "--model", "tiny", "--dataset", "stories", "--skip-positions", "3,x"]
    assert main([*refused, *home]) != 0
    assert "'x' is no position number" in capsys.readouterr().err
