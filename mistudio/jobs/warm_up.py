"""Imports torch and what loading a model needs, in a worker's thread, without long holds.

The window's thread waits for the interpreter lock, which two things keep long while libraries are
imported: the linker (`preload_torch`) and full collections (`no_full_collection`). What is left are
many short turns.
"""

from __future__ import annotations

import importlib
import logging
import threading
from typing import TYPE_CHECKING

from mistudio.store.tables import JOBS
from mistudio.system.garbage import keep_more, no_full_collection
from mistudio.system.preload import preload_torch

if TYPE_CHECKING:
    from mistudio.jobs.runner import Studio

log = logging.getLogger(__name__)

# In the order of their use. The model's own module, of which each kind has one, comes with it.
TORCH = ("torch",)
TOKENIZERS = (
    *TORCH,
    "transformers",
    "transformers.models.auto.tokenization_auto",
    "mistudio.ml.loading",
)
HUB = ("mistudio.hub.client", "mistudio.hub.download")
MODELS = (*TOKENIZERS, "transformers.models.auto.modeling_auto", "transformers.modeling_utils")
_lock = threading.Lock()
_warm: set[str] = set()


def warm_up(modules: tuple[str, ...] = MODELS) -> None:
    """Import what of `modules` is not there yet; other threads that call it wait for that.

    What is missing is left to who needs it, whose error says so.
    """
    with _lock:
        if _warm.issuperset(modules):
            return
        if "torch" in modules:
            preload_torch()
        with no_full_collection():
            for name in modules:
                if name not in _warm and not _import(name):
                    break
            keep_more()
        _warm.update(modules)


def warm_up_for(studio: Studio, job_id: str) -> None:
    """`warm_up` with what the job needs: a download begins early and without torch's memory."""
    from mistudio.jobs.registry import JOB_KINDS

    ahead = JOB_KINDS[JOBS.get(studio.db(), job_id).kind].ahead
    if ahead:
        warm_up(MODELS if ahead == "tensors" else HUB)


def _import(name: str) -> bool:
    try:
        importlib.import_module(name)
    except Exception:  # a library may fail in any way, and its user tells of it
        log.warning("%s could not be imported ahead", name, exc_info=True)
        return False
    return True
