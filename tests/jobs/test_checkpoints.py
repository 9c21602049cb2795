"""Checkpoints of real runs: pins, deletion, the rule, an SAE from one, a run that goes on."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mistudio.cli import main
from mistudio.core.errors import InUse, InvalidInput, Mismatch, NotFound
from mistudio.core.paths import Paths
from mistudio.core.retention import RetentionConfig
from mistudio.core.run_configs import WriteSaeConfig
from mistudio.jobs import checkpoints, training_starts
from mistudio.jobs.runner import Studio
from mistudio.jobs.sae_library import read_sae
from mistudio.store import trainings
from mistudio.store.jobs import add_job
from mistudio.store.tables import JOBS, SAES, TRAININGS
from tests.helpers.studio import run, tiny_studio, tiny_training


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a finished run of 100 steps and five checkpoints."""
    folder = tmp_path_factory.mktemp("kept")
    studio = tiny_studio(folder)
    run(studio, "train", tiny_training(architecture="topk", name="first"))
    studio.close()
    return folder / "data"


@pytest.fixture
def studio(home: Path) -> Iterator[Studio]:
    opened = Studio(Paths.at(home))
    yield opened
    opened.close()


def first(studio: Studio) -> str:
    return TRAININGS.named(studio.db(), "first").id


def steps(studio: Studio) -> list[int]:
    return [row.step for row in trainings.checkpoints(studio.db(), first(studio))]


def test_one_is_the_best_and_rows_tell_seconds(studio: Studio) -> None:
    rows = trainings.checkpoints(studio.db(), first(studio))
    assert [row.step for row in rows] == [100, 80, 60, 40, 20]
    assert [row.step for row in rows if row.is_best] == [
        min(rows, key=lambda row: row.loss or 1e9).step
    ]
    seconds = [row["train_seconds"] for row in trainings.metrics(studio.db(), first(studio))]
    assert all(later > earlier > 0 for earlier, later in pairwise(seconds))


