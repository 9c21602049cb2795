"""What a training leaves in the database while it runs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from mistudio.core.atomic import directory_bytes
from mistudio.core.events import Reporter
from mistudio.core.ids import now
from mistudio.jobs.runner import Studio
from mistudio.store import trainings
from mistudio.store.connection import Db
from mistudio.store.records import TrainingRow
from mistudio.store.tables import TRAININGS


class TrainingReporter:
    """Keeps a run's metric rows, checkpoint rows and latest figures, written about once a second.

    Used from the job's thread only.
    """

    def __init__(self, inner: Reporter, studio: Studio, training: TrainingRow) -> None:
        self._inner = inner
        self._studio = studio
        self._training = training
        self._rows: list[Mapping[str, float | int | str | None]] = []
        self._written_at = time.monotonic()
        self._log = studio.paths.run(training.id) / "log.jsonl"

    @property
    def _db(self) -> Db:
        return self._studio.db()

    def progress(
        self, fraction: float, phase: str, *, rate: str = "", eta_s: float | None = None
    ) -> None:
        self._inner.progress(fraction, phase, rate=rate, eta_s=eta_s)
        if time.monotonic() - self._written_at >= 1.0:
            self.flush(progress=100.0 * fraction)

    def metric(self, name: str, values: Mapping[str, float | int | str | None]) -> None:
        self._inner.metric(name, {"training_id": self._training.id, **values})
        if name == "training":
            self._rows.append(values)

    def note(self, sentence: str, *, level: str = "info") -> None:
        self._inner.note(sentence, level=level)
        line = {"time": now(), "level": level, "text": sentence}
        with self._log.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")

    def partial(self, name: str, value: object) -> None:
        self._inner.partial(name, value)

    def flush(self, **also: Any) -> None:
        """Write what has gathered."""
        self._written_at = time.monotonic()
        rows, self._rows = self._rows, []
        if rows:
            trainings.add_metrics(self._db, self._training, rows)
            last = rows[-1]
            also.update(
                status="training",
                current_step=last["step"],
                tokens_seen=last["tokens"],
                latest_loss=last["loss"],
                latest_l0=last["l0"],
                latest_dead=last["dead"],
                latest_ev=last["explained_variance"],
            )
            self.mirror_checkpoints()
        if also:
            TRAININGS.update(self._db, self._training.id, **also)

    def mirror_checkpoints(self) -> None:
        """Make the checkpoint rows of the run say what is on the disk."""
        from mistudio.ml.training.checkpoint import list_checkpoints, read_values

        folder = self._studio.paths.run(self._training.id)
        known = {row.step: row for row in trainings.checkpoints(self._db, self._training.id)}
        found = {int(path.name.removeprefix("step_")): path for path in list_checkpoints(folder)}
        losses = {step: row.loss for step, row in known.items() if step in found}
        for step in sorted(found.keys() - known.keys()):
            values = read_values(found[step])
            losses[step] = values.get("loss")
            trainings.record_checkpoint(
                self._db,
                self._training.id,
                step,
                self._studio.paths.relative(found[step]),
                size_bytes=directory_bytes(found[step]),
                loss=values.get("loss"),
                l0=values.get("l0"),
                is_best=losses[step] is not None
                and losses[step] == min(v for v in losses.values() if v is not None),
            )
        if known.keys() - found.keys():
            trainings.forget_checkpoints(self._db, self._training.id, sorted(found))
