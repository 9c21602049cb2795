"""How a training ended: its SAE goes into the library and is measured, its row gets its state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mistudio.core.atomic import directory_bytes
from mistudio.core.control import Request
from mistudio.core.errors import Cancelled, StudioError
from mistudio.core.ids import now
from mistudio.jobs import evaluate, lookup
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.training_entry import add_to_library
from mistudio.jobs.training_source import TrainingSource
from mistudio.jobs.training_turn import TRAINED, Run
from mistudio.store.tables import TRAININGS

if TYPE_CHECKING:
    from mistudio.ml.activations.stream import ActivationStream
    from mistudio.ml.training.loop import TrainResult


_LEFT_OUT = {
    "special": "{:,} special tokens",
    "listed": "{:,} tokens at positions that are skipped",
    "norm": "{:,} tokens whose activations were far larger than usual",
    "non_finite": "{:,} tokens whose activations were not finite",
}
"""by the reasons of `ml.activations.masking`, padding apart"""


def keep(ctx: JobContext, source: TrainingSource, run: Run, result: TrainResult) -> None:
    """Take in how a training ended; its SAE goes into the library at once."""
    run.result = result
    if result.sae is None:
        ctx.held = True
        return
    run.report.write()
    TRAININGS.update(ctx.db, run.row.id, status="stopping")
    if run.sae is None or run.sae.checkpoint_step != result.step:  # it may be that of a stop
        run.sae = add_to_library(ctx, source, run.row, run.config, result)


def settle(ctx: JobContext, source: TrainingSource, run: Run) -> None:
    """Evaluate what was trained to its end, and give the row its last state."""
    result = run.result
    if result is None:
        TRAININGS.update(ctx.db, run.row.id, status="interrupted", progress=None)
        run.ended = True
        return
    due = result.outcome == "completed" and run.sae is not None and not run.sae.evaluation
    if due and not ctx.held:
        _evaluate(ctx, source, run)
    if ctx.held or run.sae is None:  # one that is done is evaluated when it, or others, go on
        share = 100.0 * result.step / result.steps
        TRAININGS.update(
            ctx.db, run.row.id, status="paused", current_step=result.step, progress=share
        )
        run.ended = True
        return
    TRAININGS.update(
        ctx.db,
        run.row.id,
        status="completed" if result.outcome == "completed" else "stopped",
        progress=None,
        current_step=result.step,
        tokens_seen=result.tokens,
        size_bytes=directory_bytes(run.folder),
        ended_at=now(),
    )
    run.ended = True


def _evaluate(ctx: JobContext, source: TrainingSource, run: Run) -> None:
    """Measure a finished SAE; whoever ends the job now keeps the SAE without figures.

    A pause leaves it to the next turn.
    """
    assert run.sae is not None
    try:
        figures = evaluate.measure_trained(ctx.part(TRAINED, 1.0), run.sae, source, run.config)
    except Cancelled:
        if ctx.control.requested() not in (Request.STOP, Request.CANCEL):
            ctx.held = True
            return
        run.report.note("The SAE is kept; its evaluation was left out.", level="warning")
        return
    except StudioError as error:
        run.report.note(f"The SAE is kept without figures: {error.sentence}", level="warning")
        return
    evaluate.keep(ctx.studio, run.sae, figures)


def told(ctx: JobContext, run: Run) -> Result:
    """What the job says of a run that ended its turn."""
    found = run.result
    assert found is not None
    result = {"training": run.row.id, "outcome": found.outcome, "steps": found.step}
    if run.sae is None:
        return result
    row = lookup.sae(ctx.studio, run.sae.id)
    evaluation = row.evaluation or {}
    return {
        **result,
        "sae": row.id,
        "tokens": found.tokens,
        "weights_hash": row.weights_hash,
        "train_seconds": found.seconds,
        "tokens_per_s": found.tokens / found.seconds if found.seconds else None,
        "explained_variance": evaluation.get("ev"),
        "l0": evaluation.get("l0"),
        "dead_fraction": evaluation.get("dead"),
        "ce_loss_score": evaluation.get("ce_loss_score"),
    }


def tell_left_out(run: Run, stream: ActivationStream) -> None:
    """How many tokens the masks kept from the training, for each reason."""
    if run.result is None or run.result.outcome == "paused":
        return
    counts = stream.counts
    told = [what.format(counts[why]) for why, what in _LEFT_OUT.items() if counts.get(why)]
    if told:
        run.report.note(f"Left out of what was read: {', '.join(told)}.")
