"""Whether a model read in pieces gives what it gives read whole; asked once for each model."""

from __future__ import annotations

import logging
from weakref import WeakKeyDictionary

import torch

from mistudio.core.errors import OutOfMemory
from mistudio.ml.loading import LoadedModel
from mistudio.ml.steering.forward import FedRow, Stepper
from mistudio.ml.steering.prompts import Prompt
from mistudio.ml.steering.sources import Library
from mistudio.ml.steering.steered_model import SteeredModel

log = logging.getLogger(__name__)

_TOLERANCE = 1e-3  # of the largest logit; half precision and quantised kernels round per shape
_HALF_TOLERANCE = 0.1
_LENGTHS = (5, 7)
_known: WeakKeyDictionary[object, bool] = WeakKeyDictionary()


def has_sound_cache(loaded: LoadedModel) -> bool:
    """Whether key-value cache, padding on the left and a prompt fed in parts change no logit.

    State-space models, for one, take a mask of another shape and give something else without a
    word; they are read whole in every step.
    """
    found = _known.get(loaded.model)
    if found is None:
        found = _known[loaded.model] = _check(loaded)
    return found


def _check(loaded: LoadedModel) -> bool:
    half = loaded.dtype != torch.float32 or loaded.format in ("int8", "nf4", "fp4")
    most = min(loaded.facts.vocab_size, 1000)
    prompts = [Prompt(tuple((7 + 13 * i) % most for i in range(n))) for n in _LENGTHS]
    rows = [FedRow(prompt) for prompt in prompts]
    with SteeredModel(loaded, {}, Library(), cached=False) as model:
        whole = [_logits(Stepper(model, [row]), max(_LENGTHS)) for row in rows]
    try:
        with SteeredModel(loaded, {}, Library(), cached=True) as model:
            parts = _logits(Stepper(model, rows), 3)
    except OutOfMemory:
        raise
    except Exception as error:  # noqa: BLE001  # models raise anything at a mask they do not expect
        log.info("%s is read without a cache: %s", loaded.facts.name, error)
        return False
    expected = torch.cat(whole)
    gap = float((parts - expected).abs().max() / expected.abs().max().clamp_min(1e-6))
    sound = gap <= (_HALF_TOLERANCE if half else _TOLERANCE)
    if not sound:
        log.info("%s is read without a cache: logits differ by %.3g", loaded.facts.name, gap)
    return sound


def _logits(stepper: Stepper, chunk: int) -> torch.Tensor:
    """Logits [B, 3, V] behind the prompts and two further tokens."""
    found = list(stepper.prompt_chunks(chunk))[-1:]
    found += [stepper(torch.full((len(stepper.rows), 1), token)) for token in (3, 5)]
    return torch.stack(found, 1)
