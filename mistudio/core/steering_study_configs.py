"""The settings of studies of steering: previews, dose-response and claims."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mistudio.core.config import Config, Violation, option
from mistudio.core.configs import SteerConfig
from mistudio.core.errors import InvalidInput, StudioError
from mistudio.core.steering_settings import needs_sae

NEUTRAL_PROMPT = "The most interesting thing about it is that"


@dataclass(frozen=True)
class ClaimConfig(Config):
    """Steer features and say for how many it does what their label says, beside controls."""

    sae: str = option("last", "SAE", "Id or name of an SAE, or last.", required=True)
    features: str = option(
        "", "Features", "Numbers such as 12,40; empty draws live ones with a label."
    )
    draw: int = option(50, "Draw", "Live features drawn if none are named.", minimum=1, maximum=500)
    prompt: str = option(NEUTRAL_PROMPT, "Prompt", "Text the model continues.", required=True)
    target_kl: float = option(
        0.5, "Target KL", "Mean KL that every feature is steered to.", unit="nats", minimum=0.001
    )
    controls: int = option(
        19,
        "Controls",
        "Random features of like density beside each; with fewer than 19 none is selective.",
        minimum=0,
        maximum=199,
    )
    control_texts: bool = option(
        True,
        "Texts of controls",
        "Controls write texts too, so that the share of the label's tokens and the feature's own "
        "activation have a p.",
        advanced=True,
    )
    means: bool = option(
        True, "Difference of means", "Also steer with the difference of means.", advanced=True
    )
    text_tokens: int = option(
        64,
        "Text",
        "Prompt and unsteered continuation on which strengths are measured.",
        unit="tokens",
        minimum=16,
        maximum=512,
        advanced=True,
    )
    strengths: int = option(
        16, "Strengths", "Read to find the target KL.", minimum=6, maximum=64, advanced=True
    )
    max_tokens: int = option(40, "New tokens", "Of each text.", minimum=8, maximum=512)
    samples: int = option(
        0,
        "Samples",
        "Texts of each variant drawn at temperature 0.7 beside the greedy one; the share of the "
        "label's tokens and the feature's own activation are then means over all of them.",
        minimum=0,
        maximum=63,
        advanced=True,
    )
    seed: int = option(
        0, "Seed", "Choice of features, controls and samples.", minimum=0, advanced=True
    )
    output: str = option(
        "", "Report", "File to write, .md or .json; empty writes none.", advanced=True
    )

    def check(self) -> Iterable[Violation]:
        from mistudio.core.index_ranges import parse_ranges

        if self.features:
            try:
                parse_ranges(self.features, 1 << 30)
            except StudioError as error:
                yield Violation("features", error.sentence)
        if self.output and not self.output.endswith((".md", ".json")):
            yield Violation("output", "The report must end in .md or .json.")


@dataclass(frozen=True)
class ControlsConfig(Config):
    """Test a kept run against random features with changes of the same length."""

    run: str = option("last", "Run", "Id of a steering run, or last.", required=True)
    variant: str = option("", "Variant", "Name of a variant of the run; empty takes the first.")
    controls: int = option(
        19,
        "Controls",
        "Random features of like density; p cannot be smaller than 1 / (controls + 1).",
        minimum=19,
        maximum=199,
    )
    words: str = option(
        "", "Words", "Whose tokens are looked for, as cat,dog; empty takes those of the label."
    )
    texts: bool = option(
        True,
        "Texts of controls",
        "Controls write texts too, so that what is found in texts has a p.",
        advanced=True,
    )
    means: bool = option(
        True, "Difference of means", "Also change along the difference of means.", advanced=True
    )
    max_tokens: int = option(
        40,
        "Tokens",
        "Of the unsteered continuation that is read, and of each text.",
        minimum=8,
        maximum=512,
    )
    seed: int = option(0, "Seed", "Choice of the controls.", minimum=0, advanced=True)


def _as_steered(name: str) -> Any:
    """The same option as in the settings of a run of steering."""
    known = SteerConfig.__dataclass_fields__[name]
    return field(default=known.default, metadata=known.metadata)


@dataclass(frozen=True)
class _Steered(Config):
    """What is steered and on which prompt, as in a run of steering."""

    sae: str = option(
        "last",
        "SAE",
        "Id or name of an SAE, or last; of no matter where only vectors steer.",
        required=True,
        applies=lambda config: needs_sae(config.steering()),
    )
    feature: tuple[str, ...] = option(
        (), "Feature", "N=VALUE[:OP], as of a run of steering. Repeat for several."
    )
    edit: tuple[str, ...] = _as_steered("edit")
    spec: str = _as_steered("spec")
    prompt: str = _as_steered("prompt")
    unit: str = _as_steered("unit")
    positions: str = _as_steered("positions")
    norm: str = _as_steered("norm")
    chat: bool = _as_steered("chat")

    def steering(self) -> SteerConfig:
        """The same as the settings of a run of steering."""
        names = ("sae", "feature", "edit", "spec", "prompt", "unit", "positions", "norm", "chat")
        return SteerConfig(**{name: getattr(self, name) for name in names})

    def check(self) -> Iterable[Violation]:
        yield from self.steering().check()


@dataclass(frozen=True)
class PreviewConfig(_Steered):
    """What the model would say next, unsteered and steered."""


@dataclass(frozen=True)
class DoseConfig(_Steered):
    """Effect against strength, read in one pass; or the strength for a wanted KL."""

    strengths: str = option(
        "0.125-4",
        "Strengths",
        "16 factors of the values from low to high, or some, as 0.5,1,2.",
        applies=lambda config: not config.target_kl,
    )
    target: str = option(
        "",
        "Target",
        "Words whose probability, in all their forms, is told beside the KL, as cat,dog.",
    )
    target_kl: float = option(
        0.0,
        "Target KL",
        "Find the strength for this mean KL instead; 0 is off.",
        unit="nats",
        minimum=0.0,
    )
    text_tokens: int = option(
        64,
        "Text",
        "Prompt and unsteered continuation that are read.",
        unit="tokens",
        minimum=8,
        maximum=512,
    )

    def check(self) -> Iterable[Violation]:
        yield from super().check()
        try:
            self.factors()
        except StudioError as error:
            yield Violation("strengths", error.sentence)

    def factors(self) -> list[float]:
        """The factors to read; raises `InvalidInput`."""
        match = re.fullmatch(r"\s*([\d.]+)\s*-\s*([\d.]+)\s*", self.strengths)
        try:
            found = [float(part) for part in match.groups() if part] if match else []
            listed = [] if match else [float(part) for part in self.strengths.split(",")]
        except ValueError:
            found, listed = [], []
        if len(found) == 2 and 0 < found[0] < found[1]:
            low, high = found
            return [low * (high / low) ** (n / 15) for n in range(16)]
        if not 1 <= len(listed) <= 64 or not all(math.isfinite(v) for v in listed):
            raise InvalidInput("Write 1 to 64 factors as 0.5,1,2, or a range as 0.125-4.")
        return listed
