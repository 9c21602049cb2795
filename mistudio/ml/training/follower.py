"""Follows an SAE in training on held-out tokens, without changing a bit of the training."""

from __future__ import annotations

from typing import Any

from mistudio.core import held_out_looks
from mistudio.core.control import JobControl, Request
from mistudio.core.errors import Cancelled, StudioError, means_out_of_memory
from mistudio.core.events import Reporter
from mistudio.ml.evaluation.held_out import HeldRows, measure_held
from mistudio.ml.training.finished import folded
from mistudio.ml.training.run_state import RunState


class Follower:
    """Measures what a checkpoint of a run would give, and tells it as a metric row "held_out".

    One look takes what encoding the tokens and summing in float64 take: with 32,768 of them as long
    as 24 steps of 2,048 tokens (measured on a processor: width 576, 4,608 latents), so 2.4 % of
    1,000 steps; drawing 1,000 documents adds a tenth of a second. Reading the tokens, once in a
    turn, takes a pass of the model over them. In memory it is the finished SAE beside the one that
    learns, as at the end of the run, and sums of the documents.
    """

    def __init__(self, rows: HeldRows | None, report: Reporter, control: JobControl | None) -> None:
        """Without `rows` nothing is measured. Requests of `control` end a look; several processes
        give none, as the others would wait in vain for the step that follows."""
        self._rows, self._report, self._control = rows, report, control

    def measure(self, run: RunState) -> dict[str, Any] | None:
        """What `measure_held` says of the SAE after the last step; None where nothing is held out.

        Without room or memory for it the training goes on, with a note. Raises `Cancelled` if
        something is asked of the job.
        """
        if self._rows is None:
            return None
        try:
            sae = folded(run).to(run.sae.device)
            found = measure_held(sae, self._rows(), self._heed)
        except (StudioError, RuntimeError, MemoryError) as error:
            if not isinstance(error, StudioError) and not means_out_of_memory(error):
                raise
            why = error.sentence if isinstance(error, StudioError) else "Memory ran out."
            self._report.note(
                f"Step {run.step:,} was not measured on held-out text: {why}", level="warning"
            )
            return None
        if found is not None:
            row = {"step": run.step, "tokens": run.tokens, **held_out_looks.row_of(found)}
            self._report.metric("held_out", row)
            self._report.note(held_out_looks.sentence(run.step, found))
        return found

    def _heed(self) -> None:
        if self._control is not None and self._control.requested() is not Request.NONE:
            raise Cancelled
