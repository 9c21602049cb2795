"""What an SAE is measured by: names, number formats and meanings, as both faces show them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from mistudio.core.units import EM_DASH, format_count

VARIANCE = "Reconstruction"
SPARSITY = "Sparsity"
LOSS = "Cost to the language model"
LATENTS = "Latents"
NO_MODEL = "These activations have no language model: cross-entropy and KL are not measured."
GROUPS = {
    VARIANCE: "How close the reconstruction comes to the activation. The variants of explained "
    "variance answer different questions: compare only figures of the same name.",
    SPARSITY: "How many latents describe a token.",
    LOSS: "What the model loses when it reads the reconstruction instead of its activation.",
    LATENTS: "How the latents are used.",
}

DENSITY_EDGES = tuple(-7 + 0.25 * place for place in range(29))
"""edges of the histogram of log10 firing density"""


class Figure(NamedTuple):
    """A metric as shown: its key in the evaluation, group, name, number format and meaning."""

    key: str
    group: str
    name: str
    digits: int
    meaning: str
    percent: bool = False
    scientific: bool = False

    def text(self, value: float, *, signed: bool = False) -> str:
        """The value as a person reads it; of a share, in per cent."""
        sign = "+" if signed else ""
        if self.percent:
            return f"{100 * value:{sign}.{self.digits}f} %"
        if self.scientific:
            return f"{value:{sign}.{self.digits}e}"
        return f"{value:{sign},.{self.digits}f}"

    def interval(self, bounds: Any, *, signed: bool = False) -> str:
        """Such as "0.80 to 0.82"; an em-dash without bounds."""
        if not bounds:
            return EM_DASH
        return " to ".join(self.text(float(bound), signed=signed) for bound in bounds[:2])

    @property
    def rests_on(self) -> str:
        """The key of the number of tokens behind it."""
        return "ce_n" if self.group == LOSS else "n"


FIGURES = (
    Figure(
        "ev",
        VARIANCE,
        "Explained variance",
        4,
        "1 − FVU: share of the variance about the mean that the SAE explains; 1 is perfect, and a "
        "constant error lowers it.",
    ),
    Figure(
        "fvu",
        VARIANCE,
        "Unexplained variance (FVU)",
        4,
        "Squared error over the variance about the mean, both pooled over all tokens.",
    ),
    Figure(
        "ev_legacy",
        VARIANCE,
        "EV, legacy",
        4,
        "Mean over tokens of 1 − squared error / squared distance to the mean of 2,048 tokens: "
        "the explained_variance_legacy of SAELens.",
    ),
    Figure(
        "ev_zero",
        VARIANCE,
        "EV about zero",
        4,
        "1 − squared error / squared length: higher than explained variance wherever activations "
        "have a large mean.",
    ),
    Figure(
        "fve_centred",
        VARIANCE,
        "EV, centred",
        4,
        "Explained variance without the mean error: blind to a constant error, as in "
        "dictionary_learning.",
    ),
    Figure(
        "nmse",
        VARIANCE,
        "Relative squared error",
        4,
        "Mean over tokens of squared error / squared length of the activation.",
    ),
    Figure(
        "mse",
        VARIANCE,
        "Mean squared error",
        5,
        "Squared error per token, summed over the width.",
    ),
    Figure(
        "cossim",
        VARIANCE,
        "Cosine similarity",
        4,
        "Mean cosine of activation and reconstruction.",
    ),
    Figure(
        "l2_ratio",
        VARIANCE,
        "Length ratio",
        4,
        "Mean of the reconstruction's length over the activation's.",
    ),
    Figure(
        "relative_reconstruction_bias",
        VARIANCE,
        "Reconstruction bias",
        4,
        "Mean squared length of the reconstruction over its mean product with the activation: 1 "
        "is unbiased, less is shrinkage.",
    ),
    Figure("l0", SPARSITY, "L0", 2, "Latents that are not zero per token, on average."),
    Figure("l0_p5", SPARSITY, "L0, 5th percentile", 0, "5 % of tokens have at most this L0."),
    Figure("l0_p50", SPARSITY, "L0, median", 0, "Half of the tokens have at most this L0."),
    Figure("l0_p95", SPARSITY, "L0, 95th percentile", 0, "95 % of tokens have at most this L0."),
    Figure("l1", SPARSITY, "L1", 3, "Sum of the latents' absolute values per token, on average."),
    Figure(
        "ce_loss_score",
        LOSS,
        "CE loss score",
        4,
        "Share of the loss recovered: 1 is the untouched model, 0 is zeros at the hook.",
    ),
    Figure("ce_gap", LOSS, "CE loss added", 4, "Cross-entropy with the SAE − without, in nats."),
    Figure(
        "kl_div_score",
        LOSS,
        "KL score",
        4,
        "1 − KL divergence with the SAE / with zeros at the hook, each from the untouched model.",
    ),
    Figure(
        "kl_div",
        LOSS,
        "KL divergence",
        4,
        "From the untouched model's predictions to those with the SAE, nats per token.",
    ),
    Figure("ce_clean", LOSS, "CE loss, model", 4, "Nats per token of the untouched model."),
    Figure(
        "ce_sae",
        LOSS,
        "CE loss, with the SAE",
        4,
        "Nats per token, the reconstruction in place of the activation.",
    ),
    Figure(
        "ce_zero",
        LOSS,
        "CE loss, zeros",
        4,
        "Nats per token, zeros in place of the activation at every position.",
    ),
    Figure(
        "dead",
        LATENTS,
        "Never fired",
        2,
        "Share of latents that were silent on all of these n tokens.",
        percent=True,
    ),
    Figure(
        "dead_bound",
        LATENTS,
        "Their firing rate is below",
        1,
        "3/n: a latent silent on n tokens fires more rarely than this, with 95 % confidence.",
        scientific=True,
    ),
    Figure(
        "density_below_1e-6",
        LATENTS,
        "Rarer than 1e-6",
        2,
        "Share of latents that fire on fewer than one token in a million, silent ones included.",
        percent=True,
    ),
    Figure(
        "density_below_1e-5",
        LATENTS,
        "Rarer than 1e-5",
        2,
        "Share of latents that fire on fewer than one token in 100,000, silent ones included.",
        percent=True,
    ),
    Figure(
        "density_above_1e-2",
        LATENTS,
        "More often than 1e-2",
        2,
        "Share of latents that fire on more than one token in a hundred.",
        percent=True,
    ),
    Figure(
        "density_above_1e-1",
        LATENTS,
        "More often than 1e-1",
        2,
        "Share of latents that fire on more than one token in ten.",
        percent=True,
    ),
    Figure(
        "enc_dec_cos",
        LATENTS,
        "Encoder-decoder cosine",
        4,
        "Mean cosine of a latent's encoder and decoder direction.",
    ),
    Figure(
        "consistent_activation_heuristic",
        LATENTS,
        "Consistent activation",
        3,
        "Firings of a latent per row of text in which it fires, mean over latents that fired.",
    ),
)


class Line(NamedTuple):
    """A figure that was measured, as texts: value, 95 % interval, tokens behind it."""

    figure: Figure
    value: str
    interval: str
    n: str


def measured(evaluation: Mapping[str, Any]) -> list[Line]:
    """Every figure that was measured, in the order of `FIGURES`."""
    intervals: Mapping[str, Any] = evaluation.get("intervals") or {}
    return [
        Line(
            figure,
            figure.text(evaluation[figure.key]),
            figure.interval(intervals.get(figure.key)),
            format_count(evaluation.get(figure.rests_on)),
        )
        for figure in FIGURES
        if is_number(evaluation.get(figure.key))
    ]


class Difference(NamedTuple):
    """A figure of two SAEs, as texts; the difference is the second's value less the first's."""

    figure: Figure
    first: str
    second: str
    difference: str
    interval: str
    sure: bool
    """whether the interval of the difference leaves 0 out"""


def differences(comparison: Mapping[str, Any]) -> list[Difference]:
    """Every figure of a comparison that both SAEs have."""
    found: list[Difference] = []
    for figure in FIGURES:
        line: Mapping[str, Any] = comparison["metrics"].get(figure.key) or {}
        if not is_number(line.get("difference")):
            continue
        bounds = line.get("interval")
        found.append(
            Difference(
                figure,
                figure.text(line["a"]),
                figure.text(line["b"]),
                figure.text(line["difference"], signed=True),
                figure.interval(bounds, signed=True),
                bool(bounds) and (bounds[0] > 0 or bounds[1] < 0),
            )
        )
    return found


def overlap_sentence(overlap: Mapping[str, Any]) -> str:
    """How the features of two SAEs overlap, in words."""
    if not is_number(overlap.get("mean_a")) or not is_number(overlap.get("mean_b")):
        return "One of the SAEs has no feature that fired."
    return (
        f"{100 * overlap['shared_a']:.1f} % of A's {overlap['latents_a']:,} features that fired "
        f"have one in B with a decoder cosine of at least {overlap['threshold']:g}, "
        f"{100 * overlap['shared_b']:.1f} % of B's {overlap['latents_b']:,} have one in A; "
        f"{overlap['pairs']:,} pairs are each other's nearest. Mean largest cosine: "
        f"{overlap['mean_a']:.3f} (A), {overlap['mean_b']:.3f} (B)."
    )


def is_number(value: Any) -> bool:
    """Whether a figure has a value that can be shown."""
    return isinstance(value, (int, float)) and math.isfinite(value)
