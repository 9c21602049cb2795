"""What a plan of a training says, for whoever makes it and whoever shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mistudio.core.units import format_bytes, format_count


@dataclass(frozen=True)
class Item:
    """One part of the memory."""

    name: str
    bytes: int
    note: str = ""


@dataclass(frozen=True)
class Proposal:
    """A change after which it fits; `changes` are settings by name, `layers` how many to keep."""

    sentence: str
    total: int
    changes: Mapping[str, Any]
    layers: int = 0


@dataclass(frozen=True)
class Rates:
    """What a probe has measured: seconds of one step of each member, tokens/s of the model and of
    measuring each finished SAE on held-out activations."""

    step_s: tuple[float, ...]
    forward_tokens_per_s: float
    forward_bytes: int = 0
    measured_tokens_per_s: tuple[float, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What a training takes. The items add up to `total`, the peak."""

    items: tuple[Item, ...]
    total: int
    free: int
    window: int
    """bytes of the window's file in the page cache, which the system takes back when it must"""
    disk: int
    disk_free: int
    tokens: int
    steps: int
    seconds: float
    measured: bool
    """whether the time rests on a probe"""
    saes: int
    verdict: str
    """fits, warn or refuse"""
    proposals: tuple[Proposal, ...]
    summary: str
    refusal: str = ""
    """the sentence that says why it cannot start"""
    pieces: int = 0
    """tokens of a batch that are worked on at a time because whole batches do not fit, else 0"""
    whole: int = 0
    """what the peak would be with whole batches and the model there all the time"""
    loads: int = 0
    """how often the model is loaded because it and the SAE do not fit together, 0: once"""

    @property
    def alternates(self) -> bool:
        """Whether the model is let go while an SAE is trained."""
        return self.loads > 0

    @property
    def alternating(self) -> str:
        """The sentence that says so, "" if it stays."""
        if not self.alternates:
            return ""
        return (
            "The model is in memory only while activations are read, and let go while the SAE is "
            f"trained: together they would need {format_bytes(self.whole)}, "
            f"{format_bytes(self.free)} are free. It is loaded {format_count(self.loads)} times."
        )

    @property
    def in_pieces(self) -> str:
        """The sentence that says how batches are worked on that do not fit, "" if they do."""
        if not self.pieces:
            return ""
        pieces = f"{format_count(self.pieces)} tokens whose gradients are added up"
        if self.alternates:
            return f"Batches go in pieces of {pieces}."
        return (
            f"Batches go in pieces of {pieces}: whole ones would need {format_bytes(self.whole)}, "
            f"{format_bytes(self.free)} are free."
        )

    @property
    def share(self) -> float:
        """Of the free memory."""
        return self.total / max(1, self.free)
