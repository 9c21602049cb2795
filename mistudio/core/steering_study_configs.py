"""The settings of studies of steering: previews, dose-response and claims."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mistudio.core.config import Config, Violation, option
from mistudio.core.errors import StudioError

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
    seed: int = option(0, "Seed", "Choice of features and controls.", minimum=0, advanced=True)
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
