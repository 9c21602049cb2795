"""What trainings read: a model and texts, or activations that are stored already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mistudio.core.errors import InUse, InvalidInput, Mismatch
from mistudio.core.listed_positions import check_positions
from mistudio.core.model_weights import WEIGHTS
from mistudio.core.training_configs import TrainConfig
from mistudio.jobs import lookup
from mistudio.jobs.context import JobContext
from mistudio.jobs.lent_model import LentModel
from mistudio.jobs.runner import Studio
from mistudio.jobs.same_model import Weights, weights_of
from mistudio.jobs.tokenize import for_training, share_of
from mistudio.store import trainings
from mistudio.store.records import ActivationSetRow, ModelRow, TokenizationRow, TrainingRow
from mistudio.store.tables import ACTIVATION_SETS, TOKENIZATIONS

if TYPE_CHECKING:
    import torch

    from mistudio.ml.activations.multi_capture import HookPoint
    from mistudio.ml.activations.readers import RowReader
    from mistudio.ml.data.row_table import RowTable
    from mistudio.ml.loading import LoadedModel


@dataclass(frozen=True)
class TrainingSource:
    """The rows of a training and where their activations come from.

    `model`, `lent` and `texts` are None and empty for vectors that were imported.
    """

    model: ModelRow | None
    lent: LentModel | None
    texts: list[tuple[TokenizationRow, float]]
    table: RowTable
    stored: ActivationSetRow | None
    device: torch.device
    weights: Weights = field(default_factory=dict[str, str])
    """what is known of the model's"""

    @property
    def loaded(self) -> LoadedModel | None:
        """The model, loaded again if it was let go."""
        return None if self.lent is None else self.lent.get()

    @property
    def origin(self) -> dict[str, Any]:
        """What a resume must find again."""
        found: dict[str, Any] = {}
        if self.model is not None:
            found["model"] = self.model.id
            found["tokenization"] = ",".join(text.id for text, _ in self.texts)
            found[WEIGHTS] = self.weights
        if self.stored is not None:
            found["activations"] = self.stored.id
        return found


def activation_set(studio: Studio, config: TrainConfig) -> ActivationSetRow | None:
    """The ready activation set that a config names, if it names one."""
    if not config.activations:
        return None
    row = ACTIVATION_SETS.named(studio.db(), config.activations)
    if row.status not in ("ready", "completed"):
        raise InUse(f"Activation set {row.name!r} is not ready ({row.status}).")
    return row


def open_source(
    ctx: JobContext, training: TrainingRow, config: TrainConfig, *, stays: bool = True
) -> TrainingSource:
    """Load the model and the texts of a training, which may have to be tokenised first.

    `stays` is whether the model may stay in memory while an SAE is trained.
    """
    from mistudio.ml.data.listed_rows import text_rows
    from mistudio.ml.data.token_store import TokenStore

    stored = activation_set(ctx.studio, config)
    if not config.model:
        assert stored is not None
        return vector_source(stored, config)
    model = lookup.model(ctx.studio, config.model)
    texts = _texts(ctx, training, model, config)
    check_positions(config.skipped, texts[0][0].context)
    ctx.report.progress(0.0, "loading the model")
    path, models = ctx.paths.absolute(model.path), ctx.studio.models
    lent = LentModel(models, lambda: models.get(model, path), stays=stays)
    stores = [TokenStore(ctx.paths.absolute(text.path or "")) for text, _ in texts]
    table = text_rows(stores, [weight for _, weight in texts], config.skipped)
    if stored is not None:
        _check_share(ctx, stored, config)
    if stored is not None and stored.tokenization_id not in (None, texts[0][0].id):
        raise Mismatch(
            f"Activation set {stored.name!r} was made from another text than the one chosen; "
            "choose the tokenisation it was made from."
        )
    weights = weights_of(model, lent.get())
    return TrainingSource(model, lent, texts, table, stored, lent.device, weights)


def check_no_positions(config: TrainConfig) -> None:
    """Raise `InvalidInput` if a config skips positions: bare vectors stand nowhere in a row."""
    if config.skipped:
        raise InvalidInput(
            "These vectors come without a text, so that none of them has a position to skip; leave "
            "the positions to skip empty.",
            code="invalid_config",
        )


def vector_source(stored: ActivationSetRow, config: TrainConfig) -> TrainingSource:
    """Vectors without a language model, of which the same are held out each time.

    Raises `InvalidInput` for a config that skips positions, which bare vectors have none of.
    """
    from mistudio.ml.data.row_table import VectorTable
    from mistudio.ml.device import choose_device

    check_no_positions(config)
    table = VectorTable(stored.n_tokens or 0, config.held_out_share / 100, config.order_seed)
    return TrainingSource(None, None, [], table, stored, choose_device())


def _texts(
    ctx: JobContext, training: TrainingRow, model: ModelRow, config: TrainConfig
) -> list[tuple[TokenizationRow, float]]:
    """The texts of a run: those it began with, else what its settings name."""
    begun = trainings.tokenizations_of(ctx.db, training.id)
    wanted = begun or config.mixture
    found = [
        (for_training(ctx, name, model, config.context, config.held_out_share), weight)
        for name, weight in wanted
    ]
    if not begun:
        for text, weight in found:
            trainings.use_dataset(ctx.db, training.id, text.id, weight)
    return found


def _check_share(ctx: JobContext, stored: ActivationSetRow, config: TrainConfig) -> None:
    """Raise `Mismatch` if stored activations are of a text that holds out another share."""
    text = TOKENIZATIONS.find(ctx.db, stored.tokenization_id or "")
    if text is not None and share_of(text) != config.held_out_share:
        raise Mismatch(
            f"Activation set {stored.name!r} was made from a text of which {share_of(text):g} % "
            "are held out; set Held-out share to that."
        )


def calibration_reader(
    source: TrainingSource, points: Sequence[HookPoint], ctx: JobContext
) -> RowReader:
    """Reads rows of every part: the model, or the stored vectors where there is none."""
    from mistudio.ml.activations.readers import SetReader

    if source.lent is not None:
        return source.lent.reader(points)
    return SetReader(_open_set(source, ctx), points, source.device)


def training_reader(
    source: TrainingSource, points: Sequence[HookPoint], ctx: JobContext, reader: RowReader
) -> RowReader:
    """Reads the rows to train on: from a stored set if one is named, else as `reader` does."""
    from mistudio.ml.activations.readers import stored_rows

    if source.stored is None or source.lent is None:
        return reader
    reader.rest()  # until what is held out is read
    return stored_rows(_open_set(source, ctx), source.table, points, source.device)


def _open_set(source: TrainingSource, ctx: JobContext) -> Any:
    from mistudio.ml.activations.shards import ActivationSet

    assert source.stored is not None
    return ActivationSet(ctx.paths.absolute(source.stored.path or ""))
