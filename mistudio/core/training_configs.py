"""The settings of training an SAE, and which of them apply to which architecture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mistudio.core.config import Config, Violation, option
from mistudio.core.configs import HOOKS

TOPK_FAMILY = ("batch_topk", "matryoshka_batch_topk", "topk")
DENSE_FAMILY = ("standard", "gated", "jumprelu")
ARCHITECTURES = (*TOPK_FAMILY, *DENSE_FAMILY)
JUMPRELU_PENALTIES = ("tanh", "step", "quadratic")
LEAST_NESTED = 32  # latents of a Matryoshka SAE


def _keeps_k(config: TrainConfig) -> bool:
    return config.architecture in TOPK_FAMILY


def _aims_at_k(config: TrainConfig) -> bool:
    return _keeps_k(config) or _is_quadratic(config)


def _is_dense(config: TrainConfig) -> bool:
    return config.architecture in DENSE_FAMILY


def _is_jumprelu(config: TrainConfig) -> bool:
    return config.architecture == "jumprelu"


def _is_quadratic(config: TrainConfig) -> bool:
    return _is_jumprelu(config) and config.jumprelu_penalty == "quadratic"


def _is_steered_to_l0(config: TrainConfig) -> bool:
    return _is_dense(config) and not _is_quadratic(config)


@dataclass(frozen=True)
class TrainConfig(Config):
    """Train one sparse autoencoder on the activations of one hook."""

    model: str = option("", "Model", "Id or name of a model.", required=True)
    dataset: str = option(
        "", "Dataset", "Id or name of a dataset or of a tokenisation.", required=True
    )
    architecture: str = option(
        "batch_topk",
        "Architecture",
        "topk keeps k latents per token; batch_topk keeps k per token on average over a batch; "
        "matryoshka_batch_topk does the same with nested dictionaries, the first 1/32, 3/32, 7/32 "
        "and 15/32 of the latents, that each reconstruct the input: general features come first. "
        "standard, gated and jumprelu are made sparse by a penalty, whose weight takes some "
        "hundred steps to find its target.",
        choices=ARCHITECTURES,
    )
    layer: int = option(
        0, "Layer", "Block whose activations are learnt; the first is 0.", minimum=0, maximum=511
    )
    hook: str = option(
        "resid_post",
        "Hook",
        "resid_post is the block's output, mlp_out and attn_out what the sublayer adds to it.",
        choices=HOOKS,
    )
    width: int = option(
        4096, "Latents", "Number of features to learn.", minimum=1, maximum=1_048_576
    )
    k: int = option(
        32,
        "k",
        "Features active per token: exactly with topk, else on average.",
        minimum=1,
        maximum=65_536,
        applies=_aims_at_k,
    )
    target_l0: float = option(
        32.0,
        "Target L0",
        "Features active per token that the penalty's weight is steered to; 0 leaves the weight as "
        "it is.",
        minimum=0.0,
        maximum=65_536.0,
        applies=_is_steered_to_l0,
    )
    tokens: int = option(
        2_000_000,
        "Length",
        "Tokens to train on; text is reused in a new order when it runs out.",
        unit="tokens",
        minimum=1,
        maximum=1_000_000_000_000,
    )
    seed: int = option(0, "Seed", "Start of every random choice.", minimum=0, maximum=2**31 - 1)
    name: str = option("", "Name", "How the SAE is called; empty makes one from the settings.")
    context: int = option(
        0,
        "Context",
        "Tokens per row when the dataset must be tokenised first; 0 uses its newest tokenisation "
        "for this model, or the default of tokenising.",
        unit="tokens",
        minimum=0,
        maximum=4096,
    )
    sparsity: float = option(
        0.0,
        "Sparsity weight",
        "Weight of the penalty, at the start if a target L0 is set; 0 takes 1, with tanh 5, and a "
        "tenth of that with a target.",
        minimum=0.0,
        maximum=1e6,
        applies=_is_dense,
        advanced=True,
    )
    jumprelu_penalty: str = option(
        "tanh",
        "Penalty",
        "tanh of the latents; step counts the active ones (needs far more tokens); quadratic asks "
        "each token for k active ones.",
        choices=JUMPRELU_PENALTIES,
        applies=_is_jumprelu,
        advanced=True,
    )
    bandwidth: float = option(
        0.0,
        "Bandwidth",
        "Width around a threshold in which it is taught, in units of the scaled input; 0 takes 2 "
        "for tanh, else 0.05.",
        minimum=0.0,
        maximum=100.0,
        applies=_is_jumprelu,
        advanced=True,
    )
    first_threshold: float = option(
        0.0,
        "First threshold",
        "Where thresholds begin; 0 takes 0.1 for tanh, else 0.01.",
        minimum=0.0,
        maximum=100.0,
        applies=_is_jumprelu,
        advanced=True,
    )
    ghost: bool = option(
        True,
        "Revive rare latents",
        "Pull latents that hardly fire back towards firing (ghost penalty).",
        applies=_is_dense,
        advanced=True,
    )
    batch: int = option(
        2048, "Batch", "Tokens per step.", unit="tokens", minimum=64, maximum=16_384, advanced=True
    )
    learning_rate: float = option(
        0.0,
        "Learning rate",
        "Adam's peak rate; 0 takes 0.0002 / sqrt(latents / 16384), at most 0.001.",
        minimum=0.0,
        maximum=0.1,
        advanced=True,
    )
    warmup_steps: int = option(
        -1,
        "Warm-up",
        "Steps of rising rate; -1 takes 1000, at most a tenth of the run.",
        unit="steps",
        minimum=-1,
        maximum=1_000_000,
        advanced=True,
    )
    decay_share: float = option(
        0.2,
        "Final decay",
        "Share of the run over which the rate falls linearly to 0.",
        minimum=0.0,
        maximum=1.0,
        advanced=True,
    )
    k_anneal: float = option(
        1.0,
        "k anneal",
        "Start with this many times k and come down over the first tenth; 1 is off.",
        minimum=1.0,
        maximum=10.0,
        applies=_keeps_k,
        advanced=True,
    )
    aux_k: int = option(
        -1,
        "Auxiliary k",
        "Dead latents that model what is left over; -1 takes half the model's width, 0 is off.",
        minimum=-1,
        maximum=65_536,
        applies=_keeps_k,
        advanced=True,
    )
    aux_weight: float = option(
        0.03125,
        "Auxiliary weight",
        "Weight of the auxiliary loss.",
        minimum=0.0,
        maximum=10.0,
        applies=_keeps_k,
        advanced=True,
    )
    dead_window: int = option(
        0,
        "Dead window",
        "A latent is dead after this many tokens without firing; 0 takes 10 million, "
        "or a tenth of a shorter run.",
        unit="tokens",
        minimum=0,
        maximum=1_000_000_000_000,
        advanced=True,
    )
    gradient_clip: float = option(
        1.0,
        "Gradient clip",
        "Largest gradient norm, in units of the loss before division by the variance.",
        minimum=1e-6,
        maximum=1e6,
        advanced=True,
    )
    mask_special: bool = option(
        True, "Mask special tokens", "Leave BOS, EOS and other special tokens out.", advanced=True
    )
    norm_cut: float = option(
        10.0,
        "Mask norms above",
        "Leave tokens out whose activation norm exceeds this many medians (attention sinks).",
        unit="× median",
        minimum=1.0,
        maximum=1e6,
        advanced=True,
    )
    window: int = option(
        262_144,
        "Shuffle window",
        "Tokens whose activations are shuffled together.",
        unit="tokens",
        minimum=1024,
        maximum=16_777_216,
        advanced=True,
    )
    checkpoint_every: int = option(
        1000,
        "Checkpoint every",
        "Steps between checkpoints; 0 writes only the last.",
        unit="steps",
        minimum=0,
        maximum=1_000_000,
        advanced=True,
    )
    eval_tokens: int = option(
        1_000_000,
        "Evaluation tokens",
        "Most held-out tokens of the final evaluation.",
        unit="tokens",
        minimum=1024,
        maximum=100_000_000,
        advanced=True,
    )

    @property
    def aim(self) -> str:
        """What decides how many latents are active, in short."""
        if _aims_at_k(self):
            return f"k {self.k:,}"
        return f"L0 {self.target_l0:g}" if self.target_l0 else "fixed penalty"

    def check(self) -> Iterable[Violation]:
        if _aims_at_k(self) and self.k > self.width:
            yield Violation("k", f"k is {self.k:,} but the SAE has {self.width:,} latents.")
        if _is_steered_to_l0(self) and self.target_l0 > self.width:
            yield Violation(
                "target_l0",
                f"Target L0 is {self.target_l0:,g} but the SAE has {self.width:,} latents.",
            )
        if self.architecture == "matryoshka_batch_topk" and self.width < LEAST_NESTED:
            yield Violation("width", f"A Matryoshka SAE needs at least {LEAST_NESTED} latents.")
        if self.window < self.batch:
            yield Violation("window", "The shuffle window must hold at least one batch.")


@dataclass(frozen=True)
class ResumeConfig(Config):
    """Go on with a paused or interrupted training from its newest checkpoint."""

    training: str = option("last", "Training", "Id of a training, or last.", required=True)
