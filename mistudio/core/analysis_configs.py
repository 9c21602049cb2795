"""The settings of analyses that run the model: ablation, own text, attribution."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mistudio.core.config import Config, Violation, option

ABLATION_MODES = ("zero", "mean", "resample")
MOST_TEXT_TOKENS = 1024


def _is_mean(config: AblateConfig) -> bool:
    return config.mode == "mean"


@dataclass(frozen=True)
class AblateConfig(Config):
    """Take a feature out of the model's stream and measure what changes; or every live one."""

    sae: str = option("last", "SAE", "Id or name of an SAE, or last.", required=True)
    feature: int = option(
        -1, "Feature", "Number of the feature; -1 measures every live one.", minimum=-1
    )
    mode: str = option(
        "zero",
        "Replace by",
        "What takes the place of the feature's activation: zero; its mean; resample: its own at "
        "the same position of another row, chosen by a hash.",
        choices=ABLATION_MODES,
    )
    mean_of: str = option(
        "all",
        "Mean of",
        "Over all tokens that count, or over those on which the feature is active.",
        choices=("all", "active"),
        applies=_is_mean,
    )
    windows: int = option(
        8, "Windows", "Top windows, and as many random ones.", minimum=2, maximum=64
    )
    window_tokens: int = option(
        64, "Window", "Tokens of a window.", unit="tokens", minimum=8, maximum=512
    )
    controls: int = option(
        19,
        "Controls",
        "Random features of like density and strength to compare with; with fewer than 19 no "
        "feature can be called selective.",
        minimum=0,
        maximum=199,
    )
    seed: int = option(
        0, "Seed", "Choice of random windows and controls.", minimum=0, advanced=True
    )
    anew: bool = option(
        False, "Compute again", "Measure again what is already kept.", advanced=True
    )

    def check(self) -> Iterable[Violation]:
        if self.mode != "mean" and self.mean_of != "all":
            yield Violation("mean_of", "Only the mode mean takes a mean.")
