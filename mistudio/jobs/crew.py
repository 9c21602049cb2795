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
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio.core.config import from_dict, to_dict
from mistudio.core.control import JobControl, Request
from mistudio.core.errors import Cancelled, DiskFull, InvalidInput, StudioError, TrainingBroke
from mistudio.core.events import Reporter, SilentReporter
from mistudio.core.launch import Launch
from mistudio.core.training_configs import TrainConfig
from mistudio.jobs.context import JobContext
from mistudio.jobs.lent_model import LentModel
from mistudio.jobs.loaded_models import LoadedModels
from mistudio.jobs.training_data import target_of
from mistudio.jobs.training_source import TrainingSource
from mistudio.jobs.training_starts import STATISTICS

if TYPE_CHECKING:
    from mistudio.ml.activations.multi_capture import HookPoint
    from mistudio.ml.activations.readers import RowReader
    from mistudio.ml.activations.stream import ActivationStream
    from mistudio.ml.activations.windows import Feed
    from mistudio.ml.collective import Collective
    from mistudio.ml.data.row_table import RowTable
    from mistudio.ml.training.learner import Learner

SHARED_VERBS = ("train", "train_resume", "train_continue", "sweep")
ALIKE = (TrainingBroke, InvalidInput)  # what breaks an SAE in every process at the same step


@dataclass(frozen=True)
class Share:
    """One SAE that all processes train: its settings and files, which feed it reads, where it goes
    on from, what it is to carry."""

    config: TrainConfig
    folder: Path
    feed: int
    begun: Path | None
    metadata: dict[str, Any]


def ends_all(error: StudioError) -> bool:
    """Whether what broke one of several SAEs broke it in one process only, so that the others would
    wait for that process in vain. A full disk is met by the first one, after its last step."""
    return not isinstance(error, (*ALIKE, DiskFull))