def test_who_is_killed_while_rows_are_written_leaves_none_that_is_not_weighed_for_the_best(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = first(studio)
    wanted = [(row.step, row.is_best) for row in trainings.checkpoints(studio.db(), training)]
    trainings.forget_checkpoints(studio.db(), training, [20, 40])

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(trainings, "mark_checkpoints", dies)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.mirror(studio, training)
    checkpoints.mirror(studio, training)
    assert [(r.step, r.is_best) for r in trainings.checkpoints(studio.db(), training)] == wanted


def test_pins_preview_and_the_cap(studio: Studio) -> None:
    training = first(studio)
    checkpoints.pin(studio, training, 40)
    rows = trainings.checkpoints(studio.db(), training)
    assert [row.step for row in rows if row.is_pinned] == [40]
    found = checkpoints.preview(studio, training, 4)
    best = next(row.step for row in rows if row.is_best)
    assert [row.step for row in found.rows] == sorted({60, 80} - {best})
    assert found.size_bytes == sum(row.size_bytes or 0 for row in found.rows) > 0
    assert len(steps(studio)) == 5, "a preview deletes nothing"
    with pytest.raises(InUse, match="pinned"):
        checkpoints.delete(studio, training, 40)
    with pytest.raises(InvalidInput, match="between 2 and 1,000"):
        checkpoints.keep(studio, RetentionConfig(training, cap=1))
    checkpoints.pin(studio, training, 40, on=False)
    assert not any(row.is_pinned for row in trainings.checkpoints(studio.db(), training))


def test_delete_and_what_forbids_it(studio: Studio) -> None:
    training = first(studio)
    path = studio.paths.absolute(checkpoints.find(studio, training, 60).path)
    TRAININGS.update(studio.db(), training, status="interrupted")
    with pytest.raises(InUse, match="newest of an unfinished run"):
        checkpoints.delete(studio, training, 100)
    TRAININGS.update(studio.db(), training, status="completed")
    assert checkpoints.delete(studio, training, 60) > 0
    assert not path.exists()
    assert steps(studio) == [100, 80, 40, 20]
    with pytest.raises(NotFound, match="no checkpoint of step 60; it has 100, 80, 40, 20"):
        checkpoints.delete(studio, training, 60)
    with pytest.raises(InUse, match="does not train now"):
        checkpoints.save_now(studio, training)
    TRAININGS.update(studio.db(), training, group_id="swp_1")
    sweep = add_job(studio.db(), "sweep", "gpu", "Train several", {}, target_id="swp_1")
    JOBS.update(studio.db(), sweep.id, status="running")
    assert checkpoints.save_now(studio, training) == sweep.id
    assert JOBS.get(studio.db(), sweep.id).request == "save"
    JOBS.delete(studio.db(), sweep.id)
    TRAININGS.update(studio.db(), training, group_id=None)


def test_a_damaged_one_is_listed_and_two_may_look_at_once(studio: Studio) -> None:
    training = first(studio)
    path = studio.paths.run(training) / "checkpoints" / "step_00000050"
    path.mkdir()
    (path / "manifest.json").write_text("{}")
    (path / "state.json").write_text("torn")
    started = threading.Barrier(3)

    def look() -> None:
        started.wait()
        checkpoints.mirror(studio, training)
        studio.store.release()

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    row = checkpoints.find(studio, training, 50)
    assert row.loss is None
    assert not row.is_best
    checkpoints.delete(studio, training, 50)


def test_the_sae_of_the_last_checkpoint_is_that_of_the_run(studio: Studio) -> None:
    training = TRAININGS.get(studio.db(), first(studio))
    own = SAES.get(studio.db(), training.sae_id or "")
    result = run(studio, "write_sae", WriteSaeConfig(training.id))
    made = SAES.get(studio.db(), result["sae"])
    assert made.weights_hash == own.weights_hash
    assert (made.checkpoint_step, made.layer, made.hook_in) == (100, 1, "resid_post")
    described = json.loads((studio.paths.absolute(made.path) / "cfg.json").read_text())
    assert "layers.1" in json.dumps(described)
    earlier = run(studio, "write_sae", WriteSaeConfig(training.id, step=20, name="early"))
    early = SAES.get(studio.db(), earlier["sae"])
    assert (early.name, early.checkpoint_step) == ("early", 20)
    assert early.weights_hash != own.weights_hash


def test_a_transcoders_checkpoint_becomes_one_that_knows_both_hooks(studio: Studio) -> None:
    settings = tiny_training(
        encoder="transcoder", hook_in="mlp_in", hook_out="mlp_out", tokens=2560, name="two"
    )
    own = SAES.get(studio.db(), str(run(studio, "train", settings)["sae"]))
    made = SAES.get(
        studio.db(), str(run(studio, "write_sae", WriteSaeConfig("two", step=20))["sae"])
    )
    assert (made.hook_in, made.hook_out, made.encoder_type) == ("mlp_in", "mlp_out", "transcoder")
    told = [read_sae(studio, row).metadata for row in (own, made)]
    for name in ("hook_name", "hook_name_out", "tl_hook_name", "tl_hook_name_out", "hook_out"):
        assert told[0][name] == told[1][name] is not None, name
    assert told[1]["hook_name_out"] == "model.layers.1.mlp"


def test_settings_of_a_continued_run(studio: Studio) -> None:
    training = first(studio)
    config = training_starts.continued(studio, "first", 40, tokens=12_800)
    assert config.continue_from == f"{training}@40"
    assert config.dataset == trainings.tokenization_of(studio.db(), training)
    start = training_starts.starting_point(studio, config)
    assert start is not None
    assert start.checkpoint is not None
    assert start.checkpoint.name == "step_00000040"
    with pytest.raises(InvalidInput, match="6,400 tokens already"):
        training_starts.continued(studio, "first")
    with pytest.raises(Mismatch, match="Latents cannot change"):
        training_starts.continued(studio, "first", tokens=12_800, width=128)


def test_a_run_that_goes_on_with_the_same_settings_ends_the_same(studio: Studio) -> None:
    own = SAES.get(studio.db(), TRAININGS.get(studio.db(), first(studio)).sae_id or "")
    result = run(studio, "train", training_starts.continued(studio, "first", 40))
    assert (result["outcome"], result["steps"]) == ("completed", 100)
    assert result["weights_hash"] == own.weights_hash
    rows = trainings.metrics(studio.db(), result["training"])
    assert [row["step"] for row in rows] == list(range(50, 101, 10))
    assert TRAININGS.get(studio.db(), result["training"]).parent_id == first(studio)
    longer = training_starts.continued(studio, "first", tokens=7680, learning_rate=5e-4)
    assert run(studio, "train", longer)["steps"] == 120


def test_fine_tuning_begins_with_the_weights_of_an_sae(studio: Studio) -> None:
    own = TRAININGS.get(studio.db(), first(studio))
    config = tiny_training(architecture="topk", init_from=own.sae_id, tokens=1280)
    result = run(studio, "train", config)
    rows = trainings.metrics(studio.db(), result["training"])
    begun = trainings.metrics(studio.db(), own.id)
    assert rows[0]["loss"] < 0.8 * begun[0]["loss"], "it has learnt before"
    with pytest.raises(Mismatch, match="has 64 latents"):
        training_starts.starting_point(studio, tiny_training(init_from=own.sae_id, width=128))


def test_the_same_from_the_command_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*words: str) -> dict[str, Any]:
        assert main([*words, "--json", "--home", str(home)]) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    out = home / "exports" / "first.csv"
    assert told("export", "metrics", "first", "--out", str(out))["rows"] == 10
    assert len(out.read_text().splitlines()) == 11
    assert main(["export", "metrics", "nothing", "--home", str(home)]) == 1
    assert main(["checkpoints", "save", "first", "--home", str(home)]) == 1
    capsys.readouterr()
    more = told("train", "continue", "first@40", "--tokens", "5120", "--name", "second")
    assert (more["steps"], more["outcome"]) == (80, "completed")
    told("checkpoints", "pin", "first", "--step", "20")
    listed = told("checkpoints", "list", "first")
    assert [row["step"] for row in listed["checkpoints"] if row["pinned"]] == [20]
    would = told("checkpoints", "keep", "first", "--cap", "2", "--preview")
    assert would["preview"] is True
    done = told("checkpoints", "keep", "first", "--cap", "2")
    assert done["steps"] == would["steps"] != []
    assert main(["checkpoints", "delete", "first", "--home", str(home)]) == 2
    assert told("checkpoints", "delete", "first", "--yes")["step"] == 100
