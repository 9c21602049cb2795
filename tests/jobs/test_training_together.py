"""Several trainings over one pass; mixed, stored and imported data; what each equals alone."""

from __future__ import annotations

import dataclasses
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mistudio import cli
from mistudio.core.config import command_line, from_arguments, from_dict, to_dict
from mistudio.core.control import JobControl
from mistudio.core.errors import InvalidInput, StudioError, TrainingBroke
from mistudio.core.events import RecordingReporter, SilentReporter
from mistudio.core.model_configs import ExtractConfig, ImportActivationsConfig
from mistudio.core.paths import Paths
from mistudio.core.sweep_configs import SweepConfig
from mistudio.core.training_configs import TrainConfig
from mistudio.grammar import build_parser
from mistudio.jobs.runner import Studio
from mistudio.ml.training.learner import Learner
from mistudio.store import trainings
from mistudio.store.tables import JOBS, SAES, TRAININGS
from tests.helpers.studio import run, stories_file, tiny_studio, tiny_training


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    tiny_studio(folder).close()
    return folder / "data"


@pytest.fixture
def studio(home: Path) -> Studio:
    return Studio(Paths.at(home))


def sweep(**values: object) -> SweepConfig:
    base = to_dict(tiny_training(tokens=64 * 60))
    return from_dict(SweepConfig, {**base, "layers": "0,1", "vary": ["k=4,8"], **values})


class AtStep(SilentReporter):
    """Does something when a training reaches a step."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        self._step, self._act = step, act

    def metric(self, name: str, values: Mapping[str, float | int | str | None]) -> None:
        if name == "training" and values["step"] == self._step:
            self._act()


def hashes(studio: Studio, group: str) -> dict[str, str | None]:
    rows = trainings.of_group(studio.db(), group)
    return {row.name: SAES.get(studio.db(), row.sae_id or "").weights_hash for row in rows}


@pytest.fixture(scope="module")
def swept(home: Path) -> dict[str, str | None]:
    """Weights of every member of a sweep that nothing disturbed."""
    studio = Studio(Paths.at(home))
    result = run(studio, "sweep", sweep())
    found = hashes(studio, result["sweep"])
    studio.close()
    return found


def test_each_of_a_sweep_equals_the_one_trained_alone(
    studio: Studio, swept: dict[str, str | None]
) -> None:
    assert len(swept) == 4
    assert len(set(swept.values())) == 4
    for member in sweep().members(2):
        alone = run(studio, "train", member)
        assert alone["weights_hash"] in swept.values()
        assert alone["explained_variance"] is not None


def test_the_command_of_a_member_trains_it_again(
    studio: Studio, home: Path, swept: dict[str, str | None], capsys: pytest.CaptureFixture[str]
) -> None:
    """What the window copies for one of a sweep holds each of its settings."""
    rows = {row.name: row for row in TRAININGS.select(studio.db()) if row.group_id}
    commands = {}
    for name in swept:
        config = from_dict(TrainConfig, rows[name].config)
        words = shlex.split(command_line("train", config))[1:]
        assert from_arguments(TrainConfig, build_parser().parse_args(words)) == config
        commands[name] = words
    name = list(swept)[-1]
    assert rows[name].config["k"] == 8
    assert cli.main([*commands[name], "--json", "--home", str(home)]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["weights_hash"] == swept[name]


def test_members_have_curves_and_figures_of_their_own(studio: Studio) -> None:
    report = RecordingReporter()
    config = sweep(layers="1", hooks=["resid_post", "mlp_out"], vary=[])
    result = run(studio, "sweep", config, report)
    rows = trainings.of_group(studio.db(), result["sweep"])
    assert [row.hook for row in rows] == ["resid_post", "mlp_out"]
    for row in rows:
        assert row.status == "completed"
        steps = [m["step"] for m in trainings.metrics(studio.db(), row.id)]
        assert steps == list(range(10, 61, 10))
        sae = SAES.get(studio.db(), row.sae_id or "")
        assert sae.hook_in == row.hook
        assert (sae.evaluation or {})["ev"] is not None
        own = (studio.paths.run(row.id) / "log.jsonl").read_text()
        assert own.count("The length is 60 steps") == 1
    told = [event.values for event in report.events if event.kind == "note"]
    short = [note for note in told if "The length is 60 steps" in str(note["sentence"])]
    assert [note["level"] for note in short] == ["warning"]  # once for both


def test_a_paused_sweep_goes_on_to_the_same_weights(
    studio: Studio, swept: dict[str, str | None]
) -> None:
    control = JobControl()
    job = studio.submit("sweep", sweep())
    assert studio.execute(job, AtStep(30, control.pause), control) == "paused"
    group = JOBS.get(studio.db(), job).target_id or ""
    rows = trainings.of_group(studio.db(), group)
    assert {row.status for row in rows} == {"paused"}
    again = studio.resume_training(rows[-1].id)
    assert again == job
    assert studio.execute(again) == "completed"
    assert hashes(studio, group) == swept


KILLED = """
import os, signal, sys
from mistudio.core.control import JobControl
from mistudio.core.paths import Paths
from mistudio.jobs.runner import Studio
from tests.jobs.test_training_together import AtStep, sweep
studio = Studio(Paths.at(sys.argv[1]))
job = studio.submit("sweep", sweep(checkpoint_every=7))
studio.execute(job, AtStep(40, lambda: os.kill(os.getpid(), signal.SIGKILL)), JobControl())
"""


def test_a_killed_sweep_goes_on_to_the_same_weights(
    home: Path, swept: dict[str, str | None]
) -> None:
    """Members are at different checkpoints then: those that are ahead wait for the others."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(home)],
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    studio = Studio(Paths.at(home))
    lost = studio.recover()
    group = lost[0].target_id or ""
    rows = trainings.of_group(studio.db(), group)
    assert {row.status for row in rows} == {"interrupted"}
    assert len({row.current_step for row in rows}) >= 1
    studio.execute(studio.resume_training(rows[0].id))
    assert hashes(studio, group) == swept