def check_shared(arguments: argparse.Namespace) -> None:
    """Raise `InvalidInput` for a command that several processes cannot run together."""
    planned = getattr(arguments, "plan", False) or getattr(arguments, "probe", False)
    if getattr(arguments, "verb", "") not in SHARED_VERBS or planned:
        raise InvalidInput(
            "Of several processes only `mistudio train`, with its `resume` and `continue`, and "
            "`mistudio sweep` make use; start this command without a launcher.",
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
        feeds: Sequence[tuple[Feed, Path]],
        shares: Sequence[Share],
    ) -> None:
        """Tell the others what is trained, on what, and from which checkpoints on; each feed with
        the folder of a run that holds its statistics."""
        model, stored = source.model, source.stored
        self._waiting = False
        self.collective.tell(
            {
                "feeds": [[feed.point, feed.target, str(folder)] for feed, folder in feeds],
                "shares": [
                    {
                        "config": to_dict(share.config),
                        "folder": str(share.folder),
                        "feed": share.feed,
                        "checkpoint": str(share.begun) if share.begun else None,
                        "metadata": share.metadata,
                    }
                    for share in shares
                ],
                "model": None
                if model is None
                else {
                    "model_id": model.id,
                    "name": model.name,
                    "path": str(ctx.paths.absolute(model.path)),
                    "form": model.format or "auto",
                    "allow_code": bool(model.trust_remote_code),
                },
                "stays": source.lent is None or source.lent.stays,
                "texts": [
                    (str(ctx.paths.absolute(text.path or "")), weight)
                    for text, weight in source.texts
                ],
                "stored": str(ctx.paths.absolute(stored.path or "")) if stored else None,
                "stored_tokens": (stored.n_tokens or 0) if stored else 0,
                "origin": source.origin,
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
    from mistudio.ml.training.loop import train_together
    from mistudio.ml.training.ranks import SharedControl

    configs = [from_dict(TrainConfig, share["config"]) for share in order["shares"]]
    first = configs[0]  # all share what says which rows are read, and how
    control = SharedControl(JobControl(), collective)
    feeds = [_feed(told, first.norm_cut) for told in order["feeds"]]
    reader, table = _rows(order, first, feeds)

    def on_fill(_done: int, _rows: int) -> None:
        if control.requested() is not Request.NONE:
            raise Cancelled

    def on_failed(_number: int, error: StudioError) -> None:
        if len(configs) == 1 or ends_all(error):
            raise error

    with tempfile.TemporaryDirectory(prefix="mistudio-") as folder:
        windows = Windows(
            reader,
            table,
            feeds,
            window=first.window,
            seed=first.order_seed,
            mask_special=first.mask_special,
            shuffle=first.shuffle,
            folder=Path(folder),
            on_fill=on_fill,
            collective=collective,
        )
    # The files are mapped, and nameless from here on: not even a killed process leaves any.
    try:
        learners: list[Learner] = []
        for config, share in zip(configs, order["shares"], strict=True):
            stream = ActivationStream(windows, share["feed"], batch=config.batch)
            learners.append(_learner(order, share, config, stream, control, reader, collective))
        with contextlib.suppress(Cancelled):
            train_together(learners, control, lambda _number, _result: None, on_failed)
    finally:
        windows.close()


def _learner(
    order: dict[str, Any],
    share: dict[str, Any],
    config: TrainConfig,
    stream: ActivationStream,
    control: JobControl,
    reader: RowReader,
    collective: Collective,
) -> Learner:
    from mistudio.ml.activations.statistics_file import load_statistics
    from mistudio.ml.training.learner import Learner
    from mistudio.ml.training.learner_terms import LearnerOptions

    folder = Path(share["folder"])
    measured, of_target = (folder / file for file in STATISTICS)
    is_sae = config.encoder == "sae"
    options = LearnerOptions(
        resume_from=Path(share["checkpoint"]) if share["checkpoint"] else None,
        origin=order["origin"],
        target=None if is_sae else target_of(load_statistics(of_target)),
        metadata=share["metadata"],
        collective=collective,
    )
    return Learner(
        config,
        stream,
        load_statistics(measured),
        folder,
        SilentReporter(),
        control,
        reader.device,
        options,
    )


def _feed(told: list[Any], norm_cut: float) -> Feed:
    """A feed from its point, its target and the folder of its statistics."""
    from mistudio.ml.activations.multi_capture import HookPoint
    from mistudio.ml.activations.statistics_file import load_statistics
    from mistudio.ml.activations.windows import Feed

    point, target, folder = told
    measured, of_target = (Path(folder) / file for file in STATISTICS)
    return Feed(
        HookPoint(*point),
        load_statistics(measured),
        HookPoint(*target) if target else None,
        load_statistics(of_target) if target else None,
        norm_cut,
    )


def _rows(
    order: dict[str, Any], config: TrainConfig, feeds: Sequence[Feed]
) -> tuple[RowReader, RowTable]:
    from mistudio.ml.activations.readers import SetReader, stored_rows
    from mistudio.ml.activations.shards import ActivationSet
    from mistudio.ml.data.listed_rows import text_rows
    from mistudio.ml.data.row_table import VectorTable
    from mistudio.ml.data.token_store import TokenStore
    from mistudio.ml.device import choose_device

    points: list[HookPoint] = sorted(
        {p for feed in feeds for p in (feed.point, feed.target) if p is not None}
    )
    stored = ActivationSet(Path(order["stored"])) if order["stored"] else None
    if order["model"] is None:
        assert stored is not None
        table = VectorTable(order["stored_tokens"], config.held_out_share / 100, config.order_seed)
        return SetReader(stored, points, choose_device()), table
    stores = [TokenStore(Path(path)) for path, _ in order["texts"]]
    table = text_rows(stores, [weight for _, weight in order["texts"]], config.skipped)
    model = dict(order["model"])
    path, models = Path(model.pop("path")), LoadedModels()
    lent = LentModel(models, lambda: models.load(path=path, **model), stays=order["stays"])
    if stored is not None:
        return stored_rows(stored, table, points, lent.device), table
    return lent.reader(points), table
