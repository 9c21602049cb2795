"""Runs of every kind are followed on held-out text, whatever is trained beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mistudio.core.config import from_dict, to_dict
from mistudio.core.control import JobControl
from mistudio.core.events import RecordingReporter, SilentReporter
from mistudio.core.model_configs import ExtractConfig, ImportActivationsConfig
from mistudio.core.paths import Paths
from mistudio.core.sweep_configs import SweepConfig
from mistudio.core.training_configs import TrainConfig
from mistudio.jobs import training_reporter
from mistudio.jobs.runner import Studio
from mistudio.ml.data.row_table import VectorTable
from mistudio.ml.data.token_store import RowGroup, TokenStore
from mistudio.ml.evaluation.evaluate import evaluate
from mistudio.ml.training import learner
from mistudio.ml.training.loop import sae_from_checkpoint
from mistudio.store import trainings
from mistudio.store.records import TrainingRow
from mistudio.store.tables import JOBS, MODELS, TOKENIZATIONS, TRAININGS
from tests.helpers.studio import run, tiny_studio, tiny_training

STEPS = 40


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("followed")
    tiny_studio(folder).close()
    return folder / "data"


@pytest.fixture
def studio(home: Path) -> Iterator[Studio]:
    opened = Studio(Paths.at(home))
    yield opened
    opened.close()


def short(**values: object) -> TrainConfig:
    return tiny_training(tokens=64 * STEPS, **values)


def looks(studio: Studio, training_id: str) -> dict[int, tuple[float, ...]]:
    found = trainings.held_out(studio.db(), training_id)
    return {step: tuple(row.values()) for step, row in found.items()}


def measured_again(studio: Studio, row: TrainingRow, step: int) -> tuple[float, ...]:
    """The figures of a checkpoint's SAE by the evaluation of finished ones, on all that is held
    out."""
    config = from_dict(TrainConfig, row.config)
    sae = sae_from_checkpoint(studio.paths.run(row.id) / "checkpoints" / f"step_{step:08d}")
    text = TOKENIZATIONS.get(studio.db(), trainings.tokenization_of(studio.db(), row.id) or "")
    model = MODELS.named(studio.db(), config.model)
    limit = config.norm_cut * sae.metadata["median_norm"]
    out = sae.metadata.get("median_norm_out")
    found = evaluate(
        sae,
        studio.models.get(model, studio.paths.absolute(model.path)),
        TokenStore(studio.paths.absolute(text.path or "")),
        config.layer,
        config.hook_read,
        hook_out=config.hook_written,
        norm_limit=limit,
        norm_limit_out=limit if out is None else config.norm_cut * out,
        max_tokens=10**6,
        report=SilentReporter(),
        control=JobControl(),
        with_loss=False,
    )
    plain = (found[name] for name in ("ev", "l0", "dead", "n", "documents"))
    return (*plain, *found["intervals"]["ev"], *found["intervals"]["l0"])


def test_members_of_a_sweep_are_measured_as_if_alone(studio: Studio) -> None:
    def sweep(layers: str, norms: str) -> dict[tuple[int, str], TrainingRow]:
        values = {**to_dict(short()), "layers": layers, "vary": [f"input_norm={norms}"]}
        group = run(studio, "sweep", from_dict(SweepConfig, values))["sweep"]
        rows = trainings.of_group(studio.db(), group)
        assert not list(studio.paths.home.glob("runs/*/evaluation"))
        return {(row.layer, row.config["input_norm"]): row for row in rows}

    first, second = sweep("0,1", "constant,whitening"), sweep("1,0", "whitening,constant")
    assert len(first) == 4
    for name, row in first.items():
        told = looks(studio, row.id)
        assert list(told) == [20, STEPS]
        assert told == looks(studio, second[name].id), "the order says nothing"
        assert told[STEPS] == pytest.approx(measured_again(studio, row, STEPS), rel=1e-4)
        kept = trainings.checkpoints(studio.db(), row.id)
        columns = trainings.HELD_OUT_COLUMNS
        in_rows = {c.step: tuple(getattr(c, name) for name in columns) for c in kept}
        assert in_rows == told
        assert [c.step for c in kept if c.is_best] == [max(told, key=lambda step: told[step][0])]
    alone = run(studio, "train", from_dict(TrainConfig, first[1, "whitening"].config))
    assert looks(studio, alone["training"]) == looks(studio, first[1, "whitening"].id)
    assert len({looks(studio, row.id)[STEPS] for row in first.values()}) == 4


@pytest.mark.parametrize("kind", ["transcoder", "stored"])
def test_transcoders_and_stored_activations(studio: Studio, kind: str) -> None:
    config = short(encoder="skip_transcoder", architecture="jumprelu")
    if kind == "stored":
        wanted = ExtractConfig(model="tiny", dataset="stories", layers="1", hooks=("resid_post",))
        made = run(studio, "extract_activations", wanted)
        config = short(activations=str(made["activations"]), architecture="topk")
    row = TRAININGS.get(studio.db(), run(studio, "train", config)["training"])
    told = looks(studio, row.id)
    assert list(told) == [20, STEPS]
    for step, figures in told.items():
        assert figures == pytest.approx(measured_again(studio, row, step), rel=1e-4)


def test_imported_vectors(studio: Studio, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    x = ((rng.random((3000, 32)) < 0.1) @ rng.normal(size=(32, 12)) + 1).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    run(studio, "import_activations", ImportActivationsConfig(str(tmp_path / "x.npy"), "vectors"))
    config = short(model="", dataset="", activations="vectors", architecture="topk", layer=0)
    row = TRAININGS.get(studio.db(), run(studio, "train", config)["training"])
    held = x[VectorTable(3000, 0.05, config.order_seed).rows("evaluation")].astype(float)
    assert list(looks(studio, row.id)) == [20, STEPS]
    for step, figures in looks(studio, row.id).items():
        sae = sae_from_checkpoint(studio.paths.run(row.id) / "checkpoints" / f"step_{step:08d}")
        W_enc, b_enc, W_dec, b_dec = (
            t.double().numpy() for t in (sae.W_enc_DF, sae.b_enc_F, sae.W_dec_FO, sae.b_dec_O)
        )
        f = np.maximum((held - b_dec) @ W_enc + b_enc, 0)
        f[f < np.sort(f, axis=1)[:, [-config.k]]] = 0
        lost = np.square(held - f @ W_dec - b_dec).sum()
        ev = 1 - lost / np.square(held - held.mean(0)).sum()
        silent = (f == 0).all(0).mean()
        assert figures[:5] == pytest.approx((ev, (f > 0).sum(1).mean(), silent, 75, 75), rel=1e-4)
        # each vector is drawn by itself
        counts_RN = np.random.default_rng(0).multinomial(75, np.full(75, 1 / 75), size=1000)
        again = [held[np.repeat(np.arange(75), count)] for count in counts_RN]
        losses_N = np.square(held - f @ W_dec - b_dec).sum(1)
        drawn = [
            1 - count @ losses_N / np.square(x - x.mean(0)).sum()
            for count, x in zip(counts_RN, again, strict=True)
        ]
        assert figures[5:7] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), rel=1e-4)


def test_a_text_without_an_evaluation_part_is_trained_on_without(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = TokenStore.groups

    def none_held(store: TokenStore, part: str) -> list[RowGroup]:
        found = groups(store, part)
        if part != "evaluation":
            return found
        return [group._replace(rows=group.rows[:0]) for group in found]

    monkeypatch.setattr(TokenStore, "groups", none_held)
    report = RecordingReporter()
    result = run(studio, "train", short(), report)
    assert result["outcome"] == "completed"
    assert looks(studio, result["training"]) == {}
    kept = trainings.checkpoints(studio.db(), result["training"])
    assert [c.step for c in kept if c.is_best] == [min(kept, key=lambda c: c.loss or 9.9).step]
    assert "was not measured" not in str(report.events)


class AtPhase(SilentReporter):
    """Does something once when a job comes to a phase."""

    def __init__(self, phase: str, act: Callable[[], None]) -> None:
        self._phase, self._act = phase, act

    def progress(self, fraction: float, phase: str, **_rest: object) -> None:
        if self._phase in phase:
            self._phase = "none such"
            self._act()


def test_a_pause_while_held_out_text_is_read_costs_no_figure(studio: Studio) -> None:
    quiet = run(studio, "train", short())
    control = JobControl()
    job = studio.submit("train", short())
    asked = AtPhase("Reading held-out activations", control.pause)
    assert studio.execute(job, asked, control) == "paused"
    training = JOBS.get(studio.db(), job).target_id or ""
    assert looks(studio, training) == {}
    (first,) = trainings.checkpoints(studio.db(), training)
    assert (first.step, first.heldout_n) == (20, None)
    assert not list(studio.paths.home.glob("runs/*/evaluation"))
    studio.resume_training(training)
    assert studio.execute(job) == "completed"
    assert looks(studio, training) == looks(studio, quiet["training"])
    assert (JOBS.get(studio.db(), job).result or {})["weights_hash"] == quiet["weights_hash"]
    kept = trainings.checkpoints(studio.db(), training)
    assert all(c.heldout_n for c in kept), "the one of the pause got its figures after all"
    assert sum(c.is_best for c in kept) == 1


def test_rows_are_on_the_disk_before_their_checkpoint(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the order of what the database is told: a commit that waits for the disk, and only then
    the checkpoint."""
    said: list[str] = []
    saved = learner.save_checkpoint

    def save(folder: Path, checkpoint: Any) -> Path:
        steps = [row["step"] for row in trainings.metrics(studio.db(), folder.name)]
        said.append(f"checkpoint {checkpoint.step}, rows to {steps[-1]}")
        return saved(folder, checkpoint)

    monkeypatch.setattr(learner, "save_checkpoint", save)
    # whatever was gathered has been written before, as by the once-a-second writing
    told = training_reporter.TrainingReporter.metric

    def metric(reporter: Any, name: str, values: Any) -> None:
        told(reporter, name, values)
        reporter.flush()

    monkeypatch.setattr(training_reporter.TrainingReporter, "metric", metric)
    studio.db().conn.set_trace_callback(said.append)
    run(studio, "train", short())
    studio.db().conn.set_trace_callback(None)
    places = [place for place, what in enumerate(said) if what.startswith("checkpoint ")]
    assert [said[place] for place in places] == [
        f"checkpoint {step}, rows to {step}" for step in (20, STEPS)
    ]
    for place in places:
        before = said[:place]
        full = max(i for i, what in enumerate(before) if what == "PRAGMA synchronous=FULL")
        block = before[full : before.index("PRAGMA synchronous=NORMAL", full)]
        assert any(what.startswith("UPDATE trainings") for what in block)
        assert block[-1] == "COMMIT"
        assert not any(what.startswith("INSERT INTO training_metrics") for what in before[full:])
