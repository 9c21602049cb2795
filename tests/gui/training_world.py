"""Rows as the Training tab finds them, without files, and a job that only reports."""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

from mistudio.core.config import to_dict
from mistudio.core.control import JobControl
from mistudio.core.events import Reporter
from mistudio.core.training_configs import TrainConfig
from mistudio.store import trainings
from mistudio.store.jobs import add_job
from mistudio.store.records import JobRow, SaeRow, TrainingRow
from mistudio.store.tables import DATASETS, JOBS, MODELS, SAES, TOKENIZATIONS, TRAININGS


class World(NamedTuple):
    """Ids of what every test finds in the library."""

    model: str
    dataset: str
    tokenization: str


def add_world(db: Any) -> World:
    """A ready model of 12 layers, two datasets, one tokenisation for the model."""
    model = MODELS.insert(
        db,
        name="gpt-tiny",
        origin="folder",
        path="/models/gpt-tiny",
        num_layers=12,
        hidden_dim=64,
        params_count=1_200_000,
        status="ready",
    )
    dataset = DATASETS.insert(db, name="tales", source="local", status="ready")
    DATASETS.insert(db, name="news", source="local", status="ready")
    tokenization = TOKENIZATIONS.insert(
        db,
        dataset_id=dataset.id,
        model_id=model.id,
        tokenizer_name="fingerprint",
        settings_hash="x",
        context=128,
        rows=40,
        tokens=5_120,
        status="ready",
    )
    return World(model.id, dataset.id, tokenization.id)


def add_training(
    db: Any, world: World, status: str = "training", **values: Any
) -> tuple[TrainingRow, JobRow]:
    """A run with its job in the state that goes with it."""
    config = TrainConfig(model=world.model, dataset=world.tokenization, width=256, k=8, layer=3)
    row = TRAININGS.insert(
        db,
        **{
            "name": f"run {status}",
            "encoder_type": "sae",
            "architecture": "batch_topk",
            "layer": 3,
            "hook": "resid_post",
            "config": to_dict(config),
            "model_id": world.model,
            "total_steps": 1000,
            "status": status,
            **values,
        },
    )
    trainings.use_dataset(db, row.id, world.tokenization)
    job = add_job(db, "train", "gpu", f"Train {row.name}", row.config, target_id=row.id)
    JOBS.update(db, job.id, status=JOB_STATES.get(status, "running"))
    return row, JOBS.get(db, job.id)


JOB_STATES = {
    "queued": "queued",
    "paused": "paused",
    "interrupted": "interrupted",
    "completed": "completed",
    "stopped": "completed",
    "failed": "failed",
}

EVALUATION = {
    "ev": 0.8123,
    "l0": 31.5,
    "ce_loss_score": 0.9312,
    "dead": 0.0156,
    "fvu": 0.1877,
    "kl_div_score": math.nan,
    "n": 10_000,
    "ce_n": 9_000,
    "intervals": {"ev": [0.80, 0.82], "l0": [31.0, 32.0], "ce_loss_score": [0.92, 0.94]},
    "density_histogram": [1, 3, 2],
    "density_histogram_edges": [-3.0, -2.0, -1.0, 0.0],
}


def add_sae(db: Any, world: World, name: str, **values: Any) -> SaeRow:
    """A library entry without files."""
    return SAES.insert(
        db,
        **{
            "name": name,
            "origin": "trained",
            "encoder_type": "sae",
            "architecture": "topk",
            "d_in": 64,
            "d_out": 64,
            "n_latents": 256,
            "path": f"saes/{name}",
            "model_id": world.model,
            "model_name": "gpt-tiny",
            "layer": 3,
            "hook_in": "resid_post",
            "size_bytes": 132_352,
            "status": "ready",
            **values,
        },
    )


def metric_row(training_id: str, step: int) -> dict[str, Any]:
    """What a training reports at a step: the loss falls as 1 / step."""
    return {
        "training_id": training_id,
        "step": step,
        "tokens": 64 * step,
        "loss": 100.0 / (100.0 + step),
        "l0": 8.0 + 1.0 / step,
        "dead": step % 7,
        "explained_variance": 1.0 - 100.0 / (100.0 + step),
        "tokens_per_s": 5_000.0,
    }


class ScriptedSource:
    """A queue of one job that reports a row of metrics per step as fast as it may for a while."""

    def __init__(self, job_id: str, training_id: str, seconds: float, pause: float) -> None:
        self.job_id, self.training_id = job_id, training_id
        self.seconds, self.pause = seconds, pause
        self.steps = 0
        self.requests: list[tuple[str, str]] = []
        self._taken = False

    def next_job(self, lane: str) -> str | None:
        if lane != "gpu" or self._taken:
            return None
        self._taken = True
        return self.job_id

    def execute(self, job_id: str, reporter: Reporter, control: JobControl) -> str:
        until = time.monotonic() + self.seconds
        while time.monotonic() < until:
            self.steps += 1
            reporter.metric("training", metric_row(self.training_id, self.steps))
            reporter.progress(self.steps / 1e6, "Training", rate="5,000 tokens/s", eta_s=60.0)
            if self.steps % 100 == 0:
                reporter.note(f"Step {self.steps} is done.")
            time.sleep(self.pause)  # the real loop lets go of the interpreter in every step
        return "completed"

    def request(self, job_id: str, request: str) -> None:
        self.requests.append((job_id, request))
