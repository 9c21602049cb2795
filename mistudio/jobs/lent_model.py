"""A training's language model, which can be let go between two readings and is loaded again.

Where model and SAE do not fit into memory together, a window of activations is read with the model
there and used up without it (sae.md §6). It is loaded from its files in the format it had, so that
what is read is the same to the byte.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mistudio.jobs.loaded_models import LoadedModels

if TYPE_CHECKING:
    import numpy as np
    import torch

    from mistudio.ml.activations.multi_capture import HookPoint
    from mistudio.ml.activations.readers import LiveReader, RowReader, Take
    from mistudio.ml.data.row_table import RowTable
    from mistudio.ml.loading import LoadedModel


class LentModel:
    """Gives a model whenever it is asked for it; of one that does not stay, whoever asked keeps no
    reference."""

    def __init__(
        self, models: LoadedModels, load: Callable[[], LoadedModel], *, stays: bool = True
    ) -> None:
        """`load` has `models` load it; `stays` is whether there is room for it all the time."""
        self._models, self._load = models, load
        self.stays = stays
        self.held: LoadedModel | None = load()
        """the model unless it has been let go"""
        self.device: torch.device = self.held.device

    def get(self) -> LoadedModel:
        """The model. Raises as loading does where it has been let go."""
        if self.held is None:
            from mistudio.ml.training.random_states import random_states_kept

            with random_states_kept():  # what a loader draws is no part of the training
                self.held = self._load()
        return self.held

    def let_go(self) -> None:
        """Free its memory."""
        self.held = None
        self._models.unload()

    def reader(self, points: Sequence[HookPoint]) -> RowReader:
        """Reads these of it, whether it stays or not. Raises as `LiveReader` does."""
        from mistudio.ml.activations.readers import LiveReader

        return LiveReader(self.get(), points) if self.stays else LentReader(self, points)


class LentReader:
    """Reads as `LiveReader` does, with a model that is let go whenever the reader rests."""

    def __init__(self, model: LentModel, points: Sequence[HookPoint]) -> None:
        """Raises as `LiveReader` does."""
        self._model, self._asked = model, list(points)
        self._live: LiveReader | None = None
        live = self._opened()
        self.points: Sequence[HookPoint] = live.points
        self.widths: Sequence[int] = live.widths
        self.device: torch.device = live.device

    def read(self, table: RowTable, rows: np.ndarray, take: Take) -> None:
        """Loads the model if it was let go; raises as that and `LiveReader.read` do."""
        self._opened().read(table, rows, take)

    def holds(self, table: RowTable, rows: np.ndarray) -> np.ndarray:
        """Every row of a text."""
        import numpy as np

        return np.ones(len(rows), dtype=bool)

    def rest(self) -> None:
        """Let the model go."""
        self._live = None
        self._model.let_go()

    def _opened(self) -> LiveReader:
        from mistudio.ml.activations.readers import LiveReader

        if self._live is None:
            self._live = LiveReader(self._model.get(), self._asked)
        return self._live
