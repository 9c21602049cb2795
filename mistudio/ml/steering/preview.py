"""What the model would say next under a specification, soon enough to follow a slider."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import NamedTuple

from mistudio.core.steering_spec import Spec
from mistudio.ml.loading import LoadedModel
from mistudio.ml.steering import metrics
from mistudio.ml.steering.prompts import Prompt
from mistudio.ml.steering.replay import Replay
from mistudio.ml.steering.sources import Library, Place

SHOWN = 10


class Candidate(NamedTuple):
    """A possible next token and its probability."""

    token_id: int
    probability: float


class Preview(NamedTuple):
    """The next token after the prompt, unsteered and steered, most probable first.

    Divergences in nats, on that token's distribution. `movers` changed most. `acted` of
    `positions` tokens of the prompt were changed, by `ratio` (mean |Δ| / |x|), None if none was.
    """

    baseline: tuple[Candidate, ...]
    steered: tuple[Candidate, ...]
    movers: tuple[metrics.Mover, ...]
    kl: float
    reverse: float
    js: float
    acted: int
    positions: int
    ratio: float | None


class PreviewSession:
    """Keeps the clean pass of the current prompt, so that a moved slider costs only what follows.

    Another prompt or model makes a clean pass anew; another specification does not. One thread
    at a time: a second caller waits. Nothing else may run on the model meanwhile.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._replay: Replay | None = None

    def forget(self) -> None:
        """Let go of the model and what was read."""
        with self._lock:
            self._replay = None

    def show(
        self,
        loaded: LoadedModel,
        prompt: Prompt,
        spec: Spec,
        library: Library,
        norms: Mapping[Place, float] | None = None,
    ) -> Preview:
        """The next token under `spec`. Raises as `Replay.read`."""
        with self._lock:
            replay = self._replay
            if replay is None or replay.loaded is not loaded or replay.prompt != prompt:
                fresh = Replay(loaded, prompt)
                replay = fresh if replay is None else fresh.follow(replay)
                self._replay = replay
            ((_, told),) = replay.read({"steered": spec}, library, last=1, norms=norms)
        base_1V, steered_1V = told.base_TV, told.logits_TV
        found = metrics.divergences(base_1V, steered_1V)
        changed_S = told.ratio_S[told.ratio_S != 0]
        return Preview(
            tuple(Candidate(*pair) for pair in metrics.likeliest(base_1V, SHOWN)[0]),
            tuple(Candidate(*pair) for pair in metrics.likeliest(steered_1V, SHOWN)[0]),
            tuple(metrics.top_movers(base_1V, steered_1V, SHOWN)[0]),
            float(found.kl_T[0]),
            float(found.reverse_T[0]),
            metrics.jensen_shannon(base_1V, steered_1V)[0],
            told.acted,
            len(prompt.ids),
            float(changed_S.mean()) if len(changed_S) else None,
        )
