"""How much memory a model takes in each format, and whether that fits."""

from __future__ import annotations

from collections.abc import Sequence

BYTES_PER_WEIGHT = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.0, "nf4": 0.5, "fp4": 0.5}
FORMATS = ("fp32", "bf16", "fp16", "int8", "nf4", "fp4")
"""concrete formats, the most exact first"""
QUANTISED = ("int8", "nf4", "fp4")
GREEN, YELLOW = 0.5, 0.75
"""shares of free memory up to which an estimate is green, and yellow"""
_MARGIN = 1.2  # for activations, buffers and what the allocator holds
_FIXED = 500_000_000


def estimate_bytes(linear_weights: int, other_weights: int, form: str) -> int:
    """Bytes needed to run a model: `linear_weights` are those of linear layers inside blocks.

    Embeddings, norms and the output matrix are `other_weights`; they stay in 16 bit when the
    linear layers are quantised.
    """
    other = 4.0 if form == "fp32" else 2.0
    weights = linear_weights * BYTES_PER_WEIGHT[form] + other_weights * other
    return round(weights * _MARGIN) + _FIXED


def level(needed: int, free: int) -> str:
    """ "green" below half of the free bytes, "yellow" up to three quarters of them, else "red"."""
    if needed < GREEN * free:
        return "green"
    return "yellow" if needed <= YELLOW * free else "red"


def recommended(
    linear_weights: int, other_weights: int, free: int, formats: Sequence[str] = FORMATS
) -> str:
    """The most exact of `formats` that is green in that much free memory, "" if none is."""
    for form in sorted(formats, key=FORMATS.index):
        if level(estimate_bytes(linear_weights, other_weights, form), free) == "green":
            return form
    return ""


def next_smaller(form: str) -> str:
    """The format to offer after running out of memory in `form`, "" after the smallest."""
    return {"fp32": "bf16", "bf16": "int8", "fp16": "int8", "int8": "nf4"}.get(form, "")
