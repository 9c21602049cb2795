"""Checking a model's files by loading it once: what goes into its row, shared by three jobs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio.core.control import JobControl
from mistudio.core.errors import StudioError, Unsupported
from mistudio.core.events import Reporter
from mistudio.core.memory import QUANTISED
from mistudio.jobs.runner import Studio

if TYPE_CHECKING:
    from mistudio.ml.facts import ModelFacts
    from mistudio.ml.model_check import ModelCheck

LIMIT_S = 300.0


def check_files(
    studio: Studio,
    model_id: str,
    name: str,
    path: Path,
    form: str,
    report: Reporter,
    control: JobControl,
    *,
    allow_code: bool = False,
    keep: bool = True,
) -> dict[str, Any]:
    """Load a model, use it once, and return the values of its row, status "ready" among them.

    With `keep` it stays loaded afterwards in place of the one that was. A sentence is noted if
    another format than the wanted one had to be used. Raises the `StudioError` of what is wrong,
    `Cancelled`, and a `StudioError` with code "check_timeout" after 5 minutes.
    """
    from mistudio.ml.device import choose_device
    from mistudio.ml.loading import load_model
    from mistudio.ml.model_check import check_model

    end = time.monotonic() + LIMIT_S

    def step(phase: str, start: float, span: float) -> Callable[[float], None]:
        def tell(done: float) -> None:
            control.check()
            if time.monotonic() > end:
                raise StudioError(
                    f"Checking {name} took longer than {LIMIT_S / 60:.0f} minutes. Try a smaller "
                    "format, or try again while nothing else runs.",
                    code="check_timeout",
                )
            report.progress(start + span * done, phase)

        return tell

    loading = step("loading", 0.0, 0.8)
    loading(0.0)
    if keep:
        loaded = studio.models.load(model_id, name, path, form, allow_code=allow_code, step=loading)
    else:
        loaded = load_model(
            path, choose_device(studio.models.device), form, allow_code=allow_code, step=loading
        )
    if loaded.note:
        report.note(loaded.note, level="warning")
    try:
        found = check_model(loaded, step("checking hooks", 0.8, 0.2))
    except RuntimeError as error:
        # a kernel may refuse the shapes of this very model, which no probe can know
        if loaded.format not in QUANTISED:
            raise
        if keep:
            studio.models.unload()
        raise Unsupported(
            f"{loaded.format.upper()} does not work with the layers of {name} on this device. "
            "Choose another format.",
            details=str(error),
            code="format_failed",
        ) from error
    for reason in found.hooks_why.values():
        report.note(reason)
    if found.lens_why:
        report.note(f"Logit lens not available: {found.lens_why}")
    return ready_values(found)


def ready_values(found: ModelCheck) -> dict[str, Any]:
    """The row of a model that passed."""
    return {
        **_sizes(found.facts),
        "params_count": found.params,
        "format": found.format,
        "layer_map": found.layer_map(),
        "logit_lens_ready": not found.lens_why,
        "memory_bytes": found.memory_bytes,
        "status": "ready",
        "error_code": None,
        "error_message": None,
    }


def incompatible_values(path: Path, refusal: Unsupported) -> dict[str, Any]:
    """The row of a model that can be looked at, but not used.

    Raises `refusal` itself if the folder does not even hold sound weights.
    """
    from mistudio.ml.model_check import describe

    try:
        facts, tree = describe(path)
    except StudioError:
        raise refusal from None
    return {
        **_sizes(facts),
        "params_count": facts.params_count,
        "layer_map": {"tree": tree, "fingerprint": facts.fingerprint},
        "logit_lens_ready": False,
        "status": "incompatible",
        "error_code": refusal.code,
        "error_message": refusal.sentence,
    }


def is_incompatible(error: StudioError) -> bool:
    """Whether an error says that a model is of a kind that cannot be used, rather than broken."""
    from mistudio.ml.usable import INCOMPATIBLE

    return isinstance(error, Unsupported) and error.code in INCOMPATIBLE


def _sizes(facts: ModelFacts) -> dict[str, Any]:
    return {
        "architecture": facts.architecture,
        "num_layers": facts.num_layers,
        "hidden_dim": facts.hidden_dim,
        "num_heads": facts.num_heads,
        "num_kv_heads": facts.num_kv_heads,
        "vocab_size": facts.vocab_size,
        "max_positions": facts.max_positions,
        "architecture_config": facts.config,
    }
