"""The settings of comparing two SAEs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mistudio.core.config import Config, Violation, option


@dataclass(frozen=True)
class CompareSaesConfig(Config):
    """Measure two SAEs of the same hook on the same held-out documents."""

    sae: str = option("", "A", "Id or name of an SAE.", required=True)
    other: str = option("", "B", "Id or name of another SAE of the same hook.", required=True)
    dataset: str = option(
        "", "Dataset", "Dataset or tokenisation; empty takes the one that A was trained on, else B."
    )
    tokens: int = option(
        200_000, "Tokens", "Most held-out tokens.", unit="tokens", minimum=1024, maximum=100_000_000
    )

    def check(self) -> Iterable[Violation]:
        if self.sae and self.sae == self.other:
            yield Violation("other", "Name two different SAEs.")
