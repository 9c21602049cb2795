"""The health of an SAE as a person reads it: figures with what they mean, and signs with advice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mistudio.core.sae_figures import FIGURES, is_number
from mistudio.core.units import EM_DASH, format_count, format_percent

Health = Mapping[str, Any]

FEW_TOKENS = 1_000_000  # fewer say little of rare features
MANY_DEAD = 0.10
MANY_DENSE = 0.02
MANY_DUPLICATES = 0.05
MANY_FREQUENT = 0.5  # above 1 % of tokens
MANY_SINGLE = 0.5
LITTLE_EXPLAINED = 0.7
LITTLE_RECOVERED = 0.9
LOW_ENCODER_COSINE = 0.3
L0_RATIO = 1.25  # between the text read and the held-out text
LENGTH_RATIO = 1.5  # between long and short decoder rows (quartiles)
HIGH_BIAS_COSINE = 0.3


class HealthLine(NamedTuple):
    """A figure: its name, its value as text, what it rests on, and what it means."""

    name: str
    value: str
    rests_on: str
    meaning: str


class Sign(NamedTuple):
    """Something that may be wrong: `level` warning or info, what was seen, and what to do."""

    level: str
    seen: str
    advice: str


def feature_lines(health: Health) -> list[HealthLine]:
    """Figures of the features, from the feature set and the weights."""
    shares, counts = health["shares"], health["counts"]
    of_all = f"{format_count(health['features'])} features"
    tokens = f"{format_count(health['n_tokens'])} tokens"
    bound = health["dead_bound"]

    def share(name: str) -> str:
        return f"{format_percent(shares[name], 2)} ({format_count(counts[name])})"

    rarer = "" if bound is None else f" Such a feature fires on less than {bound:.1e} of tokens."
    return [
        HealthLine(
            "Dead",
            share("dead"),
            tokens,
            "Share of all features that fired on none of these tokens."
            + rarer
            + " (3/N, 95 % confidence)",
        ),
        HealthLine(
            "Ultra-rare",
            share("ultra_rare"),
            tokens,
            "Share of all features that are live and fire on fewer than one token in a million.",
        ),
        HealthLine(
            "Above 1 %",
            share("above_1_percent"),
            tokens,
            "Share of all features that fire on more than one token in a hundred: seldom about one "
            "thing.",
        ),
        HealthLine(
            "Dense",
            share("dense"),
            tokens,
            "Share of all features that fire on more than one token in ten.",
        ),
        HealthLine(
            "Duplicates",
            share("duplicate"),
            of_all,
            "Share of all features whose decoder row has a cosine above 0.9 to another one's.",
        ),
        HealthLine(
            "Single-token",
            share("single_token"),
            f"{format_count(health['live'])} live",
            "Share of the live features whose strongest tokens are all one string: more than 90 % "
            "of the 50 strongest, or more than 75 % of a sample of the stronger half.",
        ),
        HealthLine(
            "L0, text read",
            EM_DASH if health["l0"] is None else f"{health['l0']:.2f}",
            tokens,
            "Mean number of active features per token of the feature set.",
        ),
    ]


def weight_lines(health: Health) -> list[HealthLine]:
    """Figures of the weights alone."""
    lines: list[HealthLine] = []
    for name, title, meaning in (
        (
            "encoder_cosine",
            "Enc.–dec. cosine",
            "Cosine of the direction that a feature reads with the one that it writes; median and "
            "quartiles.",
        ),
        ("norm", "Decoder length ‖d‖", "Length of decoder rows, in the model's units."),
        (
            "bias_product",
            "d · b_dec",
            "Decoder row times decoder bias: how far a feature writes along the mean activation.",
        ),
        ("bias_cosine", "Cosine of d and b_dec", "The same, whatever the lengths."),
        (
            "nearest_cosine",
            "Nearest row, cosine",
            "Largest cosine of a decoder row with any other one.",
        ),
    ):
        found = health[name]
        value, rests_on = EM_DASH, "not defined for this SAE"
        if found is not None:
            value = f"{found['median']:.3f} ({found['lower']:.3f} to {found['upper']:.3f})"
            rests_on = f"{format_count(found['n'])} features"
        lines.append(HealthLine(title, value, rests_on, meaning))
    return lines


def evaluation_lines(evaluation: Mapping[str, Any] | None) -> list[HealthLine]:
    """Figures of the SAE's kept evaluation on held-out text; empty without one."""
    found = evaluation or {}
    names = {"ev": "", "l0": "L0, held out", "ce_loss_score": "CE recovered"}
    names |= {"kl_div_score": "KL recovered"}
    lines: list[HealthLine] = []
    for key, name in names.items():
        figure = next(f for f in FIGURES if f.key == key)
        if not is_number(found.get(key)):
            continue
        intervals: Mapping[str, Any] = found.get("intervals") or {}
        interval = figure.interval(intervals.get(key))
        value = figure.text(float(found[key]))
        if interval != EM_DASH:
            value += f" ({interval})"
        rests_on = f"{format_count(found.get(figure.rests_on))} tokens"
        lines.append(HealthLine(name or figure.name, value, rests_on, figure.meaning))
    return lines


def signs(health: Health, evaluation: Mapping[str, Any] | None) -> list[Sign]:
    """What may be wrong with the SAE, the worst first; empty if nothing is seen."""
    found = [*_of_use(health), *_of_weights(health), *_of_evaluation(health, evaluation or {})]
    return sorted(found, key=lambda sign: sign.level != "warning")


