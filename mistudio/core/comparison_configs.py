"""The settings of comparing two SAEs, and an SAE on two formats of its model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mistudio.core.config import Config, Violation, option
from mistudio.core.model_configs import MODEL_FORMATS


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


@dataclass(frozen=True)
class SurvivalConfig(Config):
    """Which features of an SAE stay the same when its model is read in another format."""

    sae: str = option("last", "SAE", "Id or name, or last.", required=True)
    format: str = option(
        "",
        "Format",
        "The format to judge; empty takes that of the other model.",
        choices=("", *MODEL_FORMATS),
    )
    other: str = option(
        "",
        "Other model",
        "Model of the library that is the same network in other files; empty takes the SAE's own.",
    )
    reference: str = option(
        "",
        "Reference",
        "The format to judge against; empty takes the one that the SAE was trained for.",
        choices=("", *MODEL_FORMATS),
    )
    dataset: str = option(
        "", "Dataset", "Dataset or tokenisation; empty takes the one that the SAE was trained on."
    )
    tokens: int = option(
        100_000, "Tokens", "Most held-out tokens.", unit="tokens", minimum=64, maximum=100_000_000
    )
    min_firings: int = option(
        10,
        "Least firings",
        "Features that fire on fewer tokens in the reference are not judged.",
        minimum=2,
        maximum=1_000_000,
    )

    def check(self) -> Iterable[Violation]:
        if not self.format and not self.other:
            yield Violation("format", "Name the format to judge, or another model.")
