"""A training by several processes: the first owns the job, the others follow its orders.

The first one's job is that of a training by one process: it alone reads the database, writes rows,
checkpoints and the library entry, measures and evaluates. Once it knows what is to be trained, it
tells the others, which load the same model and texts by their paths, read their share of the rows,
take their share of each batch, and leave nothing behind.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio.core.config import from_dict, to_dict
from mistudio.core.control import JobControl, Request
from mistudio.core.errors import Cancelled, InvalidInput, StudioError
from mistudio.core.events import Reporter, SilentReporter
from mistudio.core.launch import Launch
from mistudio.core.training_configs import TrainConfig
from mistudio.jobs.checkpoints import STATISTICS
from mistudio.jobs.context import JobContext
from mistudio.jobs.loaded_models import LoadedModels
from mistudio.jobs.training_data import target_of
from mistudio.jobs.training_source import HELD_OUT, TrainingSource

if TYPE_CHECKING:
    from mistudio.ml.activations.multi_capture import HookPoint
    from mistudio.ml.activations.readers import RowReader
    from mistudio.ml.activations.windows import Feed
    from mistudio.ml.collective import Collective
    from mistudio.ml.data.row_table import RowTable
    from mistudio.ml.training.learner_terms import LearnerOptions

SHARED_VERBS = ("train", "train_resume")


def check_shared(arguments: argparse.Namespace) -> None:
    """Raise `InvalidInput` for a command that several processes cannot run together."""
    planned = getattr(arguments, "plan", False) or getattr(arguments, "probe", False)
    if getattr(arguments, "verb", "") not in SHARED_VERBS or planned:
        raise InvalidInput(
            "Of several processes only `mistudio train` and `mistudio train resume` make use; "
            "start this command without a launcher.",
            code="usage",
        )


class Crew:
    """The processes as the first one sees them."""

    def __init__(self, launch: Launch) -> None:
        """Waits for the others to be there."""
        from mistudio.ml.collective import ProcessGroup

        self.collective: Collective = ProcessGroup(launch)
        self._waiting = True  # whether the others still wait for what they are to do

    def control(self, inner: JobControl) -> JobControl:
        """A control that all of them read."""
        from mistudio.ml.training.ranks import SharedControl

        return SharedControl(inner, self.collective)

    def order(
        self,
        ctx: JobContext,
        source: TrainingSource,
        config: TrainConfig,
        folder: Path,
        feed: Feed,
        begun: Path | None,
        metadata: dict[str, Any],
    ) -> None:
        """Tell the others what is trained, on what, and from which checkpoint on."""
        model, stored = source.model, source.stored
        self._waiting = False
        self.collective.tell(
            {
                "config": to_dict(config),
                "folder": str(folder),
                "checkpoint": str(begun) if begun else None,
                "model": None
                if model is None
                else {
                    "model_id": model.id,
                    "name": model.name,
                    "path": str(ctx.paths.absolute(model.path)),
                    "form": model.format or "auto",
                    "allow_code": bool(model.trust_remote_code),
                },
                "texts": [
                    (str(ctx.paths.absolute(text.path or "")), weight)
                    for text, weight in source.texts
                ],
                "stored": str(ctx.paths.absolute(stored.path or "")) if stored else None,
                "stored_tokens": (stored.n_tokens or 0) if stored else 0,
                "points": [feed.point, feed.target],
                "origin": source.origin,
                "metadata": metadata,
            }
        )

    def close(self) -> None:
        """Let go of the others; those that got no order end too."""
        with contextlib.suppress(StudioError):  # one that is lost needs to be told nothing
            if self._waiting:
                self.collective.tell(None)
        self.collective.close()


def follow(launch: Launch, report: Reporter) -> int:
    """One of the other processes: wait for the order, train along; returns the exit status.

    Raises as a training does. Requests are the first process's to answer: signals are ignored once
    there is an order.
    """
    from mistudio.ml.collective import ProcessGroup

    collective = ProcessGroup(launch)
    try:
        order = collective.tell(None)
        if order is None:
            return 1
        with _deaf():
            _train_along(order, collective)
    finally:
        collective.close()
    return 0


@contextlib.contextmanager
def _deaf() -> Generator[None, None, None]:
    """A launcher passes Ctrl-C on to all; the first process makes a checkpoint and tells."""
    before = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _train_along(order: dict[str, Any], collective: Collective) -> None:
    from mistudio.ml.activations.stream import ActivationStream
    from mistudio.ml.activations.windows import Windows
    from mistudio.ml.training.learner import Learner
    from mistudio.ml.training.loop import train_together
    from mistudio.ml.training.ranks import SharedControl

    config = from_dict(TrainConfig, order["config"])
    control = SharedControl(JobControl(), collective)
    feed = _feed(order, config)
    reader, table = _rows(order, config, feed)

    def on_fill(_done: int, _rows: int) -> None:
        if control.requested() is not Request.NONE:
            raise Cancelled

    def on_failed(_number: int, error: StudioError) -> None:
        raise error

    with tempfile.TemporaryDirectory(prefix="mistudio-") as folder:
        windows = Windows(
            reader,
            table,
            [feed],
            window=config.window,
            seed=config.order_seed,
            mask_special=config.mask_special,
            shuffle=config.shuffle,
            folder=Path(folder),
            on_fill=on_fill,
            collective=collective,
        )
    # The files are mapped, and nameless from here on: not even a killed process leaves any.
    try:
        learner = Learner(
            config,
            ActivationStream(windows, 0, batch=config.batch),
            feed.statistics,
            Path(order["folder"]),
            SilentReporter(),
            control,
            reader.device,
            _options(order, feed, collective),
        )
        with contextlib.suppress(Cancelled):
            train_together([learner], control, lambda _number, _result: None, on_failed)
    finally:
        windows.close()


def _feed(order: dict[str, Any], config: TrainConfig) -> Feed:
    from mistudio.ml.activations.multi_capture import HookPoint
    from mistudio.ml.activations.statistics_file import load_statistics
    from mistudio.ml.activations.windows import Feed

    point, target = (HookPoint(*p) if p else None for p in order["points"])
    assert point is not None
    measured, of_target = (Path(order["folder"]) / file for file in STATISTICS)
    return Feed(
        point,
        load_statistics(measured),
        target,
        load_statistics(of_target) if target is not None else None,
        config.norm_cut,
    )


def _rows(order: dict[str, Any], config: TrainConfig, feed: Feed) -> tuple[RowReader, RowTable]:
    from mistudio.ml.activations.readers import LiveReader, SetReader, stored_rows
    from mistudio.ml.activations.shards import ActivationSet
    from mistudio.ml.data.row_table import MixedTokens, VectorTable
    from mistudio.ml.data.token_store import TokenStore
    from mistudio.ml.device import choose_device

    points: list[HookPoint] = sorted({p for p in (feed.point, feed.target) if p is not None})
    stored = ActivationSet(Path(order["stored"])) if order["stored"] else None
    if order["model"] is None:
        assert stored is not None
        table = VectorTable(order["stored_tokens"], HELD_OUT, config.order_seed)
        return SetReader(stored, points, choose_device()), table
    stores = [TokenStore(Path(path)) for path, _ in order["texts"]]
    weights = [weight for _, weight in order["texts"]]
    table: RowTable = stores[0] if len(stores) == 1 else MixedTokens(stores, weights)
    model = dict(order["model"])
    path = Path(model.pop("path"))
    loaded = LoadedModels().load(path=path, **model)
    if stored is not None:
        return stored_rows(stored, table, points, loaded.device), table
    return LiveReader(loaded, points), table


def _options(order: dict[str, Any], feed: Feed, collective: Collective) -> LearnerOptions:
    from mistudio.ml.training.learner_terms import LearnerOptions

    wanted = feed.target_statistics
    return LearnerOptions(
        resume_from=Path(order["checkpoint"]) if order["checkpoint"] else None,
        origin=order["origin"],
        target=None if wanted is None else target_of(wanted),
        metadata=order["metadata"],
        collective=collective,
    )
