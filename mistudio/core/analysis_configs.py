"""The settings of analyses that run the model: ablation, own text, attribution."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mistudio.core.config import Config, Violation, option
from mistudio.core.vector_configs import MOST_PROMPTS, READINGS

ABLATION_MODES = ("zero", "mean", "resample")
MOST_TEXT_TOKENS = 1024
LEAST_PROMPTS = 4  # of each list: a probe is fitted on one half and read on the other


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
        29,
        "Controls",
        "Random features of like density and strength to compare with; with fewer than 19 no "
        "feature can be called selective. Of features that are in no way special 29 call "
        "3.3 % selective, 24 call 4 %, 19 and 39 call 5 %.",
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


@dataclass(frozen=True)
class OwnTextConfig(Config):
    """Which features fire on a text of one's own."""

    sae: str = option("last", "SAE", "Id or name of an SAE, or last.", required=True)
    text: str = option(
        "", "Text", f"Text to read, at most {MOST_TEXT_TOKENS:,} tokens.", required=True
    )
    feature: int = option(
        -1, "Feature", "Feature whose value on each token is told too; -1: none.", minimum=-1
    )
    sort: str = option(
        "max",
        "Sort by",
        "Largest activation on the text, or the sum over its tokens.",
        choices=("max", "sum"),
    )
    limit: int = option(50, "Features", "Most features listed.", minimum=1, maximum=1000)
    least_density: float = option(
        0.0, "Least density", "Share of tokens, 0 to 1.", minimum=0.0, maximum=1.0
    )
    most_density: float = option(
        1.0, "Most density", "Share of tokens, 0 to 1.", minimum=0.0, maximum=1.0
    )
    per_token: int = option(
        5, "Per token", "Strongest features told of each token.", minimum=1, maximum=20
    )
    effects: str = option(
        "feature",
        "Direct effects",
        "Exact direct effects on the log-probability of the token that follows, direct path only: "
        "of the feature named; of every feature, which orders those of a token by it too; or none.",
        choices=("none", "feature", "every"),
    )

    def check(self) -> Iterable[Violation]:
        if self.least_density > self.most_density:
            yield Violation("least_density", "The least density is above the most.")


@dataclass(frozen=True)
class AttributeConfig(Config):
    """Why a next token: what every feature that fires on a text adds to it."""

    sae: str = option("last", "SAE", "Id or name of an SAE, or last.", required=True)
    text: str = option(
        "", "Text", f"Text to read, at most {MOST_TEXT_TOKENS:,} tokens.", required=True
    )
    position: int = option(
        -1,
        "After token",
        "The token after which the next one is asked about, the start token being 0; -1: the last.",
        minimum=-1,
    )
    token: str = option(
        "",
        "Next token",
        "The next token asked about, its first token if there are several; empty takes the "
        "model's likeliest.",
    )
    check_on: int = option(
        20,
        "Check on",
        "Features chosen by a hash that are also ablated exactly, which gives r; 0: none.",
        minimum=0,
        maximum=1000,
    )
    limit: int = option(50, "Features", "Most features listed.", minimum=1, maximum=1000)
    seed: int = option(0, "Seed", "Choice of the features checked.", minimum=0, advanced=True)
    feature: int = option(
        -1,
        "Feature",
        "Feature whose direct effect on the token that follows is told of every token; -1: none.",
        minimum=-1,
        advanced=True,
    )


@dataclass(frozen=True)
class FeatureLensConfig(Config):
    """Which tokens a feature's direction promotes and suppresses, with z-scores."""

    sae: str = option("last", "SAE", "Id or name of an SAE, or last.", required=True)
    feature: int = option(0, "Feature", "Number of the feature.", minimum=0)
    raw: bool = option(
        False,
        "Raw",
        "Decoder row times unembedding and nothing else; without, past the final norm's gain and "
        "centring, less the mean over the vocabulary.",
    )


@dataclass(frozen=True)
class AbsorptionConfig(Config):
    """How much of a concept other features carry in place of one that stands for it."""

    sae: str = option("last", "SAE", "Id or name of an SAE, or last.", required=True)
    feature: int = option(
        0, "Feature", "Number of the feature that stands for the concept.", minimum=0
    )
    positive: tuple[str, ...] = option(
        (), "Positive prompts", "Prompts that end with the concept.", required=True
    )
    negative: tuple[str, ...] = option(
        (), "Negative prompts", "Prompts like them that end without it.", required=True
    )
    also: tuple[str, ...] = option(
        (), "Also for the concept", "Numbers of other features that stand for it too."
    )
    read: str = option(
        "last",
        "Read",
        "The last token of each prompt, or the mean over its tokens; special tokens never count. "
        "Features are not linear, so that those of a mean are seldom what one wants.",
        choices=READINGS,
    )

    def check(self) -> Iterable[Violation]:
        for name in self.also:
            if not name.isdecimal():
                yield Violation("also", f"{name!r} is no number of a feature.")
        for name, prompts in (("positive", self.positive), ("negative", self.negative)):
            if len(prompts) > MOST_PROMPTS:
                yield Violation(name, f"At most {MOST_PROMPTS:,} prompts are read of each list.")
            elif 0 < len(prompts) < LEAST_PROMPTS:
                yield Violation(name, f"Each list needs at least {LEAST_PROMPTS} prompts.")
        both = set(self.positive) & set(self.negative)
        if both:
            yield Violation("negative", f"{min(both)!r} is in both lists.")

    @property
    def main(self) -> tuple[int, ...]:
        """The features that stand for the concept, without repeats."""
        return tuple(dict.fromkeys((self.feature, *map(int, self.also))))
