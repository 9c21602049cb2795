"""What an ablation changed, in words: tokens that lost and gained, and the places."""

from __future__ import annotations

from typing import NamedTuple

import torch

from mistudio.ml.features.effects import Change

TOKENS_SHOWN = 10
PLACES_SHOWN = 8
CONTEXT_SHOWN = 12  # tokens before a place


class TokenChange(NamedTuple):
    """A vocabulary entry and the mean change of its probability over the scored tokens."""

    token_id: int
    change: float


class Place(NamedTuple):
    """A position whose prediction changed: ids up to it, the true next id, probabilities."""

    before_ids: list[int]
    next_id: int
    activation: float
    kl: float
    probability: float
    probability_ablated: float


class Notes:
    """Collects which tokens lost and gained, and the places with the largest divergence."""

    def __init__(self) -> None:
        self._gained_V: torch.Tensor | None = None
        self._places: list[Place] = []

    def gained_V(self, logits_TV: torch.Tensor) -> torch.Tensor:
        """Sums of changes of probability, as wide as these logits."""
        if self._gained_V is None:
            width, device = logits_TV.shape[1], logits_TV.device
            self._gained_V = torch.zeros(width, dtype=torch.float64, device=device)
        return self._gained_V

    def add(
        self,
        ids_TS: torch.Tensor,
        columns_T: torch.Tensor,
        activation_T: torch.Tensor,
        change: Change,
    ) -> None:
        """Keep the strongest places among those known; `ids_TS` are their whole windows."""
        best = change.kl_T.topk(min(PLACES_SHOWN, len(change.kl_T))).indices
        p_T, q_T = (-change.loss_T).exp(), (-change.loss_other_T).exp()
        for index in best.tolist():
            at = int(columns_T[index])
            ids = ids_TS[index, max(0, at + 1 - CONTEXT_SHOWN) : at + 2].tolist()
            values = (float(v[index]) for v in (activation_T, change.kl_T, p_T, q_T))
            self._places.append(Place(ids[:-1], ids[-1], *values))
        self._places = sorted(self._places, key=lambda place: -place.kl)[:PLACES_SHOWN]

    def told(
        self, n: int
    ) -> tuple[tuple[TokenChange, ...], tuple[TokenChange, ...], tuple[Place, ...]]:
        """Tokens that lost most and gained most, per scored token, and the places."""
        if self._gained_V is None:
            return (), (), ()
        mean_V = self._gained_V / max(n, 1)
        count = min(TOKENS_SHOWN, len(mean_V))

        def listed(largest: bool) -> tuple[TokenChange, ...]:
            found = mean_V.topk(count, largest=largest)
            pairs = zip(found.indices.tolist(), found.values.tolist(), strict=True)
            return tuple(TokenChange(i, v) for i, v in pairs if (v > 0) == largest and v != 0)

        return listed(False), listed(True), tuple(self._places)