def _of_use(health: Health) -> list[Sign]:
    shares, found = health["shares"], list[Sign]()
    few = health["n_tokens"] < FEW_TOKENS
    if shares["dead"] > MANY_DEAD:
        seen = f"{format_percent(shares['dead'])} of the features never fired"
        if few:
            advice = (
                "Read more rows before judging: on this little text rare features look dead. If "
                "it stays so, train longer, or with the auxiliary loss for dead latents."
            )
            found.append(
                Sign("info", seen + f" on {format_count(health['n_tokens'])} tokens.", advice)
            )
        else:
            advice = (
                "Train longer, with fewer latents, or with the auxiliary loss for dead latents (a "
                "lower sparsity coefficient for penalised architectures)."
            )
            found.append(Sign("warning", seen + ".", advice))
    if shares["dense"] > MANY_DENSE:
        found.append(
            Sign(
                "warning",
                f"{format_percent(shares['dense'])} of the features fire on more than a tenth of "
                "all tokens.",
                "Such features seldom stand for one thing. Lower k or raise the sparsity "
                "coefficient, and check that the input is centred (b_dec).",
            )
        )
    if shares["above_1_percent"] > MANY_FREQUENT:
        found.append(
            Sign(
                "info",
                f"{format_percent(shares['above_1_percent'])} of the features fire on more than "
                "one token in a hundred.",
                "The dictionary is narrow for its L0, so features are broad: more latents, or a "
                "smaller k, give narrower ones.",
            )
        )
    single = shares["single_token"]
    if single is not None and single > MANY_SINGLE:
        found.append(
            Sign(
                "info",
                f"{format_percent(single)} of the live features only tell one token.",
                "Usual at early layers and very small L0. For features about meaning use a later "
                "layer, a larger L0 or fewer latents.",
            )
        )
    if few:
        found.append(
            Sign(
                "info",
                f"The feature set rests on {format_count(health['n_tokens'])} tokens.",
                "Densities below 1 in "
                f"{format_count(health['n_tokens'] / 3)} cannot be told from dead; find the "
                "features again with more rows.",
            )
        )
    return found


def _of_weights(health: Health) -> list[Sign]:
    found = list[Sign]()
    if health["shares"]["duplicate"] > MANY_DUPLICATES:
        found.append(
            Sign(
                "warning",
                f"{format_percent(health['shares']['duplicate'])} of the features have a twin "
                "(decoder cosine above 0.9).",
                "The dictionary is wider than the data: use fewer latents or more text; with "
                "Matryoshka training twins are rarer.",
            )
        )
    cosine = health["encoder_cosine"]
    if cosine is not None and cosine["median"] < LOW_ENCODER_COSINE:
        found.append(
            Sign(
                "warning",
                f"The median encoder–decoder cosine is {cosine['median']:.2f}.",
                "Features read other directions than they write: often too little training or too "
                "high a learning rate. Judge a feature by steering, not by its examples alone.",
            )
        )
    norm = health["norm"]
    if norm is not None and norm["upper"] > LENGTH_RATIO * norm["lower"]:
        found.append(
            Sign(
                "info",
                f"Decoder rows differ in length (quartiles {norm['lower']:.2f} and "
                f"{norm['upper']:.2f}).",
                "Activations of different features are not comparable as they stand; compare "
                "activation × length.",
            )
        )
    bias = health["bias_cosine"]
    if bias is not None and abs(bias["median"]) > HIGH_BIAS_COSINE:
        found.append(
            Sign(
                "info",
                f"Half of the decoder rows have a cosine beyond {bias['median']:.2f} to b_dec.",
                "Features share the mean's direction: the input may not have been centred.",
            )
        )
    return found


def _of_evaluation(health: Health, evaluation: Mapping[str, Any]) -> list[Sign]:
    if not is_number(evaluation.get("ev")):
        return [
            Sign(
                "info",
                "This SAE was not evaluated on held-out text.",
                "Evaluate it in Training › SAE library (or `mistudio sae eval`): explained "
                "variance, CE and KL recovered then appear here.",
            )
        ]
    found = list[Sign]()
    if evaluation["ev"] < LITTLE_EXPLAINED:
        found.append(
            Sign(
                "warning",
                f"It explains {format_percent(evaluation['ev'])} of the variance of held-out text.",
                "Train longer, with more latents or a larger L0; for an imported SAE check model, "
                "layer and hook.",
            )
        )
    score = evaluation.get("ce_loss_score")
    if is_number(score) and float(score or 0.0) < LITTLE_RECOVERED:
        found.append(
            Sign(
                "warning",
                f"It recovers {format_percent(score)} of the language model's loss.",
                "What the features miss matters to the model: a larger L0 or more latents.",
            )
        )
    held_out, read = evaluation.get("l0"), health["l0"]
    if is_number(held_out) and read and held_out:
        ratio = max(read / float(held_out), float(held_out) / read)
        if ratio > L0_RATIO:
            found.append(
                Sign(
                    "warning",
                    f"L0 is {read:.1f} on the text read, {float(held_out):.1f} on held-out text.",
                    "The text of the feature set is unlike the training's: find the features on "
                    "similar text, or train on this one.",
                )
            )
    return found


def health_lines(health: Health, evaluation: Mapping[str, Any] | None) -> list[str]:
    """The whole report as text for a terminal."""
    out: list[str] = []
    for title, lines in (
        ("Features", feature_lines(health)),
        ("Weights", weight_lines(health)),
        ("Held-out text", evaluation_lines(evaluation)),
    ):
        if lines:
            out.append(title)
            out += [f"  {line.name:<26} {line.value:<30} {line.rests_on}" for line in lines]
    found = signs(health, evaluation)
    out.append("Signs" if found else "No bad sign was seen.")
    out += [f"  {sign.level}: {sign.seen} {sign.advice}" for sign in found]
    return out
