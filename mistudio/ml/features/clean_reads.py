"""Clean passes over windows, kept within a budget while the model stays loaded."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

import torch

from mistudio.ml.evaluation.language_model_loss import LOGIT_ENTRIES
from mistudio.ml.features.rerun import Clean, Rerun
from mistudio.ml.features.text_windows import Windows

MOST_BYTES = 1 << 28


class Read(NamedTuple):
    """Windows with their clean pass: which tokens count, at which a prediction is scored [W, S].

    `logits_TV` are those of the scored positions in their order, where they are kept.
    """

    windows: Windows
    clean: Clean
    keep_BS: torch.Tensor
    scored_BS: torch.Tensor
    logits_TV: torch.Tensor | None = None

    def with_logits(self, rerun: Rerun) -> Read:
        """With the logits of its scored positions if they are not too many: for repeated use."""
        ends_TE = self.clean.end_BSE[self.scored_BS]
        vocabulary = rerun.loaded.facts.vocab_size
        if not rerun.ends_early or not 0 < len(ends_TE) * vocabulary <= LOGIT_ENTRIES:
            return self
        return self._replace(logits_TV=rerun.logits(ends_TE))

    def logits(self, rerun: Rerun, rows_T: torch.Tensor, columns_T: torch.Tensor) -> torch.Tensor:
        """Clean logits [T, V] at scored positions."""
        if self.logits_TV is None:
            return rerun.logits(self.clean.end_BSE[rows_T, columns_T])
        place_BS = self.scored_BS.flatten().cumsum(0).view(self.scored_BS.shape) - 1
        return self.logits_TV[place_BS[rows_T, columns_T]]

    @property
    def held_bytes(self) -> int:
        """Bytes of its tensors."""
        found: dict[int, int] = {}
        _count(list(self), found)
        return sum(found.values())


class KeptReads:
    """Reads by a key, the one used longest ago given up first."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most = most_bytes
        self._held: dict[Hashable, tuple[list[Read], int]] = {}

    def find(self, key: Hashable) -> list[Read] | None:
        """What is kept under a key."""
        if key not in self._held:
            return None
        self._held[key] = self._held.pop(key)
        return self._held[key][0]

    def keep(self, key: Hashable, reads: list[Read]) -> None:
        """Keep reads, unless they alone are more than the budget."""
        self._held.pop(key, None)
        size = sum(read.held_bytes for read in reads)
        if size > self._most:
            return
        while self._held and self.held_bytes + size > self._most:
            self._held.pop(next(iter(self._held)))
        self._held[key] = (reads, size)

    @property
    def held_bytes(self) -> int:
        """Bytes of all that is kept."""
        return sum(size for _, size in self._held.values())


def _count(thing: Any, found: dict[int, int]) -> None:
    """Bytes of every tensor's memory that is reached from a thing, by its address."""
    if isinstance(thing, torch.Tensor):
        storage = thing.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
    elif isinstance(thing, (list, tuple)):
        for part in thing:
            _count(part, found)
    elif isinstance(thing, dict):
        _count(list(thing.values()), found)
    elif hasattr(thing, "layers"):  # a key-value cache
        _count([vars(layer) for layer in thing.layers], found)