@pytest.mark.parametrize("where", ["start", "step"])
def test_a_member_that_breaks_does_not_end_the_others(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    job = studio.submit("sweep", sweep(layers="1", seed=3))
    rows = trainings.of_group(studio.db(), JOBS.get(studio.db(), job).target_id or "")
    if where == "start":
        broken = {**rows[1].config, "continue_from": "nowhere"}
        TRAININGS.update(studio.db(), rows[1].id, config=broken)
    else:
        step = Learner.step

        def breaks(learner: Learner) -> None:
            if learner.run.config.k == rows[1].config["k"] and learner.run.step == 20:
                raise TrainingBroke("The loss was unusable.")
            step(learner)

        monkeypatch.setattr(Learner, "step", breaks)
    assert studio.execute(job) == "completed"
    rows = trainings.of_group(studio.db(), rows[0].group_id or "")
    assert [row.status for row in rows] == ["completed", "failed"]
    assert rows[1].error_message


def test_what_a_sweep_refuses(studio: Studio) -> None:
    for vary, words in (
        (["layer=1,2"], "cannot be varied"),
        (["k=4,x"], "cannot have"),
        (["k=4,4"], "twice"),
        (["k=4", "k=8"], "varied twice"),
        (["k=4,4000"], "k is 4,000"),
    ):
        with pytest.raises(InvalidInput) as caught:
            studio.submit("sweep", sweep(vary=vary))
        assert words in caught.value.sentence
    with pytest.raises(InvalidInput) as caught:
        studio.submit("sweep", sweep(layers="9"))
    assert "There is no such layer" in caught.value.sentence


def test_stored_activations_train_the_same_sae(studio: Studio) -> None:
    config = dataclasses.replace(tiny_training(tokens=64 * 40))
    live = run(studio, "train", config)
    text = trainings.tokenization_of(studio.db(), live["training"]) or ""
    extracted = run(
        studio,
        "extract_activations",
        ExtractConfig(model="tiny", dataset=text, layers="1", rows=0, batch=64, dtype="fp32"),
    )
    stored = dataclasses.replace(config, model="", dataset="", activations=extracted["activations"])
    cached = run(studio, "train", stored)
    one, other = (SAES.get(studio.db(), found["sae"]).evaluation or {} for found in (live, cached))
    assert other["ev"] == pytest.approx(one["ev"], abs=2e-3)
    assert other["n"] == one["n"]
    assert cached["weights_hash"] == live["weights_hash"]
    row = TRAININGS.get(studio.db(), cached["training"])
    assert row.model_id is not None
    assert row.config["model"] == row.model_id


def test_datasets_are_mixed_by_weight(studio: Studio, tmp_path: Path) -> None:
    from mistudio.core.dataset_configs import ImportDatasetConfig

    path = stories_file(tmp_path, times=2)
    run(studio, "import_dataset", ImportDatasetConfig(path=str(path), name="other"))
    config = tiny_training(tokens=64 * 40, more_datasets=("other=3",))
    result = run(studio, "train", config)
    assert result["explained_variance"] is not None
    used = trainings.tokenizations_of(studio.db(), result["training"])
    assert [weight for _, weight in used] == [1.0, 3.0]
    with pytest.raises(InvalidInput, match="gives no weight"):
        studio.submit("train", tiny_training(more_datasets=("other=-1",)))


def planted(rows: int, width: int = 24) -> np.ndarray:
    rng = np.random.default_rng(5)
    directions = rng.normal(size=(40, width))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    codes = (rng.random((rows, 40)) < 0.08) * (1 + rng.random((rows, 40)))
    return (codes @ directions + 0.3).astype(np.float32)


@pytest.mark.parametrize("kind", ["npy", "safetensors"])
def test_vectors_of_any_model_are_imported_and_trained_on(
    studio: Studio, tmp_path: Path, kind: str
) -> None:
    x = planted(6000)
    path = tmp_path / f"vectors.{kind}"
    if kind == "npy":
        np.save(path, x)
    else:
        save_file({"x": torch.from_numpy(x)}, path)
    made = run(studio, "import_activations", ImportActivationsConfig(path=str(path), name=kind))
    assert (made["vectors"], made["width"], made["dtype"]) == (6000, 24, "fp32")
    config = TrainConfig(
        activations=kind, width=48, k=4, tokens=0, batch=64, window=2048, learning_rate=3e-3
    )
    report = RecordingReporter()
    result = run(studio, "train", config, report)
    assert result["tokens"] == 5700 // 64 * 64  # one pass over what is not held out
    row = SAES.get(studio.db(), result["sae"])
    assert (row.model_id, row.layer, row.hook_in) == (None, None, None)
    figures = row.evaluation or {}
    assert figures["n"] == 150
    assert figures["ev"] > 0.5
    assert "ce_loss_score" not in figures
    told = [str(e.values.get("sentence")) for e in report.events if e.kind == "note"]
    assert any("no language model" in sentence for sentence in told)
    again = run(studio, "train", dataclasses.replace(config, shuffle=False))
    assert again["weights_hash"] != result["weights_hash"]


def test_a_command_takes_one_pass_over_vectors_unless_it_names_a_length(
    studio: Studio, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", planted(1000))
    config = ImportActivationsConfig(path=str(tmp_path / "x.npy"), name="thousand")
    run(studio, "import_activations", config)
    settings = tmp_path / "settings.json"
    settings.write_text('{"activations": "thousand", "width": 32, "k": 4, "window": 1024}')
    named = tmp_path / "named.json"
    named.write_text('{"activations": "thousand", "width": 32, "k": 4, "tokens": 640}')
    home = str(studio.paths.home)
    flags = ["--batch", "64", "--json", "--home", home]
    once = 950 // 64 * 64  # without the held-out twentieth
    plain = ["--activations", "thousand", "--width", "32", "--k", "4", "--window", "1024"]
    for words, tokens in (
        (plain, once),
        ([*plain, "--tokens", "1280"], 1280),
        (["--config", str(settings)], once),
        (["--config", str(settings), "--tokens", "1280"], 1280),
        (["--config", str(named), "--window", "1024"], 640),
    ):
        assert cli.main(["train", *words, *flags]) == 0
        told = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert told["tokens"] == tokens
    text = from_arguments(TrainConfig, build_parser().parse_args(["train", "--model", "tiny"]))
    assert text.tokens == TrainConfig().tokens


def test_vectors_that_are_no_numbers_are_left_out(studio: Studio, tmp_path: Path) -> None:
    """In training, calibration and evaluation alike; what is learnt hardly suffers."""
    found: list[float] = []
    for name in ("clean", "broken"):
        x = planted(6000)
        if name == "broken":
            x[::100, 3], x[1::100], x[2::100] = np.nan, np.inf, 1e4 * x[2::100]
        np.save(tmp_path / "x.npy", x)
        path = str(tmp_path / "x.npy")
        run(studio, "import_activations", ImportActivationsConfig(path=path, name=name))
        config = TrainConfig(
            activations=name, width=48, k=4, tokens=64 * 200, batch=64, window=2048,
            learning_rate=3e-3,
        )  # fmt: skip
        report = RecordingReporter()
        figures = SAES.get(studio.db(), run(studio, "train", config, report)["sae"]).evaluation
        found.append((figures or {})["ev"])
    told = " ".join(str(e.values["sentence"]) for e in report.events if e.kind == "note")
    assert "tokens whose activations were not finite" in told
    assert "tokens whose activations were far larger than usual" in told
    assert found[1] == pytest.approx(found[0], rel=0.01)


def test_vectors_that_cannot_be_used_are_refused(studio: Studio, tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.zeros(7, dtype=np.float32))
    np.save(tmp_path / "ids.npy", np.zeros((7, 3), dtype=np.int64))
    (tmp_path / "torn.npy").write_bytes(b"\x93NUMPY")
    save_file({"a": torch.zeros(4, 3), "b": torch.zeros(4, 3)}, tmp_path / "two.safetensors")
    for name, words in (
        ("flat.npy", "shape (7,)"),
        ("ids.npy", "no floating-point"),
        ("torn.npy", "no readable .npy"),
        ("two.safetensors", "one must be named"),
    ):
        config = ImportActivationsConfig(path=str(tmp_path / name))
        with pytest.raises(StudioError) as caught:
            run(studio, "import_activations", config)
        assert words in caught.value.sentence
    np.save(tmp_path / "wide.npy", planted(10))
    with pytest.raises(StudioError, match="have width 24"):
        run(
            studio,
            "import_activations",
            ImportActivationsConfig(path=str(tmp_path / "wide.npy"), model="tiny"),
        )
    left = [p.name for p in (studio.paths.home / "activations").glob(".*.part")]
    assert left == []


@pytest.mark.parametrize("encoder", ["transcoder", "skip_transcoder"])
def test_a_transcoder_is_trained_and_measured_against_its_target(
    studio: Studio, encoder: str
) -> None:
    config = tiny_training(tokens=64 * 60, encoder=encoder, hook_in="mlp_in", hook_out="mlp_out")
    result = run(studio, "train", config)
    row = SAES.get(studio.db(), result["sae"])
    assert (row.encoder_type, row.hook_in, row.hook_out) == (encoder, "mlp_in", "mlp_out")
    assert (row.evaluation or {})["ev"] > 0
    control = JobControl()
    job = studio.submit("train", config)
    assert studio.execute(job, AtStep(30, control.pause), control) == "paused"
    studio.execute(studio.resume_training(JOBS.get(studio.db(), job).target_id or ""))
    resumed = TRAININGS.get(studio.db(), JOBS.get(studio.db(), job).target_id or "")
    assert SAES.get(studio.db(), resumed.sae_id or "").weights_hash == result["weights_hash"]


def test_a_finished_run_is_extended_and_an_sae_trained_on(studio: Studio) -> None:
    first = run(studio, "train", tiny_training(tokens=64 * 30))
    longer = tiny_training(tokens=64 * 50, continue_from=first["training"])
    result = run(studio, "train", longer)
    assert result["steps"] == 50
    row = TRAININGS.get(studio.db(), result["training"])
    assert row.parent_id == first["training"]
    tuned = run(studio, "train", tiny_training(tokens=64 * 30, init_from=first["sae"], seed=4))
    assert tuned["steps"] == 30
    assert tuned["explained_variance"] > first["explained_variance"]
